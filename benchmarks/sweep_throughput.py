"""Trials per hour of `fedray sweep`, compared with a loop of `fedray run`, one command per trial.

    python benchmarks/sweep_throughput.py                          # 8 trials of the quickstart
    python benchmarks/sweep_throughput.py --trials 8 --repeats 3 SPACE.yaml [section.key=value ...]

The two run in turn. CPU use is read from /proc/stat, so nothing else should run at the same time. Each starts with an
empty teacher cache. The script checks that both end in the same weights.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedray.config import loader
from fedray.config.yaml_files import to_yaml

FEDRAY = [sys.executable, "-m", "fedray"]


@dataclass(frozen=True)
class Measurement:
    """One study."""

    seconds: float
    busy: float  # share of all cores, from 0 to 1


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        space = shrink(options, Path(scratch))
        ways: dict[str, Callable[[Path], None]] = {"loop": lambda f: loop(space, f), "sweep": lambda f: sweep(space, f)}
        measurements: dict[str, list[Measurement]] = {way: [] for way in ways}
        weights: dict[str, str] = {}
        for repeat in range(options.repeats):
            for way, run in ways.items():
                folder = Path(scratch) / f"{way}-{repeat}"
                measurements[way].append(measure(run, folder))
                weights[way] = digest(folder)
                last = measurements[way][-1]
                print(f"{way}: {last.seconds:.1f} s, {last.busy:.0%} of {os.cpu_count()} cores busy", flush=True)
        assert len(set(weights.values())) == 1, "loop and sweep must end in the same weights"
        report(measurements, len(loader.load(space)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", default="tune_spaces/quickstart.yaml")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def shrink(options: argparse.Namespace, folder: Path) -> Path:
    """Write a space of about `--trials` trials: the given one, with as many seeds as that takes; return its path."""
    original = loader.read(options.space, options.overrides)
    seeds = -(-options.trials // len(original.runs()))
    axes = {axis.field: {axis.kind: axis.values} for axis in original.axes} | {"seed": {"grid": list(range(seeds))}}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump({"base": original.base, "space": axes}, sort_keys=False))
    return path


def loop(space: Path, folder: Path) -> None:
    for run in loader.load(space):
        spec = folder / f"{Path(run.name).name}.yaml"
        spec.write_text(to_yaml(run.experiment))
        command([*FEDRAY, "run", str(spec), "--quiet", "--results", str(folder)], folder)


def sweep(space: Path, folder: Path) -> None:
    command([*FEDRAY, "sweep", str(space), "--quiet", "--results", str(folder)], folder)


def command(words: list[str], folder: Path) -> None:
    subprocess.run(
        words, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "FEDRAY_CACHE": str(folder / "cache")}
    )


def measure(run: Callable[[Path], None], folder: Path) -> Measurement:
    folder.mkdir()
    before, start = ticks(), time.perf_counter()
    run(folder)
    seconds, after = time.perf_counter() - start, ticks()
    idle, total = (after[key] - before[key] for key in ("idle", "total"))
    return Measurement(seconds, 1 - idle / total)


def ticks() -> Mapping[str, int]:
    """Return idle and total clock ticks of all cores since the machine started."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return {"idle": numbers[3] + numbers[4], "total": sum(numbers)}


def digest(folder: Path) -> str:
    """Return the hash of all trials' final weights."""
    models = sorted(file.read_bytes() for file in folder.rglob("model.safetensors"))
    return hashlib.sha256(b"".join(models)).hexdigest()


def report(measurements: Mapping[str, list[Measurement]], trials: int) -> None:
    print(
        f"\n{trials} trials, {os.cpu_count()} cores, {len(measurements['loop'])} repeats: median (minimum to maximum)"
    )
    for way, studies in measurements.items():
        rates = [trials * 3600 / study.seconds for study in studies]
        middle, busy = statistics.median(rates), statistics.median(study.busy for study in studies)
        print(f"{way:6} {middle:6.0f} trials/hour ({min(rates):.0f} to {max(rates):.0f}), {busy:.0%} of the cores busy")
    pairs = zip(measurements["loop"], measurements["sweep"], strict=True)
    ratios = [loop.seconds / sweep.seconds for loop, sweep in pairs]
    print(f"ratio  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
