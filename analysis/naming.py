"""What varies among runs, and what the parts of a table and of a figure are called.

A run's `setting` (a table's row) is its algorithm with whatever varies but seed, data and partition; its `condition` (a
table's column) is data and partition; its `family` is the algorithm with its teacher, whatever their parameters.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fedray.results.loader import varying_fields

ALGORITHMS = {"fedavg": "FedAvg", "fedprox": "FedProx", "fml": "FML", "fedlpfm": "Fed-LPFM"}
SYMBOLS = {
    "strategy.lam": "λ", "strategy.mu": "μ", "strategy.temperature": "T", "strategy.alpha": "α", "strategy.beta": "β",
    "strategy.loss.name": "", "partition.alpha": "α", "proxy.name": "", "data.train": "",
}  # fmt: skip
COUNTED = {"partition.classes_per_client": ("class", "classes"), "partition.shards_per_client": ("shard", "shards")}
CONDITIONS = ("data.", "partition.")
CHOOSERS = {"strategy": "strategy.name", "data": "data.train", "partition": "partition.kind"}
"""Fields that much of their section follows from."""
KINDS = {
    "dirichlet": "Dirichlet",
    "dirichlet_per_client": "Dirichlet per client",
    "class_split": "",
    "shards": "",
}


def name_runs(runs: pd.DataFrame, targets: "pd.Series[bool] | None" = None) -> pd.DataFrame:
    """`runs` with `algorithm`, `teacher_name`, `family`, `setting` and `condition`.

    `targets` says of each run whether it has asked its teacher, which a spec may name in vain; without it, what has
    a `strategy.lam` but zero has. Equal labels mean equal specs but for the seed.
    """
    named = runs.copy()
    if targets is None:
        targets = pd.to_numeric(_column(runs, "strategy.lam"), errors="coerce") > 0
    named["algorithm"] = [ALGORITHMS.get(str(name), str(name)) for name in runs["strategy.name"]]
    named["teacher_name"] = [teacher_name(row) if targets[run] else "" for run, row in _rows(runs)]
    fields = varying_fields(runs)
    told = _telling(runs, fields)
    of_setting = [f for f in told if not f.startswith(CONDITIONS)]
    teachers = named.loc[targets, "teacher_name"].nunique() > 1
    named["family"] = [
        _joined([a, t if teachers else ""]) for a, t in zip(named["algorithm"], named["teacher_name"], strict=True)
    ]
    named["setting"] = [
        _joined([str(named.at[run, "family"]), *_values(row, of_setting, targets=bool(targets[run]))])
        for run, row in _rows(runs)
    ]
    of_condition = [f for f in told if f.startswith(CONDITIONS)]
    named["condition"] = [_condition(row, of_condition) for _, row in _rows(_with_short_sources(runs))]
    return _in_order(_distinct(named, fields, targets), fields)


def _in_order(named: pd.DataFrame, fields: Sequence[str]) -> pd.DataFrame:
    """Labels as ordered categories: algorithms as the field came to know them, then by value."""
    ranks = {name: rank for rank, name in enumerate(ALGORITHMS.values())}
    rows = [row for _, row in _rows(named)]

    def by_value(row: dict[str, Any], start: tuple[str, ...]) -> list[tuple[int, float, str]]:
        return [_sortable(row[field]) for field in fields if field.startswith(start)]

    def of_setting(row: dict[str, Any]) -> Any:
        algorithm, rest = row["algorithm"], ("strategy.", "proxy.", "training.", "teacher.")
        return (ranks.get(algorithm, len(ranks)), algorithm, row["teacher_name"], by_value(row, rest), row["setting"])

    settings = [row["setting"] for row in sorted(rows, key=of_setting)]
    families = [row["family"] for row in sorted(rows, key=of_setting)]
    conditions = [row["condition"] for row in sorted(rows, key=lambda row: by_value(row, CONDITIONS))]
    for column, labels in (("setting", settings), ("family", families), ("condition", conditions)):
        named[column] = pd.Categorical(named[column], categories=list(dict.fromkeys(labels)), ordered=True)
    return named


def _sortable(value: Any) -> tuple[int, float, str]:
    """Nothing, numbers by size, and then words."""
    if not _is_there(value):
        return 0, 0.0, ""
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def _telling(runs: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """Without what follows from the chooser of its section: FML's weighting, a private model's init, a test set."""

    def follows(field: str) -> bool:
        section, within = field.split(".")[0], field.rpartition(".")[0]
        choosers = [CHOOSERS.get(section), f"{within}.name" if within != section else None]
        return any(
            chooser in fields and runs.groupby(chooser)[field].nunique(dropna=False).max() == 1
            for chooser in choosers
            if chooser != field
        )

    return [field for field in fields if not follows(field)]


def teacher_name(run: "dict[str, Any]") -> str:
    """`ViT-B-32`, `tuned RN50`, `clip-vit-b-32-openai`, `random of ViT-B-32, RN50`."""
    if run.get("teacher.kind") == "ensemble":
        members = [_member(run, f"teacher.teachers.{place}.") for place in range(20)]
        return f"{run.get('teacher.assignment')} of {', '.join(filter(None, members))}"
    return _member(run, "teacher.")


def teacher_method(run: "dict[str, Any]") -> str:
    """`zero-shot`, `linear_probe`, `fine_tune` or another kind; of several teachers, the first's."""
    prefix = "teacher.teachers.0." if run.get("teacher.kind") == "ensemble" else "teacher."
    kind = _text(run.get(f"{prefix}kind"))
    return _text(run.get(f"{prefix}method")) or kind if kind == "adapted" else kind


