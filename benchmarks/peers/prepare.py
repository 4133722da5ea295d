"""Write the input of the other tools: data, partition, initial weights, cohorts and batch orders of a fedray spec."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedray.config.experiment import Experiment
from fedray.config.yaml_files import to_yaml
from fedray.data import federated
from fedray.data.federated import FederatedDataset
from fedray.models.weights import get_weights
from fedray.seeding import numpy_rng, torch_rng
from fedray.server.cohort import draw_cohort
from fedray.training.batches import split_batches
from fedray.workers.client_models import initial_model

TEACHER = "ViT-B-32"


def prepare(experiment: Experiment, folder: Path) -> None:
    """Write `workload.npz`, unless it exists for the same spec. Also fills fedray's image cache."""
    data = federated.load(experiment.data, experiment.partition, experiment.seed)
    spec, text = folder / "spec.yaml", to_yaml(experiment)
    if spec.exists() and spec.read_text(encoding="utf-8") == text:
        return
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "workload.npz", **arrays(experiment, data))
    spec.write_text(text, encoding="utf-8")


def arrays(experiment: Experiment, data: FederatedDataset) -> dict[str, Any]:
    """Return the arrays that `workload.load` reads: the examples of client 0, 1, ..., with unnormalised images."""
    training, indices = experiment.training, np.concatenate(data.shards)
    sizes = [len(shard) for shard in data.shards]
    check(sizes, training.batch_size, experiment.seed)
    rounds = range(1, training.rounds + 1)
    settings = {
        "model": experiment.proxy.name,
        "classes": len(data.train.classes),
        "batch_size": training.batch_size,
        "evaluation_batch": experiment.evaluation.batch_size,
        "sgd": {name: getattr(training.optimizer, name) for name in ("lr", "momentum", "weight_decay")},
    }
    weights = get_weights(initial_model(experiment.proxy, data.train.shape, experiment.seed, "proxy"))
    return {
        "settings": json.dumps(settings),
        "train_images": data.train.images[indices],
        "train_labels": data.train.labels[indices],
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
    """Return the order of each client's examples in a round, as fedray draws it, concatenated over clients."""
    generators = [numpy_rng(experiment.seed, "order", client, number - 1) for client in range(len(sizes))]
    return np.concatenate([rng.permutation(size) for rng, size in zip(generators, sizes, strict=True)])


def check(sizes: list[int], batch_size: int, seed: int) -> None:
    """Refuse last batches of one example: fedray merges them into the batch before, the other tools do not."""
    for size in sizes:
        if len(split_batches(torch.arange(size), batch_size)) != -(-size // batch_size):
            raise SystemExit(f"seed {seed} gives a client a last batch of one example; choose another seed")


def write_teacher(file: Path) -> None:
    """Write a checkpoint of real size with random weights, as fast as a trained one, unless it exists."""
    if file.exists():
        return
    import open_clip
    from safetensors.torch import save_file

    with torch_rng(None, 0, "teacher"):
        save_file(open_clip.create_model(TEACHER).state_dict(), file)
