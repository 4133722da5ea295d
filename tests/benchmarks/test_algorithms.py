"""The page of algorithms follows the classes."""

from benchmarks import algorithms


def test_page_is_up_to_date() -> None:
    """If this fails: `python benchmarks/algorithms.py`."""
    assert algorithms.PAGE.read_text() == algorithms.page()
