"""Print measures of the structure of a checkout: size, lengths of functions, imports between modules, dynamic typing.

    python benchmarks/structure.py                 # this checkout
    python benchmarks/structure.py OTHER ...       # other checkouts, for example of `git worktree add OTHER COMMIT`

An arrow is an ordered pair of modules of which the first imports the second anywhere in the file, imports inside
functions included. The layers are those of the shortest order in which every package (or module) imports only from
layers below its own; packages that import each other count as one. The length of a function is the number of lines
from `def` to its last line, without docstring, comments and blank lines.
"""

import argparse
import ast
import io
import re
import statistics
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

DYNAMIC = {
    "Any": r"\bAny\b",
    "getattr": r"\bgetattr\(",
    "cast(": r"\bcast\(",
    "type: ignore": r"# type: ignore",
}
"""Patterns of code that mypy cannot follow, without imports of the name."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="*", type=Path, default=[Path(__file__).parents[1]])
    for checkout in parser.parse_args().checkout:
        print(f"# {checkout}")
        for name, value in measures(checkout):
            print(f"{name:45} {value}")


def measures(checkout: Path) -> Iterator[tuple[str, object]]:
    """Yield the name and value of each measure."""
    for top in ("fedray", "analysis", "tests"):
        files = {path: path.read_text() for path in sorted((checkout / top).rglob("*.py"))}
        lines = {path: text.count("\n") for path, text in files.items()}
        lengths = sorted(length for text in files.values() for length in function_lengths(text))
        yield f"{top}: files, lines", f"{len(files)}, {sum(lines.values()):,}"
        yield f"{top}: files of over 300 lines", sum(number > 300 for number in lines.values())
        yield (
            f"{top}: functions, median, 95th percentile",
            f"{len(lengths)}, {statistics.median(lengths):g}, {lengths[int(0.95 * len(lengths))]}",
        )
        longest = sorted(lines, key=lambda path: -lines[path])[:3]
        yield f"{top}: longest files", ", ".join(f"{path.relative_to(checkout)} {lines[path]}" for path in longest)
    modules = read_modules(checkout / "fedray")
    imports = import_graph(modules)
    packages = package_graph(imports)
    yield "fedray: arrows between modules", sum(map(len, imports.values()))
    yield "fedray: layers of modules", count_layers(imports)
    yield "fedray: packages and top-level modules", len(packages)
    yield "fedray: arrows between packages", sum(map(len, packages.values()))
    yield "fedray: layers of packages", count_layers(packages)
    for name, pattern in DYNAMIC.items():
        yield f"fedray: {name}", sum(count_uses(text, pattern) for text in modules.values())


def function_lengths(text: str) -> Iterator[int]:
    """Yield the length in lines of each function and method."""
    code_lines = _lines_of_code(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, Function):
            lines = set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
            if ast.get_docstring(node, clean=False) is not None:
                docstring = node.body[0]
                lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
            yield len(lines & code_lines)


def _lines_of_code(text: str) -> set[int]:
    """Return the numbers of the lines that have more than a comment."""
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return lines


def read_modules(package: Path) -> dict[str, str]:
    """Return the text of each module of a package by its dotted name."""
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in sorted(package.rglob("*.py"))
    }


def import_graph(modules: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module imports, itself excluded."""
    return {name: set(_imported(text, modules)) - {name} for name, text in modules.items()}


def _imported(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in modules:
                    yield submodule
                elif node.module in modules:
                    yield node.module


def package_graph(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return the packages and top-level modules that each of them imports, itself excluded."""

    def package(name: str) -> str:
        return name.split(".")[1]

    graph: dict[str, set[str]] = {}
    for name, targets in imports.items():
        if "." in name:
            graph.setdefault(package(name), set()).update(package(target) for target in targets if "." in target)
    return {name: targets - {name} for name, targets in graph.items()}


def count_layers(graph: Mapping[str, set[str]]) -> int:
    """Return the number of nodes on the longest path of the graph, each cycle counted as one node."""
    reachable = {node: _reachable(graph, node) for node in graph}
    cycle = {node: min([node, *(other for other in reachable[node] if node in reachable[other])]) for node in graph}

    @cache
    def height(node: str) -> int:
        members = [other for other in graph if cycle[other] == node]
        below = {cycle[target] for member in members for target in graph[member]} - {node}
        return 1 + max(map(height, below), default=0)

    return max(height(cycle[node]) for node in graph)


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting.extend(new)
    return reached


def count_uses(text: str, pattern: str) -> int:
    """Return how often a pattern occurs, lines with imports excluded."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*(from|import) ", line)]
    return sum(len(re.findall(pattern, line)) for line in lines)


if __name__ == "__main__":
    main()
