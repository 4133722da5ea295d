"""Experiments built in Python hold only text that spec.yaml can hold."""

from typing import Any

import pytest

from fedray.config.experiment import Experiment


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"data": {"test": "folder:a\0"}}, "data.test"),
        ({"teacher": {"kind": "zero_shot", "model": "ViT-B-32", "pretrained": "a\0b"}}, "teacher.pretrained"),
    ],
)
def test_null_byte_is_refused_by_field(fields: dict[str, Any], name: str) -> None:
    data = {"train": "digits", "test": "digits", **fields.get("data", {})}
    with pytest.raises(ValueError, match=rf"{name} has a null byte, which neither a file nor a path can hold"):
        Experiment.model_validate({**fields, "data": data})


def test_text_of_an_escape_is_no_null_byte() -> None:
    data = {"train": "digits", "test": "digits", "image_column": r"\u0000"}
    assert Experiment.model_validate({"data": data}).data.image_column == r"\u0000"
