"""Figures as text: for a page that is light or dark, and for files."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figures.style import SETTINGS, TEXT_COLOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA = {"Date": None, "Creator": None}
"""The same tables give the same files."""
DPI = 200


def svg(figure: "Figure") -> str:
    """A whole SVG document; its text stays text."""
    import matplotlib as mpl

    with mpl.rc_context(SETTINGS):  # type: ignore[arg-type]
        out = io.StringIO()
        with _whatever_letters():
            figure.savefig(out, format="svg", transparent=True, metadata=METADATA)
    return out.getvalue()


@contextmanager
def _whatever_letters() -> Iterator[None]:
    """A font that lacks a letter shows a box, which need not be said for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def inline(document: str, name: str, alternative: str) -> str:
    """The document's `svg` element for a page that holds several: with ids of its own and the page's ink."""
    element = document[document.index("<svg") :]
    for pattern in (r'(\bid=")([^"]+")', r'(href="#)([^"]+")', r"(url\(#)([^)]+\))"):
        element = re.sub(pattern, rf"\g<1>{name}-\g<2>", element)
    head, _, rest = element.partition(">")
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None, "matplotlib gives a viewBox"
    label = alternative.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0]}'
    size = f'style="max-width: {float(box[0].split()[2]):.0f}pt"'
    return f'{head} {size} role="img" aria-label="{label}">{rest}'.replace(TEXT_COLOR, "currentColor")


def write(figure: "Figure", folder: Path, name: str) -> str:
    """NAME.svg and NAME.png, on white; returns the SVG."""
    import matplotlib as mpl

    document = svg(figure)
    (folder / f"{name}.svg").write_text(document, encoding="utf-8")
    figure.set_layout_engine("none")  # it is laid out, which takes as long as drawing it
    with mpl.rc_context(SETTINGS), _whatever_letters():  # type: ignore[arg-type]
        figure.savefig(folder / f"{name}.png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return document
