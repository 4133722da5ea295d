"""Every image mode is converted as stated, or refused by name."""

import io
from typing import Any

import numpy as np
import pytest
from helpers.images import picture
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from fedray.data.decoding import decode
from fedray.data.pixels import DEEP_MODES, DIRECT_MODES, PREMULTIPLIED_MODES, rgb_pixels
from fedray.errors import SpecError

RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
"""All of 16 bits in 64 steps."""


def encoded(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def decoded(content: bytes) -> np.ndarray:
    """Returns the pixels [H, W, 3] of an image file."""
    return decode([content], ["a.png"], "data.train", None, [])[0].transpose(1, 2, 0)


def message_of(content: bytes) -> str:
    with pytest.raises(SpecError) as caught:
        decoded(content)
    return str(caught.value)


def gray(levels: np.ndarray) -> np.ndarray:
    return np.stack([levels.astype(np.uint8)] * 3, axis=-1)


class TestDeep:
    @pytest.mark.parametrize("format_name", ["PNG", "TIFF", "PPM", "JPEG2000"])
    def test_16_bits_are_read_by_their_high_byte(self, format_name: str) -> None:
        options = {"irreversible": False} if format_name == "JPEG2000" else {}
        content = encoded(Image.fromarray(RAMP), format_name, **options)
        np.testing.assert_array_equal(decoded(content), gray(RAMP >> 8))

    @pytest.mark.parametrize("mode", DEEP_MODES)
    def test_byte_orders(self, mode: str) -> None:
        raw = RAMP.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
        np.testing.assert_array_equal(rgb_pixels(Image.frombytes(mode, (8, 8), raw)), gray(RAMP >> 8))

    def test_tiff_of_12_bits_uses_their_range(self) -> None:
        image = Image.open(io.BytesIO(encoded(Image.fromarray(RAMP >> 4), "TIFF")))
        assert isinstance(image, TiffImageFile)
        image.load()
        image.tag_v2[258] = (12,)  # Pillow writes no TIFF of 12 bits
        np.testing.assert_array_equal(rgb_pixels(image), gray(RAMP >> 8))

    @pytest.mark.parametrize(
        ("array", "mode"),
        [(RAMP.astype(np.float32) / 65535, "F"), (RAMP.astype(np.int32), "I")],
        ids=["float", "int32"],
    )
    def test_unknown_range_is_refused_by_name(self, array: np.ndarray, mode: str) -> None:
        message = message_of(encoded(Image.fromarray(array), "TIFF"))
        assert message.startswith(f"data.train: the image 'a.png' cannot be decoded (its mode {mode} (")

    def test_lab_is_refused_by_name(self) -> None:
        assert "its mode LAB has no stated conversion" in message_of(encoded(Image.new("LAB", (8, 8)), "TIFF"))


class TestAlpha:
    def test_alpha_is_dropped(self) -> None:
        alpha = picture(1, channels=1)
        colour = Image.fromarray(np.dstack([picture(0), alpha]))
        np.testing.assert_array_equal(decoded(encoded(colour)), picture(0))
        levels = picture(2, channels=1)
        both = Image.merge("LA", [Image.fromarray(levels), Image.fromarray(alpha)])
        np.testing.assert_array_equal(decoded(encoded(both)), gray(levels))

    def test_premultiplied_colours_are_divided_by_alpha(self) -> None:
        image = Image.new("RGBA", (8, 8), (200, 100, 50, 128)).convert("RGBa")
        np.testing.assert_allclose(rgb_pixels(image)[0, 0], (200, 100, 50), atol=1)

    def test_transparent_colour_is_ignored(self) -> None:
        colours = picture(3)
        content = encoded(Image.fromarray(colours), transparency=tuple(colours[0, 0].tolist()))
        np.testing.assert_array_equal(decoded(content), colours)


class TestOtherModes:
    def test_bits_and_palettes(self) -> None:
        bits = picture(0, channels=1) > 127
        np.testing.assert_array_equal(decoded(encoded(Image.fromarray(bits))), gray(bits * 255))
        palette = Image.fromarray(picture(1) // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
        np.testing.assert_array_equal(decoded(encoded(palette)), picture(1) // 128 * 255)

    @pytest.mark.parametrize("mode", [mode for mode in DIRECT_MODES if mode not in ("PA", "P")])
    def test_white_stays_white(self, mode: str) -> None:
        white = Image.new("RGB", (8, 8), "white").convert("RGBA" if mode == "RGBX" else mode)
        np.testing.assert_array_equal(rgb_pixels(white), gray(np.full((8, 8), 255)))

    def test_16_bits_of_colour_are_read_by_their_high_byte(self) -> None:
        header = b"P6 8 8 65535\n"
        content = header + np.repeat(RAMP[..., None], 3, axis=-1).astype(">u2").tobytes()
        np.testing.assert_allclose(decoded(content), gray(RAMP >> 8), atol=1)

    def test_first_frame_is_read(self) -> None:
        frames = [Image.fromarray(picture(seed)) for seed in range(2)]
        content = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(decoded(content), picture(0))

    def test_every_mode_of_pillow_has_a_conversion_or_is_refused(self) -> None:
        known = {*DIRECT_MODES, *DEEP_MODES, *PREMULTIPLIED_MODES}
        for mode in (*known, "I", "F", "LAB"):
            image = Image.new(mode, (2, 2))
            if mode in known:
                assert rgb_pixels(image).shape == (2, 2, 3)
            else:
                with pytest.raises(ValueError, match=f"its mode {mode}"):
                    rgb_pixels(image)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("format_name", ["PNG", "TIFF"])
    def test_orientation_is_applied(self, orientation: int, format_name: str) -> None:
        upright = picture(orientation)
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright),
            7: upright[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(Image.fromarray(np.ascontiguousarray(stored)), format_name, exif=exif)
        np.testing.assert_array_equal(decoded(content), upright)

    def test_damaged_metadata_of_a_whole_image_is_ignored(self) -> None:
        content = encoded(Image.fromarray(picture(0)), exif=b"Exif\0\0damaged metadata")
        np.testing.assert_array_equal(decoded(content), picture(0))


def test_large_image_is_named() -> None:
    """Pillow's DecompressionBombError is neither an OSError nor a ValueError."""
    message = message_of(encoded(Image.new("1", (14000, 14000))))
    assert message.startswith("data.train: the image 'a.png' cannot be decoded (Image size (196000000 pixels)")
