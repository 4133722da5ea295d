"""The hash of the code that determines results: its syntax trees, without comments, docstrings and layout.

A run records the hash of fedray's numeric packages and of the user's classes, and a teacher that fedray fits has one in
its cache key. An edited loss changes the hash; an edited comment does not.
"""

import ast
import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType

from fedray.user_modules import imported_names, is_users, parent_packages

ROOT = Path(__file__).parent

NUMERIC_CODE = (
    "seeding", "losses", "models", "aggregation", "data", "training", "teachers", "strategies", "results.rows",
    "workers", "backends", "server",
)  # fmt: skip
"""Packages and modules of fedray that determine the numbers of a run."""

FITTING_CODE = (
    "seeding", "losses", "models", "data.views", "training", "teachers.adapted", "teachers.classifier",
    "teachers.pool", "teachers.supervised", "teachers.teacher", "teachers.zero_shot",
)  # fmt: skip
"""Packages and modules of fedray that determine the outputs of a teacher that fedray fits itself."""

IGNORED_FIELDS = frozenset({"ctx", "type_comment", "type_ignores"})


class NoSourceError(LookupError):
    """A user's object has no source text, such as a class that was typed at Python's prompt."""

    def __init__(self, user_object: object) -> None:
        super().__init__(f"{user_object} has no source text")


def code_hash(packages: Sequence[str] = NUMERIC_CODE, user_objects: Iterable[object] = ()) -> str:
    """Return the SHA-256, in hex, of packages of fedray, and of the user's objects with the modules that they import.

    `user_objects` are classes or functions. Imported modules of fedray, of the standard library and of other installed
    packages are left out. Raises NoSourceError for an object without source text.
    """
    parts = [(name, _package_hash(name)) for name in packages]
    parts += sorted({part for user_object in user_objects for part in _user_parts(user_object)})
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def source_hash(text: str) -> str:
    """Return the SHA-256, in hex, of a Python source: equal for sources that differ in comments, docstrings and layout.

    Raises SyntaxError.
    """
    tokens: list[str] = []
    _append_tokens(ast.parse(text), tokens)
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()


def _append_tokens(node: object, tokens: list[str]) -> None:
    """Append the types and values of a syntax tree in order; empty fields are left out, as Python versions add some."""
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return  # a docstring, of a module, class, function or field
        tokens.append(type(node).__name__)
        for name, value in ast.iter_fields(node):
            if value is not None and value != [] and name not in IGNORED_FIELDS:
                tokens.append(name)
                _append_tokens(value, tokens)
    elif isinstance(node, list):
        for part in node:
            _append_tokens(part, tokens)
        tokens.append("end")
    else:
        tokens.append(repr(node))


@cache
def _package_hash(name: str) -> str:
    """Return the hash of a package or module of fedray, given by its dotted name, as it is on disk."""
    base = ROOT.joinpath(*name.split("."))
    files = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    hashes = [(file.relative_to(ROOT).as_posix(), source_hash(file.read_text(encoding="utf-8"))) for file in files]
    return hashlib.sha256(repr(hashes).encode()).hexdigest()


def _user_parts(user_object: object) -> set[tuple[str, str]]:
    """Return the names and hashes of the module that defines an object, and of the user's modules that it imports."""
    definition = _definition(user_object)
    module, file = definition.__module__, _source_file(definition)
    if Path(file).is_relative_to(ROOT):
        return set()
    text = _text(module, file)
    if not text:
        raise NoSourceError(definition)
    parts = {(module, source_hash(text))}
    top, pending, seen = module.partition(".")[0], [*_imported(text, module, file), *parent_packages(module)], {module}
    while pending:
        name = pending.pop()
        if name in seen or (path := _module_file(name, top)) is None:
            continue
        seen.add(name)
        text = _text(name, str(path))
        parts.add((name, source_hash(text)))
        pending += [*_imported(text, name, str(path)), *parent_packages(name)]
    return parts


def _text(module: str, file: str) -> str:
    """Return the source of a module, from its loader if its file is not on this machine."""
    return "".join(linecache.getlines(file, vars(sys.modules[module]) if module in sys.modules else None))


def _definition(user_object: object) -> type | FunctionType:
    """Return the class or function of an object: the class of an instance, the function of a partial."""
    while isinstance(user_object, partial):
        user_object = user_object.func
    if isinstance(user_object, FunctionType):
        user_object = inspect.unwrap(user_object)
    return user_object if isinstance(user_object, type | FunctionType) else type(user_object)


def _source_file(definition: type | FunctionType) -> str:
    """Return the name under which `linecache` finds the source of a class or function: a path, or a notebook's cell.

    Raises NoSourceError.
    """
    if definition.__module__ != "__main__":
        with suppress(OSError, TypeError):
            return inspect.getsourcefile(definition) or inspect.getfile(definition)
    for method in vars(definition).values() if isinstance(definition, type) else [definition]:
        function = _function(method)  # `co_filename` is the script or cell, also in another process
        if function and function.__module__ == "__main__" and linecache.getlines(function.__code__.co_filename):
            return function.__code__.co_filename
    raise NoSourceError(definition)


def _function(method: object) -> FunctionType | None:
    if isinstance(method, property):
        method = method.fget
    elif isinstance(method, classmethod | staticmethod):
        method = method.__func__
    return method if isinstance(method, FunctionType) else None


def _imported(text: str, module: str, file: str) -> Iterator[str]:
    return imported_names(text, module, is_package=Path(file).stem == "__init__")


def _module_file(name: str, own_package: str) -> Path | None:
    """Return the source of a module of the user's; None for other modules, and for names that are not modules.

    A module is the user's if it is in the package of the object, or not installed.
    """
    top = name.partition(".")[0]
    file = _origin(top)
    if top != own_package and (file is None or not is_users(file)):
        return None
    file = _origin(name)
    return file if file is not None and file.suffix == ".py" and not file.is_relative_to(ROOT) else None


def _origin(name: str) -> Path | None:
    with suppress(ImportError, ValueError, AttributeError):
        module = sys.modules.get(name)
        spec = (module and module.__spec__) or find_spec(name)
        places = [*(spec.submodule_search_locations or ())] if spec else []
        if spec and spec.has_location and spec.origin:
            return Path(spec.origin)
        return Path(places[0]) if places else None  # a package without __init__.py
    return None
