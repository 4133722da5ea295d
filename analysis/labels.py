"""Labels of runs in tables and figures, made from the spec fields that vary.

A run's `setting` (a row of a table) is its algorithm with every field that varies except seed, data and partition. Its
`condition` (a column of a table) is data and partition. Its `family` is the algorithm with its teacher, whatever their
parameters.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.distillation import ADDED_WEIGHT, SUFFIX, is_added, teacher_weight
from fedray.config.labels import short_field
from fedray.results.specs import varying_fields
from fedray.strategies import STRATEGIES

ALGORITHMS = {name: strategy.label or name for name, strategy in STRATEGIES.items()}
"""Labels of the strategies, by name."""
SYMBOLS = {
    "strategy.lam": "λ", "strategy.mu": "μ", "strategy.temperature": "T", "strategy.alpha": "α", "strategy.beta": "β",
    "strategy.loss.name": "", "strategy.distillation.lam": "λ", "strategy.distillation.temperature": "T",
    "strategy.distillation.loss.name": "", "partition.alpha": "α", "proxy.name": "", "data.train": "",
}  # fmt: skip
COUNTED = {"partition.classes_per_client": ("class", "classes"), "partition.shards_per_client": ("shard", "shards")}
CONDITION_SECTIONS = ("data.", "partition.")
SECTION_KEYS = {"strategy": "strategy.name", "data": "data.train", "partition": "partition.kind"}
"""Fields that determine much of their section."""
PARTITION_KINDS = {
    "dirichlet": "Dirichlet",
    "dirichlet_per_client": "Dirichlet per client",
    "class_split": "",
    "shards": "",
}
DISTILLATION_FIELDS = ("temperature", "balance", "loss.")
"""Fields of the teacher's term without effect in a run that uses no teacher."""
MAX_MEMBERS = 20
"""Maximum number of teachers in an ensemble's label."""


def name_runs(runs: pd.DataFrame, uses_teacher: "pd.Series[bool] | None" = None) -> pd.DataFrame:
    """Return `runs` with the columns `algorithm`, `teacher_name`, `family`, `setting` and `condition`.

    `uses_teacher` is true for each run that used teacher outputs: a spec may name a teacher without using it. By
    default it is true for runs whose λ is above 0. Equal labels mean specs that are equal except for the seed.
    """
    named = runs.copy()
    weight = teacher_weight(runs)
    if uses_teacher is None:
        uses_teacher = weight > 0
    ignores_term = weight.notna() & ~uses_teacher
    suffix = is_added(runs).map({True: SUFFIX, False: ""})
    labels = [ALGORITHMS.get(str(name), str(name).rpartition(":")[2]) for name in runs["strategy.name"]]
    named["algorithm"] = [label + end for label, end in zip(labels, suffix, strict=True)]
    runs = runs.assign(**{"strategy.name": runs["strategy.name"] + suffix})
    named["teacher_name"] = [teacher_name(row) if uses_teacher[run] else "" for run, row in _rows(runs)]
    fields = varying_fields(runs)
    distinctive = _distinctive(runs, fields)
    setting_fields = [field for field in distinctive if not field.startswith(CONDITION_SECTIONS)]
    several = named.loc[uses_teacher, "teacher_name"].nunique() > 1
    pairs = zip(named["algorithm"], named["teacher_name"], strict=True)
    named["family"] = [_joined([algorithm, teacher if several else ""]) for algorithm, teacher in pairs]
    named["setting"] = [
        _joined([str(named.at[run, "family"]), *_values(row, setting_fields, ignores_term=bool(ignores_term[run]))])
        for run, row in _rows(runs)
    ]
    condition_fields = [field for field in distinctive if field.startswith(CONDITION_SECTIONS)]
    named["condition"] = [_condition(row, condition_fields) for _, row in _rows(_with_short_sources(runs))]
    return _ordered(_with_teacher_fields(named, fields, uses_teacher), fields)


def _ordered(named: pd.DataFrame, fields: Sequence[str]) -> pd.DataFrame:
    """Labels as ordered categories: by algorithm, as in ALGORITHMS, then by value."""
    ranks = {name: rank for rank, name in enumerate(ALGORITHMS.values())}
    rows = [row for _, row in _rows(named)]

    def values(row: dict[str, Any], sections: tuple[str, ...]) -> list[tuple[int, float, str]]:
        return [_sort_key(row[field]) for field in fields if field.startswith(sections)]

    def setting_key(row: dict[str, Any]) -> Any:
        algorithm, rest = row["algorithm"], ("strategy.", "proxy.", "training.", "teacher.")
        return (
            ranks.get(algorithm.removesuffix(SUFFIX), len(ranks)),
            algorithm,
            row["teacher_name"],
            values(row, rest),
            row["setting"],
        )

    settings = [row["setting"] for row in sorted(rows, key=setting_key)]
    families = [row["family"] for row in sorted(rows, key=setting_key)]
    conditions = [row["condition"] for row in sorted(rows, key=lambda row: values(row, CONDITION_SECTIONS))]
    for column, labels in (("setting", settings), ("family", families), ("condition", conditions)):
        named[column] = pd.Categorical(named[column], categories=list(dict.fromkeys(labels)), ordered=True)
    return named


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Sorts missing values first, then numbers by size, then texts."""
    if _is_missing(value):
        return 0, 0.0, ""
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def _distinctive(runs: pd.DataFrame, fields: Sequence[str]) -> list[str]:
    """The fields that their section's key does not determine, as it determines FML's weighting or a test set."""

    def is_determined(field: str) -> bool:
        section, parent = field.split(".")[0], field.rpartition(".")[0]
        keys = [SECTION_KEYS.get(section), f"{parent}.name" if parent != section else None]
        return any(
            key in fields and runs.groupby(key)[field].nunique(dropna=False).max() == 1 for key in keys if key != field
        )

    return [field for field in fields if not is_determined(field)]


def teacher_name(run: "dict[str, Any]") -> str:
    """Return a teacher's label: `ViT-B-32`, `tuned RN50`, `clip-vit-b-32-openai`, `random of ViT-B-32, RN50`."""
    if run.get("teacher.kind") == "ensemble":
        members = [_member(run, f"teacher.teachers.{index}.") for index in range(MAX_MEMBERS)]
        return f"{run.get('teacher.assignment')} of {', '.join(filter(None, members))}"
    return _member(run, "teacher.")


