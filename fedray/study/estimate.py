"""Estimated seconds of trials, saved by `fedray plan` and compared later with the actual ones."""

import json
import platform
import time
from collections.abc import Mapping, Sequence

from fedray.results.loader import read_json
from fedray.study.study import Study, Trial
from fedray.types import Row


def save(study: Study, seconds: Mapping[str, float]) -> None:
    """Add each trial's estimated seconds, by its name, to plan.json."""
    seconds = _read(study).get("seconds", {}) | dict(seconds)
    document = {"time": time.strftime("%Y-%m-%d %H:%M"), "node": platform.node(), "seconds": seconds}
    study.storage.write("plan.json", json.dumps(document, indent=2))


def compare_with_actual(study: Study, trials: Sequence[Trial]) -> tuple[int, float, float] | None:
    """Return the number of finished trials with an estimate, their estimated and their actual seconds.

    None without such a trial.
    """
    estimated = _read(study).get("seconds", {})
    finished = [trial for trial in trials if trial.state == "finished" and trial.name in estimated]
    if not finished:
        return None
    actual = sum(row.get("seconds", 0) for trial in finished for row in trial.history())
    return len(finished), sum(estimated[trial.name] for trial in finished), actual


def _read(study: Study) -> Row:
    """Return plan.json; empty if it is missing or damaged."""
    document = read_json(study.folder / "plan.json", [])
    seconds = document.get("seconds")
    is_valid = isinstance(seconds, dict) and all(isinstance(value, int | float) for value in seconds.values())
    return document if is_valid else {}
