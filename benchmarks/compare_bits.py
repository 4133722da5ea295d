"""Compare the final weights of two commits: `python benchmarks/compare_bits.py e0c6eff HEAD [--ray]`.

Each commit is checked out into a temporary worktree and runs the same small experiments on digits, one of
every strategy and of every way that a teacher's outputs reach a client. Prints a SHA-256 per experiment and
commit, and exits with 1 where two differ. Digests depend on the processor and the thread count: they are
comparable within one call only, and none is kept.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
BASE: dict[str, Any] = {
    "data": {"train": "digits", "test": "digits", "train_limit": 300, "test_limit": 100, "public_fraction": 0.2},
    "partition": {"kind": "dirichlet", "alpha": 0.3, "clients": 6, "min_examples": 4},
    "proxy": {"name": "cnn", "norm": "batch"},
    "training": {"rounds": 3, "batch_size": 16, "optimizer": {"lr": 0.05}, "participation": 0.5, "local_epochs": 2},
}
STAND_IN = {"kind": "supervised", "epochs": 2}
CROPPED = {"data": {**BASE["data"], "augment": "crop_flip"}}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": {"name": "fedavg"}},
    "fedprox": {"strategy": {"name": "fedprox", "mu": 0.1}},
    "fml": {"strategy": {"name": "fml"}},
    "fedlpfm cached": {"strategy": {"name": "fedlpfm"}, "teacher": STAND_IN},
    "fedlpfm online": {"strategy": {"name": "fedlpfm"}, "teacher": {**STAND_IN, "mode": "online"}},
    "fedlpfm proxy view": {"strategy": {"name": "fedlpfm"}, "teacher": {**STAND_IN, "view": "proxy"}, **CROPPED},
    "fedlpfm cosine": {"strategy": {"name": "fedlpfm", "loss": {"name": "cosine"}}, "teacher": STAND_IN},
    "fedlpfm linear probe": {
        "strategy": {"name": "fedlpfm"},
        "teacher": {"kind": "adapted", "backbone": STAND_IN, "method": "linear_probe", "epochs": 2},
    },
    "fedlpfm ensemble": {
        "strategy": {"name": "fedlpfm"},
        "teacher": {"kind": "ensemble", "teachers": [STAND_IN, {**STAND_IN, "epochs": 3}], "combine": "weighted"},
    },
    "resnet18 crop_flip": {
        "strategy": {"name": "fedavg"},
        "proxy": {"name": "resnet18", "stem": "cifar"},
        "training": {"rounds": 1, "batch_size": 32, "optimizer": {"lr": 0.05}, "participation": 0.5},
        **CROPPED,
    },
}
FORMER_WORDS = {"cached": "bank", "plain": "fixed", "proxy": "same", "ensemble": "several"}
"""Values of `teacher` as commits before the rename spell them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commits", nargs=2)
    parser.add_argument("--ray", action="store_true", help="run on Ray as well as serially")
    arguments = parser.parse_args()
    backends = ("serial", "ray") if arguments.ray else ("serial",)
    digests: list[dict[str, str]] = []
    for commit in arguments.commits:
        with checkout(commit) as tree, tempfile.TemporaryDirectory() as scratch:
            digests.append({
                f"{name} ({backend})": digest(tree, Path(scratch), backend, changes)
                for backend in backends
                for name, changes in EXPERIMENTS.items()
            })  # fmt: skip
    differing = [name for name in digests[0] if digests[0][name] != digests[1][name]]
    for name in digests[0]:
        first, second = digests[0][name][:12], digests[1][name][:12]
        print(f"{name:32} {first} {second} {'DIFFERENT' if name in differing else 'same'}")
    print(f"{'FAIL' if differing else 'PASS'}: {len(digests[0]) - len(differing)} of {len(digests[0])} agree")
    return 1 if differing else 0


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A worktree of the commit, removed at the end."""
    with tempfile.TemporaryDirectory() as parent:
        tree = Path(parent) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def digest(tree: Path, scratch: Path, backend: str, changes: Mapping[str, Any]) -> str:
    """SHA-256 over names and bytes of the final weights of one experiment."""
    spec = {**BASE, **changes, "resources": {"backend": backend}}
    if teacher := spec.get("teacher"):
        spec["teacher"] = teacher if _knows(tree, "cached") else _in_former_words(teacher)
    if not _knows(tree, "optimizer"):  # a commit before that section
        spec["training"] = {**spec["training"], **spec["training"]["optimizer"]}
        del spec["training"]["optimizer"]
    folder = Path(tempfile.mkdtemp(dir=scratch))
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    _fedray(tree, folder, "run", "spec.yaml", "--results", "results", "--quiet")
    (model,) = folder.glob("results/**/model.safetensors")
    arrays = load_file(model)
    return hashlib.sha256(b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))).hexdigest()


def _knows(tree: Path, word: str) -> bool:
    return f'"{word}"' in _fedray(tree, tree, "schema")


def _in_former_words(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _in_former_words(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_former_words(each) for each in value]
    return FORMER_WORDS.get(value, value) if isinstance(value, str) else value


def _fedray(tree: Path, folder: Path, *words: str) -> str:
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "FEDRAY_CACHE": str(folder / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "fedray", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed in {tree}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
