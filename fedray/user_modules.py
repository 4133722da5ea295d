"""Modules of the user's: which modules are theirs, and the names of the modules that a source imports."""

import ast
import sysconfig
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = (REPOSITORY / "fedray", REPOSITORY / "analysis")


def is_users(file: Path) -> bool:
    """Whether a file is neither fedray's, nor in the standard library, nor in a folder of installed packages."""
    is_installed = bool({"site-packages", "dist-packages"} & {*file.parts})
    folders = (*PACKAGES, Path(sysconfig.get_path("stdlib")))
    return not is_installed and not any(file.is_relative_to(folder) for folder in folders)


def imported_names(text: str, module: str, *, is_package: bool) -> Iterator[str]:
    """Yield the dotted names that a module may import, also inside functions; some may be names of objects.

    `text` is the source of `module`, which may be the `__init__.py` of a package. Raises SyntaxError.
    """
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            name = ".".join(filter(None, (above, node.module)))
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def parent_packages(name: str) -> list[str]:
    """Return the packages around a module, which Python imports before it."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]
