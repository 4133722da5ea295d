"""Compare fedray with bare PyTorch (the floor) and with its peers, on the same data, partition, weights and batches.

    python benchmarks/peers/compare.py W1 --tools floor fedray fedray-fast --repeats 3 --data cifar10/
    python benchmarks/peers/compare.py W1 --tools floor fedray flower pfl fluke blazefl --envs envs/ --data cifar10/

The tools run in turn, once per pass. README.md describes workloads, tools, their environments and the columns.
"""

import argparse
import csv
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import tools
from measure import Measured, measure
from prepare import prepare, write_teacher
from report import Run, table

from fedray.cache import cache_folder
from fedray.config import loader

HERE = Path(__file__).parent
WORKLOADS = ("W1", "W2", "W3", "W4")


def main() -> None:
    options = arguments()
    spec = HERE / f"{options.workload}.yaml"
    overrides = data_overrides(options.data)
    (loaded,) = loader.load(spec, overrides)
    folder = options.work.absolute() / options.workload
    os.environ["FEDRAY_CACHE"] = str(options.work.absolute() / "cache")
    prepare(loaded.experiment, folder)
    if any(map(tools.has_teacher, options.tools)):
        write_teacher(teacher_file(options.work))
    rounds = loaded.experiment.training.rounds
    runs = read(options.log, options.workload)
    for _ in range(options.repeats):
        for tool in options.tools:
            with tempfile.TemporaryDirectory() as scratch:
                job = tools.Job(
                    spec, overrides, folder, cache_folder() / "images", teacher_file(options.work),
                    options.rounds or rounds, options.envs.absolute(), Path(scratch),
                )  # fmt: skip
                runs.append(Run(options.workload, tool, rounds, run(tool, job, options.limit)))
            write(options.log, runs[-1])
            print(line(runs[-1]), flush=True)
    if finished := [done for done in runs if done.measured.code == 0]:
        print(f"\n{options.workload}, {rounds} rounds\n\n{table(finished)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--tools", nargs="+", default=["floor", "fedray", "fedray-fast"])
    parser.add_argument(
        "--repeats", type=int, default=3, help="passes over the tools; 0 only prints the table of the log"
    )
    parser.add_argument(
        "--rounds", type=int, help="fewer rounds than the workload has; the time of the whole command is projected"
    )
    parser.add_argument("--data", type=Path, help="folder with train-*.parquet and test-*.parquet of CIFAR-10")
    parser.add_argument("--envs", type=Path, default=Path("envs"), help="folder with one environment per peer")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "fedray-peers")
    parser.add_argument("--log", type=Path, help="file to which runs are appended; the table has all runs of the file")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a command is killed")
    return parser.parse_args()


def data_overrides(folder: Path | None) -> list[str]:
    """Return the overrides of the spec that name the data; without a folder, torchvision downloads it."""
    if folder is None:
        return []
    return [f"data.{side}=parquet:{folder.absolute()}/{side}-*.parquet" for side in ("train", "test")]


def teacher_file(work: Path) -> Path:
    return work.absolute() / "teacher.safetensors"


def run(tool: str, job: tools.Job, limit: float) -> Measured:
    """Run one tool. fedray prints no loss: its curve is read from rounds.csv."""
    command = tools.command(tool, job)
    measured = measure(command.words, command.environment, limit)
    if measured.code != 0:
        print("\n".join(measured.last_lines))
    elif rows := curve(tools.results_of(job) / "rounds.csv"):
        loss, accuracy = ([float(row[name]) for row in rows] for name in ("test_loss", "test_accuracy"))
        measured = replace(measured, loss=loss, accuracy=accuracy)
    return measured


def curve(file: Path) -> list[dict[str, str]]:
    """Return the rows of rounds.csv, or none if there is no such file."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


def line(done: Run) -> str:
    measured = done.measured
    if measured.code != 0:
        return f"{done.tool}: exit code {measured.code} after {measured.wall:.1f} s"
    return (
        f"{done.tool}: {measured.wall:.1f} s, {done.per_round:.2f} s/round, {done.megabytes:,.0f} MB in "
        f"{measured.processes} processes, accuracy {measured.accuracy[-1]:.4f}, loss {measured.loss[-1]:.4f}; "
        f"{measured.others:.2f} cores busy with other processes"
    )


def write(log: Path | None, done: Run) -> None:
    if log is not None:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(done)) + "\n")


def read(log: Path | None, workload: str) -> list[Run]:
    """Return the runs of a workload in the log."""
    if log is None or not log.exists():
        return []
    rows: Sequence[dict[str, object]] = [json.loads(text) for text in log.read_text(encoding="utf-8").splitlines()]
    return [
        Run(**{**row, "measured": Measured(**row["measured"])})  # type: ignore[arg-type]
        for row in rows
        if row["workload"] == workload
    ]


if __name__ == "__main__":
    main()
