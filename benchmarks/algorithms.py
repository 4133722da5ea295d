"""Write docs/algorithms.md: every built-in algorithm with its formula, source, fields, curve on digits, and command.

`python benchmarks/algorithms.py` writes the page from the classes. `--study RESULTS/algorithms`, the results of
`fedray sweep tune_spaces/algorithms.yaml`, draws docs/figures/algorithms.svg as well.
"""

import argparse
import ast
import inspect
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

from fedray.aggregation.aggregators import AGGREGATORS
from fedray.aggregation.server_optimizers import SERVER_OPTIMIZERS
from fedray.models.proxies import Proxy
from fedray.registry import Registry
from fedray.section import Section
from fedray.strategies import STRATEGIES
from fedray.strategies.base import Strategy
from fedray.training.sections import SGD, Adam, AdamW

ROOT = Path(__file__).parents[1]
PAGE, FIGURE = ROOT / "docs" / "algorithms.md", ROOT / "docs" / "figures" / "algorithms.svg"
SPEC = "tune_spaces/algorithms.yaml"
INTRODUCTION = f"""# Algorithms

This page is generated from the classes by `python benchmarks/algorithms.py`. A field that is not in a spec has the
default shown here. Any strategy can be combined with any server optimizer and aggregation rule, except for combinations
that are refused with a reason. [extending.md](extending.md) adds another algorithm.

![Test accuracy by round of every strategy, on two partitions](figures/algorithms.svg)

The curves are those of `fedray sweep {SPEC}`: digits, ten clients, one
seed. They show that the algorithms run and how they differ, not which one is best. The header of the file has the
settings.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, help="results of the study, for the figure")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is out of date")
    arguments = parser.parse_args()
    if arguments.check:
        return int(PAGE.read_text() != page())
    PAGE.write_text(page())
    if arguments.study:
        draw(arguments.study)
    return 0


def page() -> str:
    """Return the text of the page."""
    parts = [
        INTRODUCTION,
        *_chapter("Strategies", "strategy", STRATEGIES),
        *_chapter("Server optimizers", "server", SERVER_OPTIMIZERS),
        *_chapter("Aggregation rules", "aggregation", AGGREGATORS),
    ]
    return "\n".join(parts)


def _chapter(title: str, section: str, registry: Registry[Section]) -> list[str]:
    return [f"## {title}\n", *(_entry(section, name, cls) for name, cls in registry.items())]


def _entry(section: str, name: str, cls: type[Section]) -> str:
    source = (inspect.getmodule(cls).__doc__ or "").strip() if section == "strategy" else ""
    parts = [f"### {cls.label}\n", f"`{section}: {{name: {name}}}`\n"]
    parts += [_paragraphs(text) for text in (source, inspect.getdoc(cls) or "") if text]
    if rows := [row for base in reversed(cls.__mro__) for row in _rows(base, cls)]:
        unique = dict(rows)
        parts.append("| field | default | meaning |\n| --- | --- | --- |\n" + "\n".join(unique.values()) + "\n")
    if section == "strategy":
        parts += _conflicts(cls())
        norm = " proxy.norm=batch" if name == "fedbn" else ""
        parts.append(f"    fedray run {SPEC} strategy.name={name}{norm}\n")
    return "\n".join(parts)


def _conflicts(strategy: Strategy) -> list[str]:
    """Return a sentence for each rule, optimizer and proxy that the strategy refuses, with its reason."""
    usual = {
        "server": SERVER_OPTIMIZERS["sgd"](), "aggregation": AGGREGATORS["mean"](), "optimizer": SGD(),
        "proxy": Proxy(norm="batch"),
    }  # fmt: skip
    others = {
        "optimizer": (Adam, AdamW), "aggregation": AGGREGATORS.values(), "server": SERVER_OPTIMIZERS.values(),
        "proxy": (Proxy,),
    }  # fmt: skip
    changes = [{name: other()} for name, classes in others.items() for other in classes]
    reasons = [strategy.conflict(**{**usual, **change}) for change in changes]
    return [_paragraphs(f"Refused: {reason}.") for reason in dict.fromkeys(filter(None, reasons))]


def _paragraphs(text: str) -> str:
    return "\n".join(textwrap.fill(part, 118) + "\n" for part in text.split("\n\n"))


def _rows(base: type, cls: type[Section]) -> list[tuple[str, str]]:
    """Return a row of the table for each field that a base class documents, by field name."""
    if not issubclass(base, Section) or base is Section:
        return []
    body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
    rows = []
    for field, text in pairwise(body):
        is_documented = isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
        if is_documented and isinstance(text.value, ast.Constant) and field.target.id in cls.model_fields:
            default = cls.model_fields[field.target.id].default
            shown = f"`{default.name}`" if isinstance(default, Section) else f"`{default}`".replace("None", "null")
            meaning = " ".join(str(text.value.value).split()).replace("|", "\\|")
            rows.append((field.target.id, f"| `{field.target.id}` | {shown} | {meaning} |"))
    return rows


def draw(study: Path) -> None:
    """Draw the test accuracy of every strategy, one panel per strategy and partition, FedAvg's in grey."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    from fedray.results.loader import load_results

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "fedray"
    results = load_results(study)
    runs = results.rounds[["run", "round", "test_accuracy"]].merge(results.specs, left_on="run", right_index=True)
    names = [name for name in STRATEGIES if name in set(runs["strategy.name"])]
    alphas = sorted(runs["partition.alpha"].unique())
    figure, axes = plt.subplots(
        len(alphas), len(names), figsize=(1.1 * len(names), 1.7 * len(alphas)), sharex=True, sharey=True, squeeze=False
    )
    for row, alpha in zip(axes, alphas, strict=True):
        for axis, name in zip(row, names, strict=True):
            for shown, color in (("fedavg", "#BBBBBB"), (name, STRATEGIES[name].color)):
                curve = runs[(runs["strategy.name"] == shown) & (runs["partition.alpha"] == alpha)]
                axis.plot(curve["round"], 100 * curve["test_accuracy"], color=color, linewidth=1.4)
            axis.set_title(STRATEGIES[name].label, fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"α = {alpha:g}\naccuracy, %", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("round", fontsize=8)
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


if __name__ == "__main__":
    sys.exit(main())
