"""Converts the image modes of Pillow to 8 bits per channel.

| mode | conversion |
| --- | --- |
| 1, L, P, RGB, RGBX, CMYK, YCbCr, HSV | Pillow's conversion to RGB; colour profiles are not applied |
| LA, PA, RGBA | alpha is dropped; transparent colours are ignored |
| La, RGBa | colours are divided by alpha, which is then dropped |
| I;16, I;16L, I;16B, I;16N | the high byte of 16 bits; TIFF of 9 to 15 bits by the 8 highest |
| I of PNG and PGM, whose range is 16 bits | the high byte of 16 bits |
| I of other formats, F, LAB, others | refused by name: their range or colour space is not known |

The EXIF orientation is applied. Of several frames the first is read.
"""

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]

CONVERSION_VERSION = 2
"""Raised when a conversion changes, so that the cache of decoded images is not used."""
DIRECT_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LA", "PA", "RGBA")
PREMULTIPLIED_MODES = {"La": "LA", "RGBa": "RGBA"}
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""Formats whose images of mode I have the range of 16 bits."""
ORIENTATION_TAG = 0x0112
BITS_PER_SAMPLE_TAG = 258


def rgb_pixels(image: "Image.Image") -> Pixels:
    """Returns the first frame as uint8 [H, W, 3], upright. Raises ValueError for a mode without a conversion."""
    image.load()  # Pillow applies the orientation of TIFF here, and removes it from the metadata
    converted = _to_8_bits(image)
    if (transposition := _transposition(image)) is not None:
        converted = converted.transpose(transposition)
    return np.asarray(converted)


def _to_8_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode in DIRECT_MODES:
        return image.convert("RGB")
    if image.mode in PREMULTIPLIED_MODES:
        return image.convert(PREMULTIPLIED_MODES[image.mode]).convert("RGB")
    if image.mode in DEEP_MODES or (image.mode == "I" and image.format in SIXTEEN_BIT_FORMATS):
        high = np.asarray(image).astype(np.int64) >> (_bits(image) - 8)
        if high.min(initial=0) < 0 or high.max(initial=0) > 255:
            raise ValueError(f"its mode {image.mode} has values beyond 16 bits")
        return Image.fromarray(high.astype(np.uint8)).convert("RGB")
    kind = {"F": " (floating point)", "I": " (32-bit integers)"}.get(image.mode, "")
    raise ValueError(f"its mode {image.mode}{kind} has no stated conversion to 8 bits; convert it to 8 or 16 bits")


def _bits(image: "Image.Image") -> int:
    """Returns the bits of a 16-bit mode: those that TIFF states, such as 12, or else 16."""
    from PIL.TiffImagePlugin import TiffImageFile

    stated = image.tag_v2.get(BITS_PER_SAMPLE_TAG, 16) if isinstance(image, TiffImageFile) else 16
    bits = stated[0] if isinstance(stated, tuple) else stated
    return bits if isinstance(bits, int) and 8 < bits <= 16 else 16


def _transposition(image: "Image.Image") -> "Image.Transpose | None":
    """Returns what turns the image upright; None if it is, or if its metadata cannot be read."""
    from PIL.Image import Transpose

    if image.format == "PNG" and not any("exif" in str(key) or "xmp" in str(key) for key in image.info):
        return None  # a look into metadata takes a third of the time of a small image
    try:
        orientation = int(image.getexif().get(ORIENTATION_TAG, 1))
        return {
            2: Transpose.FLIP_LEFT_RIGHT,
            3: Transpose.ROTATE_180,
            4: Transpose.FLIP_TOP_BOTTOM,
            5: Transpose.TRANSPOSE,
            6: Transpose.ROTATE_270,
            7: Transpose.TRANSVERSE,
            8: Transpose.ROTATE_90,
        }.get(orientation)
    except Exception:
        return None
