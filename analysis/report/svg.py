"""Figures as SVG, for files and inside the page."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figures.style import SETTINGS, TEXT_COLOR
from fedray.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA = {"Date": None, "Creator": None}
"""No date and no version, so that equal tables give equal files."""
DPI = 200


def svg(figure: "Figure") -> str:
    """Return a figure as an SVG document; its texts remain text elements."""
    import matplotlib as mpl

    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        out = io.StringIO()
        with _without_glyph_warnings():
            figure.savefig(out, format="svg", transparent=True, metadata=METADATA)
    return out.getvalue()


@contextmanager
def _without_glyph_warnings() -> Iterator[None]:
    """Suppresses the warning for each character that the font lacks; it is drawn as a box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def inline(document: str, name: str, alternative: str) -> str:
    """Return the `svg` element for a page with several ones: with unique ids and the page's text colour."""
    element = document[document.index("<svg") :]
    for pattern in (r'(\bid=")([^"]+")', r'(href="#)([^"]+")', r"(url\(#)([^)]+\))"):
        element = re.sub(pattern, rf"\g<1>{name}-\g<2>", element)
    head, _, rest = element.partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None, "matplotlib writes a viewBox"
    label = alternative.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]}'
    size = f'style="max-width: {float(box[0].split()[2]):.0f}pt"'
    return f'{head} {size} role="img" aria-label="{label}">{rest}'.replace(TEXT_COLOR, "currentColor")


def write(figure: "Figure", folder: Path, name: str) -> str:
    """Write NAME.svg and NAME.png (on white), and returns the SVG."""
    import matplotlib as mpl

    document = svg(figure)
    with replacing(folder / f"{name}.svg") as partial:
        partial.write_text(document, encoding="utf-8")
    figure.set_layout_engine("none")  # the layout is done, and takes as long as drawing
    with mpl.rc_context(SETTINGS), _without_glyph_warnings(), replacing(folder / f"{name}.png") as partial:  # type: ignore[arg-type]
        figure.savefig(partial, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return document