def teacher_method(run: "dict[str, Any]") -> str:
    """Return `zero-shot`, `linear_probe`, `fine_tune` or another kind of teacher; the first one's of an ensemble."""
    prefix = "teacher.teachers.0." if run.get("teacher.kind") == "ensemble" else "teacher."
    kind = _text(run.get(f"{prefix}kind"))
    return _text(run.get(f"{prefix}method")) or kind if kind == "adapted" else kind


def backbone(run: "dict[str, Any]") -> str:
    """Return the name of a teacher's network, fitted or not."""
    prefix = "teacher.backbone." if run.get("teacher.kind") == "adapted" else "teacher."
    return _text(run.get(f"{prefix}model"))


def _member(run: "dict[str, Any]", prefix: str) -> str:
    kind = _text(run.get(f"{prefix}kind"))
    if kind == "precomputed":
        return Path(_text(run.get(f"{prefix}file"))).stem
    if kind == "supervised":
        return "stand-in"
    if kind == "adapted":
        method = {"linear_probe": "probed", "fine_tune": "tuned"}.get(_text(run.get(f"{prefix}method")), "adapted")
        return f"{method} {_text(run.get(f'{prefix}backbone.model'))}"
    return _text(run.get(f"{prefix}model")) or kind


def _values(run: "dict[str, Any]", fields: Sequence[str], *, ignores_term: bool) -> list[str]:
    """Labels of the fields that distinguish a setting from others of its family."""
    distinctive = [field for field in fields if field != "strategy.name" and not field.startswith("teacher.")]
    ignored = _term_fields(run) if ignores_term else ()
    return [
        _field_label(field, run[field])
        for field in distinctive
        if not (_is_missing(run[field]) or field.startswith(ignored))
    ]


def _term_fields(run: "dict[str, Any]") -> tuple[str, ...]:
    """Beginnings of the fields of a run's teacher's term that have no effect without a teacher."""
    section = "strategy." if _is_missing(run.get(ADDED_WEIGHT)) else "strategy.distillation."
    return tuple(section + field for field in DISTILLATION_FIELDS)


def _condition(run: "dict[str, Any]", fields: Sequence[str]) -> str:
    """`Dirichlet α=0.1`, `2 classes per client`, `iid`; only `α=0.1` if all runs have the same kind of partition."""
    data_fields = [field for field in fields if field.startswith("data.")]
    main = ["partition.kind", "partition.alpha", *COUNTED] if "partition.kind" in fields or not fields else []
    partition_fields = list(dict.fromkeys([*main, *(field for field in fields if field not in data_fields)]))
    parts = [
        " ".join(filter(None, (_field_label(field, run[field]) for field in part if not _is_missing(run.get(field)))))
        for part in (data_fields, partition_fields)
    ]
    return _joined(parts) or (_condition(run, ()) if fields else "")  # a null field has no label


def _field_label(field: str, value: Any) -> str:
    if field == "partition.kind":
        return PARTITION_KINDS.get(str(value), str(value))
    name, text = short_field(field), _text(value)
    symbol = SYMBOLS.get(field, name)
    if field in COUNTED:
        return f"{text} {COUNTED[field][text != '1']} per client"
    return f"{symbol}={text}" if len(symbol) == 1 else f"{symbol} {text}".strip()


def _with_short_sources(runs: pd.DataFrame) -> pd.DataFrame:
    """Run whose data sets have short names, unless two short names would be equal."""
    names = {field: runs[field].map(_source_name) for field in ("data.train", "data.test") if field in runs}
    return runs.assign(**{field: short for field, short in names.items() if short.nunique() == runs[field].nunique()})


def _source_name(text: Any) -> str:
    """`torchvision:CIFAR100` -> `CIFAR100`, `parquet:data/cifar10/train-*.parquet` -> `cifar10`."""
    parts = Path(str(text).rpartition(":")[2]).parts
    return next((part for part in reversed(parts) if not re.match("train|test|val", part)), str(text))


def _with_teacher_fields(named: pd.DataFrame, fields: Sequence[str], uses_teacher: "pd.Series[bool]") -> pd.DataFrame:
    """Add fields of the teacher, such as its learning rate, to settings that are equal without them."""
    teacher_fields = [field for field in fields if field.startswith("teacher.")]
    for _, group in named[uses_teacher].groupby("setting"):
        differing = [field for field in teacher_fields if field in group and group[field].astype(str).nunique() > 1]
        if differing and group["teacher_name"].nunique() == 1:
            for run, row in _rows(group):
                extra = [_field_label(field, row[field]) for field in differing if not _is_missing(row[field])]
                named.loc[run, "setting"] = _joined([str(row["setting"]), *extra])
    return named


def _rows(frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    records: list[dict[str, Any]] = [{str(key): cell for key, cell in row.items()} for row in frame.to_dict("records")]
    return list(zip(map(str, frame.index), records, strict=True))


def _column(frame: pd.DataFrame, name: str) -> "pd.Series[Any]":
    return frame[name] if name in frame else pd.Series(float("nan"), index=frame.index)


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN is not equal to itself


def _text(value: Any) -> str:
    if _is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(filter(None, parts))
