"""Specs of many runs as a table, and the fields that vary among them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from fedray.config.experiment import EXECUTION_SECTIONS
from fedray.config.values import canonical
from fedray.config.yaml_files import flatten, read_yaml
from fedray.errors import SpecError
from fedray.results.checksums import check_checksum
from fedray.types import Row

if TYPE_CHECKING:
    import pandas as pd


LAST_SECTION = "resources"
"""The last section of spec.yaml as a run writes it."""


def read_run_spec(folder: Path) -> Row:
    """Return the fields of the spec of a run as `read_spec` does. Raises SpecError also if it is cut off."""
    fields = read_spec(folder)
    if not is_complete(folder, fields):
        raise SpecError(f"'{folder / 'spec.yaml'}' is incomplete")
    return fields


def is_complete(folder: Path, fields: Row) -> bool:
    """Whether spec.yaml has its last section and the end of its last line.

    A file that is cut at the end of a line is valid YAML, and its run would pass as one of another setting.
    """
    has_last_section = any(name.startswith(f"{LAST_SECTION}.") for name in fields)
    has_end = (folder / "spec.yaml").read_text(encoding="utf-8").endswith("\n")
    return has_last_section and has_end and isinstance(fields.get("training.rounds"), int)


def read_spec(folder: Path) -> Row:
    """Return the fields of a run's spec by dotted name; a list is returned as text. Raises SpecError.

    Floats are rounded to 15 significant digits, so that 0.1 + 0.2 and 0.3 are one setting.
    """
    check_checksum(folder / "spec.yaml")
    fields = {name: canonical(value) for name, value in flatten(read_yaml(folder / "spec.yaml")).items()}
    return {name: str(value) if isinstance(value, list) else value for name, value in fields.items()}


def specs_table(specs: Mapping[str, Row]) -> "pd.DataFrame":
    """Return one row per run and one column per spec field.

    A column with a null is of dtype object and holds None; NaN marks a field that the run's spec does not have.
    """
    import pandas as pd

    table = pd.DataFrame(list(specs.values()), index=pd.Index(specs, name="run"), dtype=object)
    typed = [str(column) for column in table if not any(value is None for value in table[column])]
    table[typed] = table[typed].infer_objects()
    return table


def varying_fields(specs: "pd.DataFrame", *, with_seed: bool = False) -> list[str]:
    """Return the fields, by default without the seed, that have several values among the runs whose spec has them.

    Null is a value, also that of a section; a field that only some strategies have does not vary by that alone. Fields
    that leave results unchanged (resources and the like) and the rounds of evaluation are not considered.
    """
    ignored = (*EXECUTION_SECTIONS, "evaluation")
    fields = [name for name in map(str, specs.columns) if "." in name and name.split(".")[0] not in ignored]
    return [name for name in [*(["seed"] if with_seed else []), *fields] if _varies(name, specs)]


def _varies(name: str, specs: "pd.DataFrame") -> bool:
    values = specs[name].dropna().astype(str).nunique()
    parents = [name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)]
    is_null = any(value is None for parent in parents if parent in specs for value in specs[parent])
    return values > 1 or (values == 1 and is_null)
