"""The base class of all sections of a spec."""

import operator
from types import FunctionType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

MAX_INTEGER = 2**63
CHOOSERS = ("name", "kind")
"""Fields whose value selects one of several sections."""


def _with_strict_scalars(schema: Any, owner: type[BaseModel]) -> Any:
    """Return a copy of pydantic's schema in which booleans and numbers accept no other types.

    Keys of mappings stay as they are, because they are text in JSON; inner sections have schemas of their own.
    """
    if isinstance(schema, list | tuple):
        return type(schema)(_with_strict_scalars(part, owner) for part in schema)
    if not isinstance(schema, dict) or (schema.get("type") == "model" and schema["cls"] is not owner):
        return schema
    if schema.get("type") in ("bool", "float"):
        return schema | {"strict": True}
    if schema.get("type") == "int":
        return no_info_before_validator_function(_to_int, schema | {"strict": True})
    kept = ("keys_schema", "metadata", "default", "serialization")
    return {name: part if name in kept else _with_strict_scalars(part, owner) for name, part in schema.items()}


def _to_int(value: object) -> object:
    """Return a whole float, or an integer of NumPy, as int; other values unchanged. Raises ValueError from 2^63 on."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif hasattr(value, "__index__") and not isinstance(value, bool):
        value = operator.index(value)
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise ValueError(f"must be an integer below {MAX_INTEGER:g}")
    return value


class Section(BaseModel):
    """One section of an experiment's YAML. Instances are frozen; unknown keys, NaN and infinity are errors.

    Numbers, booleans and text are not converted into each other, as pydantic does by default (`true` to 1, `"yes"` to
    true): YAML gives each value its type. A whole float such as 1e3 counts as an integer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def functions(self) -> list[FunctionType]:
        """Return the functions from outside the package that the fields name."""
        return []

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic to build the validator of the class."""
        schema: CoreSchema = _with_strict_scalars(handler(source), cls)
        return schema

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Called by pydantic: a class that inherits the field `name` or `kind` has its reference as the value."""
        reference: Any = reference_to(cls)
        own_name: Any = Literal[reference]
        inherited = [chooser for chooser in CHOOSERS if chooser in cls.model_fields and _inherits(cls, chooser)]
        for chooser in inherited:
            cls.model_fields[chooser] = FieldInfo(annotation=own_name, default=reference)
            cls.model_rebuild(force=True)


def chosen_name(section: type[Section], chooser: str) -> str:
    """Return the value of the field `name` or `kind` by which a spec chooses a class."""
    return str(section.model_fields[chooser].default)


def reference_to(found: type[object] | FunctionType) -> str:
    """Return `package.module:Object` of a class or function."""
    return f"{found.__module__}:{found.__qualname__}"


def _inherits(section: type[BaseModel], field: str) -> bool:
    """Whether a class has a field as its base class defines it."""
    parents = [base for base in section.__bases__ if issubclass(base, BaseModel) and field in base.model_fields]
    annotation = section.model_fields[field].annotation
    return any(parent.model_fields[field].annotation == annotation for parent in parents)
