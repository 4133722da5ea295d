"""Python modules of the user's that travel with an experiment, so that every process has the same code.

An experiment may name classes and functions in modules that only the user's own process can import. Their sources are
sent as text: on arrival they are importable under their names, before the experiment itself is unpickled.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TypeAlias

from fedray.section import Section
from fedray.user_modules import imported_names, is_users, parent_packages

UserObject: TypeAlias = type[object] | FunctionType


@dataclass(frozen=True)
class ModuleSource:
    """The source of one module."""

    path: str
    """Its file in the process that sent it."""
    text: str
    is_package: bool


@dataclass(frozen=True)
class UserCode:
    """The sources of modules by name. Unpickling makes them importable."""

    sources: Mapping[str, ModuleSource]

    @classmethod
    def of(cls, objects: Iterable[UserObject]) -> "UserCode":
        """Return the modules of classes and functions, and all modules of the user's that they import.

        Objects of a script or notebook are pickled by value; the modules that it imported are included. Modules that
        this process has received are included too, because such objects may need them.
        """
        sources = dict(_finder.sources)
        pending = [found.__module__ for found in objects]
        while pending:
            name = pending.pop()
            if name == "__main__":
                pending += _imported_by_main()
            source = None if name in sources else _source_of(name)
            if source is not None:
                sources[name] = source
                names = imported_names(source.text, name, is_package=source.is_package)
                pending += [part for found in (name, *names) for part in (*parent_packages(found), found)]
        return cls(dict(sorted(sources.items())))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle as a call of `install`."""
        return install, (self.sources,)


def user_objects(section: Section) -> list[UserObject]:
    """Return the classes of a section and of the sections inside it, and the functions that they name.

    Only those that fedray does not define itself are returned, each once, in the order of the fields.
    """
    found: dict[UserObject, None] = {}
    for inner in _sections(section):
        found |= dict.fromkeys((type(inner), *inner.functions()))
    return [part for part in found if part.__module__.partition(".")[0] != "fedray"]


def _sections(value: object) -> Iterator[Section]:
    if isinstance(value, Section):
        yield value
        for name in type(value).model_fields:
            yield from _sections(getattr(value, name))
    elif isinstance(value, tuple):
        for part in value:
            yield from _sections(part)


def install(sources: Mapping[str, ModuleSource]) -> UserCode:
    """Make modules importable in this process; modules that were imported in another version are imported again."""
    for name, source in sources.items():
        if _finder.sources.get(name) != source and _is_other(name, source):
            sys.modules.pop(name, None)
            _finder.sources[name] = source
    if _finder.sources and _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    return UserCode(sources)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads modules whose sources were received from another process."""

    def __init__(self) -> None:
        self.sources: dict[str, ModuleSource] = {}

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a received module; None for any other."""
        source = self.sources.get(name)
        if source is None:
            return None
        folders = [str(Path(source.path).parent)] if source.is_package else None
        return importlib.util.spec_from_file_location(
            name, source.path, loader=self, submodule_search_locations=folders
        )

    def get_source(self, name: str) -> str:
        """Return the text of a module, for tracebacks and `inspect`."""
        return self.sources[name].text

    def get_code(self, name: str) -> CodeType:
        """Return the compiled module."""
        return self.source_to_code(self.sources[name].text, self.sources[name].path)

    def is_package(self, name: str) -> bool:
        """Whether a module is a package."""
        return self.sources[name].is_package


_finder = _Finder()


def _is_other(name: str, source: ModuleSource) -> bool:
    """Whether this process has not imported a module, or has imported another version of it."""
    return name not in sys.modules or _source_of(name) != source


def _source_of(name: str) -> ModuleSource | None:
    """Return the source of a module; None unless it is the user's."""
    module: ModuleType | None = None
    spec: importlib.machinery.ModuleSpec | None = None
    with suppress(
        Exception
    ):  # importing a user's module may raise anything; the error is reported where the module is used
        module = sys.modules.get(name)
        spec = (module and module.__spec__) or importlib.util.find_spec(name)
    loader = spec.loader if spec else None
    if name == "__main__" or spec is None:
        return None
    folders = list(spec.submodule_search_locations or ())
    if spec.origin is None and folders and is_users(Path(folders[0])):  # a package without __init__.py
        return ModuleSource(str(Path(folders[0]) / "__init__.py"), "", is_package=True)
    if not isinstance(loader, importlib.abc.InspectLoader) or spec.origin is None or not is_users(Path(spec.origin)):
        return None
    text = loader.get_source(name)
    return None if text is None else ModuleSource(spec.origin, text, is_package=bool(folders))


def _imported_by_main() -> Iterator[str]:
    """Yield the names of the modules from which a script or notebook has imported anything."""
    for value in list(vars(sys.modules["__main__"]).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name != "__main__":
            yield name
