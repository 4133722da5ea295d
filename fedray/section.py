"""The base class of all sections of a spec."""

import operator
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_before_validator_function

MAX_INTEGER = 2**63


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

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic to build the validator of the class."""
        schema: CoreSchema = _with_strict_scalars(handler(source), cls)
        return schema
