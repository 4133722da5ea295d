"""Every field of a spec, with values that no author of a field thought of: an experiment or one sentence."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedray.config import fields, loader
from fedray.config.key import trial_key
from fedray.config.search import Search
from fedray.config.yaml_files import to_yaml
from fedray.config.yaml_loader import parse_yaml
from fedray.errors import MAX_MESSAGE_CHARACTERS, SpecError

VALUES = [
    None, "", [], {}, math.nan, math.inf, -1, 0, 10**400, 2**63, True, "x" * 100_000, "é☃\x01", [None], [{}],
    {"name": []}, [1] * 1000, "../{}%s", "é:é",
]  # fmt: skip
VALID = {"teacher": {"kind": "supervised"}, "data": {"public_fraction": 0.2}, "strategy": {"name": "fedavg"}}
Path_ = tuple[str, ...]


def all_fields(path: Path_ = ()) -> Iterator[tuple[Path_, dict[str, str], str]]:
    """Yield each field of each class that the section at `path` can have: the section, its class and the field."""
    for model in fields._sections(fields._annotations_at(path)):
        tags = fields._tags(model)
        chosen = {name: tags[0] for name in ("name", "kind") if tags and name in model.model_fields}
        for field in model.model_fields:
            yield path, chosen, field
            if len(path) < 3:
                yield from all_fields((*path, field))


def with_value(tree: dict[str, Any], path: Path_, value: object) -> dict[str, Any]:
    """Return a copy of a tree with a value at a path."""
    head, *rest = path
    inner = tree.get(head)
    part = with_value(inner if isinstance(inner, dict) else {}, tuple(rest), value) if rest else value
    return {**tree, head: part}


FIELDS = sorted({json.dumps(field): field for field in all_fields()}.items())


def test_sweep_covers_all_sections() -> None:
    names = {".".join([*path, field]) for path, _, field in dict(FIELDS).values()}
    assert len(FIELDS) > 150
    assert {
        "seed",
        "data.train",
        "strategy.loss.name",
        "training.rounds",
        "teacher.prompts",
        "partition.alpha",
    } <= names


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20].encode("ascii", "replace").decode())
def test_every_field_takes_any_value_or_refuses_it_in_one_sentence(value: object) -> None:
    for path, chosen, field in dict(FIELDS).values():
        section = with_value(VALID, path, chosen) if path else VALID
        try:
            experiment = loader.parse_experiment(with_value(section, (*path, field), value), "spec.yaml")
        except SpecError as error:
            check_sentence(str(error))
        else:
            again = loader.parse_experiment(parse_yaml(to_yaml(experiment)), "spec.yaml")
            assert trial_key(again) == trial_key(experiment)


@pytest.mark.parametrize("part", ["search", "axis", "when", "name", "top"])
def test_spaces_take_any_value_or_refuse_it_in_one_sentence(tmp_path: Path, part: str) -> None:
    spec = tmp_path / "spec.yaml"
    for value in VALUES:
        for document in documents(part, value):
            spec.write_text(json.dumps(document), encoding="utf-8")
            try:
                loader.read(spec).runs()
            except SpecError as error:
                check_sentence(str(error))


def documents(part: str, value: object) -> Iterator[dict[str, object]]:
    """Yield files with a space that have the value in one place."""
    axis: dict[str, object] = {"grid": [1, 2]}
    if part == "search":
        for name in Search.model_fields:
            yield {"base": {}, "space": {"seed": axis}, "search": {name: value}}
    elif part == "axis":
        for kind in ("grid", "zip", "choice", "uniform", "loguniform", "randint", "when"):
            for content in (value, [value, value], [value, {}]):
                yield {"base": {}, "space": {"seed": axis if kind == "when" else {}, "training": {kind: content}}}
    elif part == "when":
        yield {"base": {}, "space": {"seed": {**axis, "when": {"data.train": value}}}}
    elif part == "name":
        yield {"base": {}, "space": {str(value): axis}}
        yield {"base": {}, "space": {"seed": {**axis, "when": {str(value): 1}}}}
    else:
        for key in ("base", "space", "search", "seed", "data"):
            yield {key: value}
            yield {"base": {}, "space": {"seed": axis}, key: value}


@pytest.mark.parametrize("text", ['"\\0"', '"a\\ud800"', '{"\\0": 1}', "\udcff"])
def test_text_without_a_file_form_is_no_value(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        loader.read(_spec(), [f"data.train={text}"])
    check_sentence(str(caught.value))


def _spec() -> Path:
    return Path(__file__).parents[2] / "tune_spaces" / "quickstart.yaml"


def check_sentence(text: str) -> None:
    """Assert that a message is one printable line of bounded length, without a trace of Python."""
    assert text.isprintable()
    assert len(text) <= 10 * MAX_MESSAGE_CHARACTERS  # escapes of unprintable characters are longer
    assert text.endswith((".", "?"))
    assert not any(word in text for word in ("pydantic", "<class", "Traceback"))
