"""What a command takes around its rounds, beside bare Ray with as many processes that have torch.

    python benchmarks/startup.py
    python benchmarks/startup.py --repeats 9

`fedray run` here makes one round of two clients on 200 digits, which is nothing: the rest is start-up and exit. `bare
ray` starts Ray with its defaults, has two actors import torch, and ends. They take turns. Seconds are until the
command is gone; CPU and memory (PSS) are of all its processes together, looked at every quarter of a second. Linux
only.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from peers.measure import Measured, measure

BARE_TORCH = "import torch; torch.set_num_threads(1); torch.ones(1)"
BARE_RAY = """
import ray
ray.init(num_cpus=2, log_to_driver=False)

class Actor:
    def ready(self):
        import torch
        return torch.ones(1).item()

actors = [ray.remote(Actor).remote() for _ in range(2)]
ray.get([actor.ready.remote() for actor in actors])
"""
RUN = """
data: {train: digits, test: digits, train_limit: 200, test_limit: 100}
partition: {kind: iid, clients: 2}
training: {rounds: 1}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("                      seconds                    beside bare ray          CPU seconds   peak PSS, MB")
    with tempfile.TemporaryDirectory() as folder:
        done = [measured(Path(folder) / str(repeat)) for repeat in range(repeats)]
    for name in done[0]:
        print(line(name, [each[name] for each in done], [each["bare ray"].wall for each in done]))


def measured(folder: Path) -> Mapping[str, Measured]:
    """Each command once. Raises SystemExit where one fails."""
    folder.mkdir()
    (folder / "tiny.yaml").write_text(RUN)
    python, fedray = [sys.executable, "-c"], [sys.executable, "-m", "fedray"]
    run = [*fedray, "run", str(folder / "tiny.yaml"), "--results"]
    commands = {
        "bare torch": [*python, BARE_TORCH],
        "bare ray": [*python, BARE_RAY],
        "fedray run": [*run, str(folder / "ray")],
        "in one process": [*run, str(folder / "serial"), "resources.backend=serial"],
        "fedray --help": [*fedray, "--help"],
    }
    done = {name: measure(words, {"FEDRAY_CACHE": str(folder)}, 120, interval=0.25) for name, words in commands.items()}
    for name, each in done.items():
        if each.code:
            raise SystemExit("\n".join([f"{name}: exit code {each.code}", *each.last_lines]))
    return done


def line(name: str, done: Sequence[Measured], bare: Sequence[float]) -> str:
    ratios = [each.wall / wall for each, wall in zip(done, bare, strict=True)]
    cpu, memory = statistics.median(each.cpu for each in done), statistics.median(each.peak_pss for each in done)
    return (
        f"{name:15}{shown([each.wall for each in done]):>22}   {shown(ratios):>22}   "
        f"{cpu:17.1f}   {memory / 1e6:12,.0f}"
    )


def shown(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
