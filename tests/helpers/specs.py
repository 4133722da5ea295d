"""Spec files for tests of loading."""

from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()
README_EXAMPLE = README.split("```yaml\n")[1].split("```")[0]
"""The experiment in the README."""

NESTED = """
data: {public_fraction: 0.1}
strategy: {name: fedlpfm, lam: 1, loss: {name: function_matching, mixup: 0.2}}
teacher:
  kind: ensemble
  view: proxy
  mode: online
  assignment: [0, [0, 1], 2]
  teachers:
    - {kind: zero_shot, prompts: ["one {}", "two {}"]}
    - {kind: classifier, model: resnet18, class_map: {"0": [1, 2], "1": [3]}}
    - {kind: adapted, backbone: {kind: supervised, epochs: 2}, method: fine_tune}
"""
"""A spec with teachers inside teachers."""

SPACE = """
base: {teacher: {kind: precomputed, file: x.parquet}, training: {rounds: 4}}
space:
  strategy: {grid: [{name: fedavg}, {name: fedlpfm, lam: 0.5}]}
  partition.alpha: {grid: [0.1, 1.0]}
"""
"""A space of two strategies and two values of alpha."""


def write_spec(folder: Path, text: str, name: str = "study.yaml") -> Path:
    """Write a spec file into a folder and return its path."""
    (folder / name).write_text(text)
    return folder / name
