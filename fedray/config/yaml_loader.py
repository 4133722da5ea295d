"""The YAML of spec files, axes and overrides: the core schema of YAML 1.2, with unique keys and bounded size.

`true` and `false` are booleans, `1e-3` is a number, and dates, `yes` and `1_000` are text. PyYAML's own loader reads
YAML 1.1 and keeps the last of two equal keys. Merge keys (`<<: *name`) are read, although YAML 1.2 has none.
"""

import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from fedray.errors import SpecError

MAX_CHARACTERS = 2**20
MAX_DEPTH = 50
"""Levels of lists and sections inside each other, aliases followed."""
MAX_NODES = 200_000
"""Values of a document, counted once per alias."""
MAX_DIGITS = 300
"""Digits of an integer; more do not fit into a float."""

_CORE = "tag:yaml.org,2002:"
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"(?:~|null|Null|NULL|)$")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NOT_TEXT = re.compile("[\0\ud800-\udfff]")
"""Null bytes and half surrogate pairs: neither a file nor a path can hold them."""
_MERGE = re.compile(r"<<$")


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml is nine times faster
    """PyYAML's safe loader with the types of YAML 1.2's core schema, and no others."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}
    yaml_constructors: ClassVar[dict[str | None, Callable[..., Any]]] = {}


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that is a number in YAML 1.2, such as `1e-3`."""


def parse_yaml(text: str) -> object:
    """Return the value of a YAML document.

    Raises SpecError, a sentence without the name of the file, if it is invalid, has a key twice or is too large.
    """
    if len(text) > MAX_CHARACTERS:
        raise SpecError(f"it has more than {MAX_CHARACTERS:,} characters.")
    try:
        _check_nesting(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise SpecError(f"it is not valid YAML: {error.problem}{line}.") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a SpecError too
        raise error if isinstance(error, SpecError) else SpecError(f"it is not valid YAML: {error}.") from None


def dump_yaml(value: object) -> str:
    """Return the value as YAML that loaders of YAML 1.1 and 1.2 read alike."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _check_nesting(text: str) -> None:
    """Raise SpecError for lists nested too deeply, before the recursive functions of PyYAML see them."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise SpecError(f"it has more than {MAX_DEPTH} levels of lists and sections (line {_line(event)}).")


def _check_nodes(root: Node) -> None:
    """Raise SpecError for keys given twice, an anchor inside itself, and aliases that expand to too much."""
    sizes: dict[int, tuple[int, int]] = {}  # number of values and of levels, by id of the node; (0, 0) while it is open

    def visit(node: Node) -> tuple[int, int]:
        if id(node) not in sizes:
            sizes[id(node)] = (0, 0)
            if isinstance(node, MappingNode):
                _check_keys(node)
            inner = [visit(child) for child in _children(node)]
            count, depth = 1 + sum(size for size, _ in inner), 1 + max((depth for _, depth in inner), default=0)
            if count > MAX_NODES or depth > MAX_DEPTH + 1:
                raise SpecError(
                    f"it has more than {MAX_NODES:,} values or {MAX_DEPTH} levels, aliases followed "
                    f"(line {_line(node)})."
                )
            sizes[id(node)] = (count, depth)
        elif sizes[id(node)] == (0, 0):
            raise SpecError(f"an alias stands inside its own anchor (line {_line(node)}).")
        return sizes[id(node)]

    visit(root)


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair


def _check_keys(node: MappingNode) -> None:
    """Raise SpecError unless the keys of a mapping are scalars, and different also as text (`0` and `"0"`)."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise SpecError(f"a key must be text or a number, not a list or section (line {_line(key)}).")
        text = _key_text(key)
        if text in lines:
            raise SpecError(f"the key '{key.value}' is given twice (lines {lines[text]} and {_line(key)}).")
        lines[text] = _line(key)


def _key_text(key: ScalarNode) -> str:
    """Return a text that is equal for keys of one meaning: `1`, `1.0`, `0x1` and `"1"`."""
    scalar = _Loader.yaml_constructors.get(key.tag, _unknown_tag)
    value = key.value if key.tag == f"{_CORE}merge" else scalar(None, key)
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if is_whole else value)


def _line(marked: Any) -> int:
    return int(marked.start_mark.line) + 1


def _scalar(tag: str, pattern: re.Pattern[str], convert: Callable[[str], object]) -> Callable[[object, Node], object]:
    """Return a constructor of scalars that match a pattern."""

    def construct(_: object, node: Node) -> object:
        if not isinstance(node, ScalarNode) or not pattern.match(node.value):
            raise ConstructorError(None, None, f"{node.value!r:.40} is not a valid {tag}", node.start_mark)
        if _NOT_TEXT.search(node.value):
            raise ConstructorError(None, None, f"{node.value!r:.40} has a character that is no text", node.start_mark)
        if tag == "int" and len(node.value) > MAX_DIGITS:
            raise ConstructorError(None, None, f"an integer has more than {MAX_DIGITS} digits", node.start_mark)
        return convert(node.value)

    return construct


def _to_int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _to_float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _unknown_tag(_: object, node: Node) -> object:
    tag = str(node.tag).replace(_CORE, "!!")
    raise ConstructorError(None, None, f"the tag {tag} is not supported", node.start_mark)


_NUMBER_START, _ANY = list("-+0123456789."), re.compile("")
for _tag, _pattern, _convert, _first in (
    ("bool", _BOOL, lambda text: text.lower() == "true", list("tTfF")),
    ("null", _NULL, lambda _: None, ["~", "n", "N", ""]),
    ("int", _INT, _to_int, _NUMBER_START),
    ("float", _FLOAT, _to_float, _NUMBER_START),
    ("str", _ANY, str, []),
):
    _Loader.add_constructor(f"{_CORE}{_tag}", _scalar(_tag, _pattern, _convert))
    if _first:
        _Loader.add_implicit_resolver(f"{_CORE}{_tag}", _pattern, _first)
        _Dumper.add_implicit_resolver(f"{_CORE}{_tag}", _pattern, _first)
_Loader.add_implicit_resolver(f"{_CORE}merge", _MERGE, ["<"])
_Loader.add_constructor(f"{_CORE}seq", yaml.SafeLoader.construct_yaml_seq)
_Loader.add_constructor(f"{_CORE}map", yaml.SafeLoader.construct_yaml_map)
_Loader.add_constructor(None, _unknown_tag)
