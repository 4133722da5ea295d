"""The command that runs a workload with a tool, and the changes of fedray's spec by its variants."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PLAIN = ("training.memory_format=contiguous",)
CHANNELS_LAST = ("training.memory_format=channels_last",)
CHANGES: Mapping[str, Sequence[str]] = {
    "nhwc": CHANNELS_LAST,
    "fast": (*CHANNELS_LAST, "training.precision=bfloat16"),
    "cached": ("strategy.name=fedlpfm", "strategy.lam=0.5", "teacher.mode=cached"),
    "online": ("strategy.name=fedlpfm", "strategy.lam=0.5", "teacher.mode=online"),
    "half": ("teacher.precision=bfloat16",),
}
"""Overrides by the words of a variant: `fedray-nhwc-cached` applies `nhwc` and `cached`. `fast` trains with all inexact
speed-ups; `half` runs the teacher in bfloat16."""
FLOOR = {"nhwc": ("--channels-last",), "fast": ("--channels-last", "--bfloat16")}
TEACHER = "teacher={{kind: zero_shot, model: ViT-B-32, pretrained: {file}}}"


@dataclass(frozen=True)
class Job:
    """One workload for one tool."""

    spec: Path
    overrides: Sequence[str]  # overrides that name the data
    folder: Path  # written by `prepare`
    images: Path  # decoded images, read by fedray
    teacher: Path  # checkpoint file
    rounds: int
    environments: Path  # one folder per peer
    scratch: Path  # an empty folder


@dataclass(frozen=True)
class Command:
    words: Sequence[str]
    environment: Mapping[str, str]


def command(tool: str, job: Job) -> Command:
    """Return the command of a tool. Raises SystemExit for an unknown tool."""
    name, *words = tool.split("-")
    known = {"fedray": CHANGES, "floor": FLOOR}.get(name, {})
    if name not in COMMANDS or not known.keys() >= set(words):
        raise SystemExit(f"unknown tool {tool}; known are {', '.join(COMMANDS)}, and variants of floor and fedray")
    return COMMANDS[name](job, words)


def has_teacher(tool: str) -> bool:
    """Return True if the tool trains with a teacher, and so another objective."""
    return bool({"cached", "online"} & set(tool.split("-")))


def results_of(job: Job) -> Path:
    """Return the folder of fedray's tables."""
    return job.scratch / "results" / job.spec.stem


def _fedray(job: Job, words: Sequence[str]) -> Command:
    targets = [TEACHER.format(file=job.teacher)] if {"cached", "online"} & set(words) else []
    changes = [*PLAIN, *targets, *(change for word in words for change in CHANGES[word])]
    rounds = f"training.rounds={job.rounds}"
    run = [sys.executable, "-m", "fedray", "run", str(job.spec), *job.overrides, rounds, *changes]
    cache = job.scratch / "cache"  # with an empty teacher cache
    cache.mkdir()
    (cache / "images").symlink_to(job.images)
    return Command([*run, "--results", str(job.scratch / "results")], {"FEDRAY_CACHE": str(cache)})


def _floor(job: Job, words: Sequence[str]) -> Command:
    options = [option for word in words for option in FLOOR[word]]
    return _script(Path(sys.executable), "floor.py", job, *options)


def _flower(job: Job, _: Sequence[str]) -> Command:
    return _script(_python(job, "flower"), "flower_app.py", job)


def _pfl(job: Job, _: Sequence[str]) -> Command:
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    script = _script(_python(job, "pfl"), "pfl_tool.py", job)
    python, *rest = script.words
    return Command([python, *torchrun, *rest], {**script.environment, "OMP_NUM_THREADS": "1"})


def _fluke(job: Job, _: Sequence[str]) -> Command:
    return _script(_python(job, "fluke"), "fluke_tool.py", job)


def _blazefl(job: Job, _: Sequence[str]) -> Command:
    script = _script(_python(job, "blazefl"), "blazefl_tool.py", job)
    return Command(script.words, {**script.environment, "OMP_NUM_THREADS": "1"})


COMMANDS: Mapping[str, Callable[[Job, Sequence[str]], Command]] = {
    "floor": _floor,
    "fedray": _fedray,
    "flower": _flower,
    "pfl": _pfl,
    "fluke": _fluke,
    "blazefl": _blazefl,
}


def _script(python: Path, name: str, job: Job, *options: str) -> Command:
    words = [str(python), str(HERE / name), str(job.folder), str(job.rounds), *options]
    return Command(words, {"PYTHONPATH": str(HERE)})


def _python(job: Job, tool: str) -> Path:
    python = job.environments / tool / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{tool} has no environment at {python.parent.parent}; README.md describes how to create it")
    return python