def backbone(run: "dict[str, Any]") -> str:
    """A teacher's network, whatever was done to it."""
    prefix = "teacher.backbone." if run.get("teacher.kind") == "adapted" else "teacher."
    return _text(run.get(f"{prefix}model"))


def _member(run: "dict[str, Any]", prefix: str) -> str:
    kind = _text(run.get(f"{prefix}kind"))
    if kind == "precomputed":
        return Path(_text(run.get(f"{prefix}file"))).stem
    if kind == "supervised":
        return "stand-in"
    if kind == "adapted":
        how = {"linear_probe": "probed", "fine_tune": "tuned"}.get(_text(run.get(f"{prefix}method")), "adapted")
        return f"{how} {_text(run.get(f'{prefix}backbone.model'))}"
    return _text(run.get(f"{prefix}model")) or kind


def _values(run: "dict[str, Any]", fields: Sequence[str], *, targets: bool) -> list[str]:
    """What tells a setting from others of its family."""
    told = [f for f in fields if f != "strategy.name" and not f.startswith("teacher.")]
    idle = _OF_TEACHING if not targets and _is_there(run.get("strategy.lam")) else ()
    return [_named(f, run[f]) for f in told if _is_there(run[f]) and not f.startswith(idle)]


_OF_TEACHING = ("strategy.temperature", "strategy.balance", "strategy.loss.")


def _condition(run: "dict[str, Any]", fields: Sequence[str]) -> str:
    """`Dirichlet α=0.1`, `2 classes per client`, `iid`; only `α=0.1` where the kind is the same everywhere."""
    of_data = [f for f in fields if f.startswith("data.")]
    whole = ["partition.kind", "partition.alpha", *COUNTED] if "partition.kind" in fields or not fields else []
    of_partition = dict.fromkeys([*whole, *(f for f in fields if f not in of_data)])
    data, partition = ([_named(f, run[f]) for f in part if _is_there(run.get(f))] for part in (of_data, of_partition))
    label = _joined([" ".join(filter(None, data)), " ".join(filter(None, partition))])
    return label or (_condition(run, ()) if fields else "")  # of null, nothing is told


def _named(field: str, value: Any) -> str:
    if field == "partition.kind":
        return KINDS.get(str(value), str(value))
    known, text = field.removesuffix(".name").removesuffix(".kind").rsplit(".", 1)[-1], _text(value)
    symbol = SYMBOLS.get(field, known)
    if field in COUNTED:
        return f"{text} {COUNTED[field][text != '1']} per client"
    return f"{symbol}={text}" if len(symbol) == 1 else f"{symbol} {text}".strip()


def _with_short_sources(runs: pd.DataFrame) -> pd.DataFrame:
    """Data sets by their names, unless two would have the same."""
    names = {field: runs[field].map(_source) for field in ("data.train", "data.test") if field in runs}
    return runs.assign(**{f: own for f, own in names.items() if own.nunique() == runs[f].nunique()})


def _source(text: Any) -> str:
    """`torchvision:CIFAR100` -> `CIFAR100`, `parquet:data/cifar10/train-*.parquet` -> `cifar10`."""
    parts = Path(str(text).rpartition(":")[2]).parts
    return next((part for part in reversed(parts) if not re.match("train|test|val", part)), str(text))


def _distinct(named: pd.DataFrame, fields: Sequence[str], targets: "pd.Series[bool]") -> pd.DataFrame:
    """Tell apart what differs in a field that no label speaks of: a teacher's learning rate, say."""
    told = [f for f in fields if f.startswith("teacher.")]
    for _, group in named[targets].groupby("setting"):
        differing = [f for f in told if f in group and group[f].astype(str).nunique() > 1]
        if differing and group["teacher_name"].nunique() == 1:
            for run, row in _rows(group):
                extra = [_named(f, row[f]) for f in differing if _is_there(row[f])]
                named.loc[run, "setting"] = _joined([str(row["setting"]), *extra])
    return named


def _rows(frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    records: list[dict[str, Any]] = [{str(key): cell for key, cell in row.items()} for row in frame.to_dict("records")]
    return list(zip(map(str, frame.index), records, strict=True))


def _column(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    return frame[name] if name in frame else pd.Series(float("nan"), index=frame.index)


def _is_there(value: Any) -> bool:
    return value is not None and value == value  # NaN is not itself


def _text(value: Any) -> str:
    if not _is_there(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(filter(None, parts))
