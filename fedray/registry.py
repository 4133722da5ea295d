"""Registries: the classes that a spec's section can have, built in or from outside the package.

A section names its class by a built-in name, as `package.module:Class`, or by an entry point of the registry's group.
From Python it may be an instance. Another package adds classes in its pyproject.toml:

[project.entry-points."fedray.strategies"]
moon = "mypackage.moon:Moon"
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Generic, TypeVar, Union

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, SchemaValidator, core_schema

from fedray.errors import SpecError, nearest
from fedray.section import Section, chosen_name, reference_to

T = TypeVar("T", bound=Section)

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""`package.module:Object`."""


class Registry(Mapping[str, type[T]], Generic[T]):
    """The classes of one kind of section. As a mapping it has the built-in classes by name, in the order of tables.

    `Annotated[Base, registry]` is the type of a field that takes a mapping with the name of a class, or an instance.
    """

    def __init__(self, base: type[T], group: str, built_in: Sequence[type[T]], chooser: str = "name") -> None:
        """`group`: that of the entry points. `chooser`: the field that names the class, `name` or `kind`."""
        self.base, self.group, self.chooser = base, group, chooser
        self._built_in = {chosen_name(cls, chooser): cls for cls in built_in}
        self._others: dict[str, type[T]] = {}

    def __getitem__(self, name: str) -> type[T]:
        return self._built_in[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._built_in)

    def __len__(self) -> int:
        return len(self._built_in)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:  # typing hashes the metadata of annotations
        return id(self)

    @property
    def classes(self) -> list[type[T]]:
        """The built-in classes, and those that this process has resolved."""
        return [*self._built_in.values(), *self._others.values()]

    @property
    def names(self) -> list[str]:
        """The built-in names, and those of entry points."""
        return [*self._built_in, *self._references]

    def resolve(self, name: str) -> type[T]:
        """Return the class with a built-in name, a reference or an entry point. Raises SpecError without a subject."""
        if name in self._built_in:
            return self._built_in[name]
        reference = self.reference(name)
        if reference is None:
            raise SpecError(f"must be one of {', '.join(self.names)}{nearest(name, self.names)}")
        return self._checked(load_object(reference))

    def reference(self, name: str) -> str | None:
        """Return the reference of a name: the name itself, or that of its entry point; None if it is neither."""
        return name if REFERENCE.fullmatch(name) else self._references.get(name)

    @property
    def _references(self) -> dict[str, str]:
        """The references of entry points, by name."""
        return {point.name: point.value for point in entry_points(group=self.group)}

    def _checked(self, found: object) -> type[T]:
        """Return a class. Raises SpecError, without a subject, if it cannot be the class of a section."""
        built_in = [cls for cls in self._built_in.values() if cls is found]
        if built_in:
            return built_in[0]
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise SpecError(f"must be a subclass of {self.base.__module__}.{self.base.__name__}")
        name = chosen_name(found, self.chooser)
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise SpecError(f"must define {', '.join(missing)}")
        if name != reference_to(found) and self._references.get(name) != reference_to(found):
            raise SpecError(f"must leave out the field '{self.chooser}', since no entry point is called '{name}'")
        self._others[name] = found
        return found

    def _validate(self, value: object) -> object:
        """Return the section that a mapping describes, or the given instance."""
        if isinstance(value, (self.base, *self._built_in.values())):
            self._class_of(type(value))
            return value
        if not isinstance(value, Mapping):
            raise PydanticKnownError("model_attributes_type")
        if self.chooser not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": f"'{self.chooser}'"})
        return self._section(self._class_of(value[self.chooser]), value)

    def _section(self, found: type[T], value: Mapping[str, object]) -> object:
        """Return the section of a class with the fields of a mapping."""
        name = chosen_name(found, self.chooser)  # a reference, if an entry point names the class
        return _validator(found, name, self.chooser).validate_python({**value, self.chooser: name})

    def _class_of(self, choice: object) -> type[T]:
        """Return the class with a name, or the given class; errors are pydantic's."""
        if not isinstance(choice, type) and str(choice) not in self._built_in and self.reference(str(choice)) is None:
            names = ", ".join(f"'{name}'" for name in self.names)
            context = {"discriminator": f"'{self.chooser}'", "tag": str(choice), "expected_tags": names}
            raise PydanticKnownError("union_tag_invalid", context)
        try:
            return self._checked(choice) if isinstance(choice, type) else self.resolve(str(choice))
        except SpecError as error:
            tag = reference_to(choice) if isinstance(choice, type) else str(choice)
            raise PydanticCustomError("reference", "{reason}", {"tag": tag, "reason": str(error)}) from None

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic to build the validator of a field."""
        built_in: Any = Union[tuple(self._built_in.values())]  # noqa: UP007
        choice: Any = Annotated[built_in, Field(discriminator=self.chooser)] if len(self) > 1 else built_in
        schema = handler.generate_schema(choice)
        return core_schema.no_info_plain_validator_function(self._validate, json_schema_input_schema=schema)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Called by pydantic: the built-in classes with their fields, or any class from outside the package."""
        name = {"anyOf": [{"type": "string", "pattern": f"^{REFERENCE.pattern}$"}, {"enum": [*self._references]}]}
        other = {"type": "object", "properties": {self.chooser: name}, "required": [self.chooser]}
        return {"anyOf": [handler(schema), other]}


@cache
def _validator(section: type[Section], name: str, chooser: str) -> SchemaValidator:
    """Return the validator of one class; the class's name is part of the location of an error, as in a union."""
    choices: dict[Any, CoreSchema] = {name: section.__pydantic_core_schema__}
    return SchemaValidator(core_schema.tagged_union_schema(choices, chooser))


def load_object(reference: str) -> object:
    """Import the object that `package.module:Object` names. Raises SpecError."""
    module, _, path = reference.partition(":")
    try:
        found: object = importlib.import_module(module)
    except Exception as error:  # the code of a module may raise anything
        raise SpecError(f"module '{module}' cannot be imported ({type(error).__name__}: {error}).") from error
    for part in path.split("."):
        if part not in vars(found):
            raise SpecError(f"module '{module}' has no object '{path}'{nearest(part, vars(found))}")
        found = vars(found)[part]
    return found
