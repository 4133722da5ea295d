"""Start-up and exit time of commands, compared with bare Ray and the same number of processes that import torch.

    python benchmarks/startup.py
    python benchmarks/startup.py --repeats 9

`fedray run` trains one round of two clients on 200 digits, which takes no time: the rest is start-up and exit. `bare
ray` starts Ray with its defaults, imports torch in two actors, and stops. The commands run in turn. Seconds are until
the command has ended; CPU and memory (PSS) are totals over its processes, sampled every 0.25 s. Linux only.
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
    print("                      seconds                    ratio to bare ray        CPU seconds   peak PSS, MB")
    with tempfile.TemporaryDirectory() as folder:
        results = [measure_all(Path(folder) / str(repeat)) for repeat in range(repeats)]
    for name in results[0]:
        print(line(name, [result[name] for result in results], [result["bare ray"].wall for result in results]))


def measure_all(folder: Path) -> Mapping[str, Measured]:
    """Run each command once. Raises SystemExit if one fails."""
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
    environment = {"FEDRAY_CACHE": str(folder)}
    results = {name: measure(words, environment, 120, interval=0.25) for name, words in commands.items()}
    for name, result in results.items():
        if result.code:
            raise SystemExit("\n".join([f"{name}: exit code {result.code}", *result.last_lines]))
    return results


def line(name: str, results: Sequence[Measured], bare: Sequence[float]) -> str:
    ratios = [result.wall / wall for result, wall in zip(results, bare, strict=True)]
    cpu, memory = (statistics.median(values) for values in zip(*((r.cpu, r.peak_pss) for r in results), strict=True))
    return (
        f"{name:15}{spread([result.wall for result in results]):>22}   {spread(ratios):>22}   "
        f"{cpu:17.1f}   {memory / 1e6:12,.0f}"
    )


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
