"""The JSON schema of spec files."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from helpers.specs import NESTED, README_EXAMPLE, SPACE, write_spec

from fedray.config.loader import load
from fedray.config.schema import schema
from fedray.errors import SpecError

TUNE_SPACES = Path(__file__).parents[2] / "tune_spaces"


def test_schema_describes_every_field_of_data_and_search() -> None:
    sections = schema()["$defs"]
    assert sections["Data"]["properties"]["size"]["description"].startswith("Pixels a side")
    assert sections["Dirichlet"]["properties"]["clients"]["description"] == "Number of clients."  # of the base class
    for name in ("Data", "Search", "Resources"):
        assert all("description" in field for field in sections[name]["properties"].values())


def test_schema_and_loader_agree(tmp_path: Path) -> None:
    document_schema = schema()
    good = [yaml.safe_load(file.read_text()) for file in TUNE_SPACES.glob("*.yaml")]
    for document in [*(yaml.safe_load(text) for text in (README_EXAMPLE, SPACE, NESTED)), *good]:
        jsonschema.validate(document, document_schema)
    for bad in (
        {"seeed": 1},
        {"base": {"seeed": 1}, "space": {}},
        {"space": {"seed": [1]}},
        {"training": {"optimizer": {"lr": -1}}},
        {"strategy": {"name": "fedsgd"}},
        {"teacher": {"kind": "ensemble", "teachers": [{"kind": "zero_shot"}]}},
        {"teacher": {"kind": "adapted", "backbone": {"kind": "precomputed", "file": "x"}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, document_schema)
        with pytest.raises(SpecError):
            load(write_spec(tmp_path, yaml.safe_dump(bad)))
