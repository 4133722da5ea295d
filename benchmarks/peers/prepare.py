"""What the other tools read: the data, shards, first weights, cohorts and orders that fedray draws for a spec."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedray.backends.ray.placement import draw_cohort
from fedray.config.experiment import Experiment
from fedray.config.yaml_files import to_yaml
from fedray.data import federated
from fedray.data.federated import FederatedDataset
from fedray.models.weights import get_weights
from fedray.seeding import numpy_rng, torch_rng
from fedray.training.batches import split_batches
from fedray.workers.worker import initial_model

TEACHER = "ViT-B-32"


def prepare(experiment: Experiment, folder: Path) -> None:
    """Write `workload.npz`, unless it is there for this very spec. The images are decoded then, for fedray too."""
    data = federated.load(experiment.data, experiment.partition, experiment.seed)
    spec, text = folder / "spec.yaml", to_yaml(experiment)
    if spec.exists() and spec.read_text(encoding="utf-8") == text:
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "workload.npz", **arrays(experiment, data))
    spec.write_text(text, encoding="utf-8")


def arrays(experiment: Experiment, data: FederatedDataset) -> dict[str, Any]:
    """As `workload.load` takes them: clients' examples one after another, the images as they were read."""
    training, held = experiment.training, np.concatenate(data.shards)
    sizes = [len(shard) for shard in data.shards]
    check(sizes, training.batch_size, experiment.seed)
    rounds = range(1, training.rounds + 1)
    settings = {
        "model": experiment.proxy.name,
        "classes": len(data.train.classes),
        "batch_size": training.batch_size,
        "evaluation_batch": experiment.evaluation.batch_size,
        "sgd": {name: getattr(training, name) for name in ("lr", "momentum", "weight_decay")},
    }
    weights = get_weights(initial_model(experiment.proxy, data, experiment.seed, "proxy"))
    return {
        "settings": json.dumps(settings),
        "train_images": data.train.images[held],
        "train_labels": data.train.labels[held],
        "test_images": data.test.images,
        "test_labels": data.test.labels,
        "mean": data.mean,
        "deviation": data.std,
        "sizes": sizes,
        "cohorts": [draw_cohort(experiment, data.shards, number) for number in rounds],
        "orders": np.stack([orders(experiment, sizes, number) for number in rounds]),
        **{f"weights.{name}": value for name, value in weights.items()},
    }


def orders(experiment: Experiment, sizes: list[int], number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Of all clients' examples in one round, as `client.batches` draws them, one client after another."""
    drawn = [numpy_rng(experiment.seed, "order", client, number - 1) for client in range(len(sizes))]
    return np.concatenate([rng.permutation(size) for rng, size in zip(drawn, sizes, strict=True)])


def check(sizes: list[int], batch_size: int, seed: int) -> None:
    """fedray joins a last batch of one example to the one before; the others train on it, or trip over it."""
    for size in sizes:
        if len(split_batches(torch.arange(size), batch_size)) != -(-size // batch_size):
            raise SystemExit(f"seed {seed} leaves a client with a last batch of one example; take another")


def write_teacher(file: Path) -> None:
    """A checkpoint of real size with random weights, unless it is there: its speed is that of a trained one."""
    if file.exists():
        return
    import open_clip
    from safetensors.torch import save_file

    with torch_rng(None, 0, "teacher"):
        save_file(open_clip.create_model(TEACHER).state_dict(), file)
