"""Tables that list examples by path or index: partitions and precomputed teacher outputs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fedray.data.dataset import Dataset
from fedray.data.request import reading
from fedray.errors import SpecError
from fedray.files import refuse_pipe
from fedray.types import Indices

if TYPE_CHECKING:
    import pandas as pd

Columns: TypeAlias = dict[str, np.ndarray]
"""The columns of a table by name; a parquet list column has dtype object."""

TEXT_COLUMNS = ("path", "client")
"""Columns of a CSV file whose cells stay the text that they are: `None`, `NA` and `007` are names."""


def read_table(file: Path, field: str) -> Columns:
    """Read a CSV or parquet file. In a CSV file, `path` and `client` are text.

    Raises SpecError, naming `field`, if that fails or the table is empty.
    """
    import pandas as pd

    with reading(f"{field}: '{file}'", "cannot be read as a table"):
        path = file.expanduser()
        if not path.exists():
            raise SpecError(f"{field}: there is no file '{file}'.")
        refuse_pipe(path)
        frame = _read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    if not len(frame):
        raise SpecError(f"{field}: '{file}' is empty.")
    if not frame.columns.is_unique:
        raise SpecError(f"{field}: '{file}' has several columns {frame.columns[frame.columns.duplicated()][0]}.")
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _read_csv(path: Path) -> "pd.DataFrame":
    import pandas as pd

    others = [name for name in pd.read_csv(path, nrows=0).columns if name not in TEXT_COLUMNS]
    return pd.read_csv(
        path,
        dtype=dict.fromkeys(TEXT_COLUMNS, str),
        keep_default_na=False,
        na_values={name: ["", "NA", "nan", "NaN"] for name in others},
    )


def locate(table: Mapping[str, npt.ArrayLike], data: Dataset, source: str) -> Indices:
    """Returns the position in `data` of each table row, by its `path` or else its `index`; -1 if absent.

    `index` is the example's row in its source, before any limit. Raises SpecError, starting with `source`, if the
    column cannot identify examples.
    """
    keys, values = (
        _path_keys(table["path"], data, source) if "path" in table else _row_keys(table["index"], data, source)
    )
    order = np.argsort(keys)
    slots = np.minimum(np.searchsorted(keys, values, sorter=order), len(keys) - 1)
    return np.where(keys[order[slots]] == values, order[slots], -1)


def _path_keys(column: npt.ArrayLike, data: Dataset, source: str) -> tuple[np.ndarray, np.ndarray]:
    if data.paths is None:
        raise SpecError(f"{source} lists examples by path, but {data.name} has no paths; use the column index.")
    if len(np.unique(data.paths)) < len(data):
        raise SpecError(
            f"{source} lists examples by path, but images of {data.name} share a path; use the column index."
        )
    paths = np.asarray(column)
    if paths.dtype.kind != "U" and not all(isinstance(path, str) for path in paths):
        raise SpecError(f"{source} must have text in each row of its column path.")
    return data.paths, paths.astype(np.str_)


def _row_keys(column: npt.ArrayLike, data: Dataset, source: str) -> tuple[np.ndarray, np.ndarray]:
    rows = np.asarray(column)
    if not np.issubdtype(rows.dtype, np.number):
        raise SpecError(f"{source} must have row numbers in its column index.")
    return data.rows, rows
