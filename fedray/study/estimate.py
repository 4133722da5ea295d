"""What a plan said each trial would take, held against what it took."""

import json
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fedray.study.study import Study, Trial


def keep(study: Study, seconds: Mapping[str, float]) -> None:
    """plan.json: what each trial's rounds are estimated to take, by its name."""
    seconds = _read(study).get("seconds", {}) | dict(seconds)
    document = {"made": time.strftime("%Y-%m-%d %H:%M"), "node": platform.node(), "seconds": seconds}
    study.storage.write("plan.json", json.dumps(document, indent=2))


def compare_with_actual(study: Study, trials: Sequence[Trial]) -> tuple[int, float, float] | None:
    """How many finished trials had been planned, the seconds they were to take, and took; None without one."""
    planned = _read(study).get("seconds", {})
    done = [trial for trial in trials if trial.folder.finished and trial.name in planned]
    if not done:
        return None
    took = sum(row["seconds"] for trial in done for row in trial.history())
    return len(done), sum(planned[trial.name] for trial in done), took


def _read(study: Study) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((study.folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document
