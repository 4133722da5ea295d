"""Spec files are YAML 1.2 with unique keys, and bounded in size and depth."""

from pathlib import Path

import pytest
from helpers.specs import write_spec

from fedray.config.loader import load
from fedray.config.yaml_files import read_yaml
from fedray.config.yaml_loader import dump_yaml, parse_yaml
from fedray.errors import SpecError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("-1E+2", -100.0), ("1.", 1.0), (".5", 0.5), ("010", 10), ("0o10", 8), ("0x1F", 31),
        (".inf", float("inf")), ("true", True), ("False", False), ("~", None), ("", None), ("Null", None),
        ("yes", "yes"), ("on", "on"), ("No", "No"), ("2020-01-02", "2020-01-02"), ("2020-99-99", "2020-99-99"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"), ("1:30", "1:30"), ("1_000", "1_000"),
        ("0b_", "0b_"), ("0b11", "0b11"), ("0x_", "0x_"), ("0o8", "0o8"), ("'1'", "1"), ("!!str 1", "1"), ("=", "="),
    ],
)  # fmt: skip
def test_scalar_has_the_type_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_yaml(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    "value",
    ["1e-3", "0o10", "yes", "010", "1.0", "2020-01-02", "", "null", ".5e3", "<<", "=", "1_000", "0x1f", "+1", "12e03",
     0.00001, 1e20, 1e-7, float("inf"), True, None, 10**30],
)  # fmt: skip
def test_dumped_value_keeps_its_type(value: object) -> None:
    parsed = parse_yaml(dump_yaml({"field": [value]}))
    assert parsed == {"field": [value]}


@pytest.mark.parametrize(
    "text",
    ["{a: 1, a: 2}", "{1: a, '1': b}", "{1: a, 0x1: b}", "{1.0: a, 1: b}", "{true: a, 'True': b}", "- {a: 1, a: 1}",
     "{<<: {a: 1}, <<: {b: 1}}"],
)  # fmt: skip
def test_key_given_twice_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"is given twice \(lines 1 and 1\)"):
        parse_yaml(text)


def test_section_given_twice_is_refused_with_its_lines(tmp_path: Path) -> None:
    path = write_spec(tmp_path, "training: {rounds: 2}\nseed: 1\ntraining: {batch_size: 8}\n")
    with pytest.raises(SpecError, match=r"study\.yaml cannot be used: the key 'training' is given twice .* 1 and 3\)"):
        load(path)


def test_own_key_replaces_a_merged_one() -> None:
    assert parse_yaml("{a: &a {x: 1, y: 2}, b: {<<: *a, y: 3}}") == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{number}: &a{number} {{<<: [{', '.join([f'*a{number - 1}'] * 9)}]}}\n" for number in range(1, 10)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{number}: &a{number} [*a{number - 1}]\n" for number in range(1, 200))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 100_000, "more than 50 levels"),
        ("[" * 100_000 + "]" * 100_000, "more than 50 levels"),
        ("- " * 60_000 + "a", "more than 50 levels"),
        ("{a: " * 60_000, "more than 50 levels"),
        (LAUGHS, "more than 200,000 values"),
        (MERGES, "more than 200,000 values"),
        (CHAIN, "or 50 levels, aliases followed"),
        ("&a [*a]", "inside its own anchor"),
        ("x: &a {y: {z: *a}}", "inside its own anchor"),
        ("x: &a {<<: *a}", "inside its own anchor"),
        ("#" * (2**20 + 1), "more than 1,048,576 characters"),
        ("7" * 5_000, "an integer has more than 300 digits (line 1)"),
        ("0x" + "7" * 5_000, "an integer has more than 300 digits (line 1)"),
        ("a: 1\nb: !!int abc", "'abc' is not a valid int (line 2)"),
        ("!!float abc", "'abc' is not a valid float"),
        ("!!bool x", "'x' is not a valid bool"),
        ("!!null x", "'x' is not a valid null"),
        ("!!int [1]", "is not a valid int"),
        ("!!timestamp x", "the tag !!timestamp is not supported"),
        ("!!binary x", "the tag !!binary is not supported"),
        ("!!python/object/apply:os.getcwd []", "the tag !!python/object/apply:os.getcwd is not supported"),
        ("!mine x", "the tag !mine is not supported"),
        ("!!set {a}", "the tag !!set is not supported"),
        ("!!seq x", "is not valid YAML"),
        ("!!map [x]", "is not valid YAML"),
        ("<<: 3", "is not valid YAML"),
        ("{[a]: 1}", "a key must be text or a number"),
        ("{{a: 1}: 1}", "a key must be text or a number"),
        ("{!!int x: 1}", "'x' is not a valid int"),
        ("*x", "found undefined alias"),
        ("a: b: c", "mapping values are not allowed"),
        ("a\0b", "is not valid YAML"),
        ("--- 1\n--- 2", "another document"),
    ],
    ids=lambda text: text[:16],
)
def test_invalid_document_is_one_sentence(text: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_yaml(text)
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 250


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"\xef\xbb\xbfseed: 1\n")
    assert read_yaml(tmp_path / "study.yaml") == {"seed": 1}


def test_endless_file_is_refused() -> None:
    with pytest.raises(SpecError, match=r"/dev/zero cannot be used: it has more than 1,048,576 characters"):
        read_yaml(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["..yaml", "...yaml", "....yaml", ".yaml", ".yml", " .yaml"])
def test_file_without_a_name_is_refused(tmp_path: Path, name: str) -> None:
    """Its results would be written into --results itself or into the parent folder."""
    with pytest.raises(SpecError, match="must have a name before"):
        load(write_spec(tmp_path, "seed: 1", name))
