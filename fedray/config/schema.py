"""The JSON schema of a spec file, for editors."""

import ast
import inspect
import textwrap
from collections.abc import Iterator

from pydantic import BaseModel

from fedray.config.experiment import Experiment
from fedray.config.search import Search
from fedray.config.space import AXIS_KINDS
from fedray.config.yaml_files import Tree
from fedray.section import Section


def schema() -> Tree:
    """Returns the JSON schema of a spec file: an experiment, or a base, a space and a search."""
    experiment = Experiment.model_json_schema()
    sections = experiment.pop("$defs") | {"Search": Search.model_json_schema(), "Experiment": experiment}
    for model in _subclasses(Section):
        if model.__name__ in sections:
            _describe_fields(sections[model.__name__], model)
    return {"$defs": sections, "anyOf": [{"$ref": "#/$defs/Experiment"}, _space_file()]}


def _space_file() -> Tree:
    axis = {
        "type": "object",
        "properties": {**{kind: {"type": "array", "minItems": 1} for kind in AXIS_KINDS}, "when": {"type": "object"}},
        "oneOf": [{"required": [kind]} for kind in AXIS_KINDS],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {
            "base": {"anyOf": [{"$ref": "#/$defs/Experiment"}, {"type": "string"}]},
            "space": {"type": "object", "additionalProperties": axis},
            "search": {"$ref": "#/$defs/Search"},
        },
        "required": ["base"],
        "additionalProperties": False,
    }


def _subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for subclass in model.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _describe_fields(section: Tree, model: type[BaseModel]) -> None:
    """Add the docstrings of a section's fields to its schema, in place.

    pydantic's `use_attribute_docstrings` does the same on import, where it takes a quarter of fedray's start-up time.
    """
    for base in model.__mro__:
        if issubclass(base, BaseModel) and base is not BaseModel:
            for field, text in _attribute_docstrings(base):
                if field in section["properties"]:
                    section["properties"][field].setdefault("description", text)


def _attribute_docstrings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yields each field of a class body that is followed by a string, and the string on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())
