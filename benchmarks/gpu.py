"""Time of a training step on a GPU, and of rounds with ten clients that share it.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --model resnet18 --steps 100 --repeats 7

Step: an epoch of local training with crop and flip, compared with a plain loop in float32 and NCHW whose images are
normalised beforehand and on the device. Settings alternate epoch by epoch. Rounds: ten clients with a tenth of the GPU
each, compared with the same rounds in one process; whole runs alternate, and their first rounds are not counted.
Without a GPU a smaller measurement runs on the CPU, whose ratios mean little.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from teacher_cache import write_images
from torch.nn.functional import cross_entropy

import fedray
from fedray.models import proxies
from fedray.models.fast_layers import use_fast_layers
from fedray.models.heads import keep_head_float32
from fedray.models.precision import memory_format
from fedray.training.batches import ClientData, Normalization
from fedray.training.local_update import Trainer, local_update
from fedray.training.sections import Training
from fedray.types import LossTerm

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BATCH, CLASSES, SIZE, CLIENTS = 64, 10, 32, 10
FAST = {"precision": "bfloat16", "memory_format": "channels_last"}
PLAIN = {"precision": "float32", "memory_format": "contiguous"}
Epoch = Callable[[], Any]


def main() -> None:
    options = arguments()
    if CUDA:
        print(f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}, torch {torch.__version__}")
    else:
        torch.set_num_threads(1)
        print(f"No GPU found: a smaller measurement on the CPU, torch {torch.__version__}")
    print(f"\na step of {options.model}, batch {BATCH}, {options.steps} steps an epoch")
    show(steps(options), "eager float32 NCHW")
    print(f"\na round of {CLIENTS} clients with {options.model}, {options.images} images")
    show(rounds(options), "one process")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18" if CUDA else "cnn")
    parser.add_argument("--steps", type=int, default=50 if CUDA else 2)
    parser.add_argument("--images", type=int, default=20_000 if CUDA else 320)
    parser.add_argument("--rounds", type=int, default=6 if CUDA else 2)
    parser.add_argument("--repeats", type=int, default=5 if CUDA else 3)
    return parser.parse_args()


def show(seconds: Mapping[str, Sequence[float]], baseline: str) -> None:
    """Print the median time of each setting, and its ratios to the baseline: median, minimum and maximum."""
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[baseline], strict=True)]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        print(f"  {name:36}{statistics.median(times) * 1000:10.2f} ms   {middle:.3f} ({low:.3f} to {high:.3f})")


def steps(options: argparse.Namespace) -> dict[str, list[float]]:
    """Measure seconds per step, for each setting and repeat. The first two epochs of each setting are not counted."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (BATCH * options.steps, 3, SIZE, SIZE), dtype=torch.uint8, device=DEVICE)
    labels = torch.randint(0, CLASSES, (len(images),), device=DEVICE)
    epochs: dict[str, Epoch] = {
        "eager float32 NCHW": bare_epoch(options.model, images, labels),
        "fedray float32 NCHW": fedray_epoch(options.model, images, labels, PLAIN),
        "fedray bfloat16 NHWC": fedray_epoch(options.model, images, labels, FAST),
    }
    if CUDA:
        epochs["fedray bfloat16 NHWC, without graph"] = fedray_epoch(options.model, images, labels, FAST, graph=False)
    seconds = {name: list[float]() for name in epochs}
    for repeat in range(options.repeats + 2):
        for name, epoch in epochs.items():
            wait()
            start = time.perf_counter()
            epoch()
            wait()
            if repeat >= 2:
                seconds[name].append((time.perf_counter() - start) / options.steps)
    return seconds


def wait() -> None:
    """Wait until the device has finished."""
    if CUDA:
        torch.cuda.synchronize()


def make_model(name: str, layout: Any) -> Any:
    torch.manual_seed(0)
    model = proxies.build(proxies.Proxy(name=name), proxies.ImageShape(3, SIZE, CLASSES))
    return model.to(DEVICE, memory_format=memory_format(layout))


def fedray_epoch(
    name: str, images: torch.Tensor, labels: torch.Tensor, fast: Mapping[str, str], *, graph: bool = True
) -> Epoch:
    training = Training.model_validate({"batch_size": BATCH, **fast})
    normalize = Normalization(*(torch.full((1, 3, 1, 1), value, device=DEVICE) for value in (0.5, 0.25)))
    data = ClientData(images, labels, np.arange(len(images)), normalize, crop_flip=True)
    model = use_fast_layers(keep_head_float32(make_model(name, training.memory_format), CLASSES))
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training, graph=graph)
    return lambda: local_update(trainer, data, number=1, seed=0, client=0)


def bare_epoch(name: str, images: torch.Tensor, labels: torch.Tensor) -> Epoch:
    model, pictures = make_model(name, "contiguous").train(), (images / 255 - 0.5) / 0.25
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for batch in torch.randperm(len(pictures), device=DEVICE).split(BATCH):
            loss = cross_entropy(model(pictures[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def rounds(options: argparse.Namespace) -> dict[str, list[float]]:
    """Measure the median seconds per round, without the first round, for each repeat."""
    seconds: dict[str, list[float]] = {"one process": [], "one process per client": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_images(folder / "images.parquet", options.images)
        for repeat in range(options.repeats):
            for name, backend in zip(seconds, ("serial", "ray"), strict=True):
                run = fedray.rounds(experiment(options, folder, backend), folder / f"{backend} {repeat}")
                seconds[name].append(statistics.median([result.row["seconds"] for result in run][1:]))
    return seconds


def experiment(options: argparse.Namespace, folder: Path, backend: str) -> fedray.Experiment:
    share = {"serial": 1, "ray": 1 / CLIENTS}[backend] if CUDA else 0
    return fedray.Experiment.model_validate(
        {
            "data": {"train": f"parquet:{folder}/images.parquet", "test": f"parquet:{folder}/images.parquet",
                     "augment": "crop_flip", "test_limit": 100},
            "partition": {"kind": "iid", "clients": CLIENTS},
            "proxy": {"name": options.model},
            "training": {"rounds": options.rounds, "batch_size": BATCH, **(FAST if CUDA else {})},
            "evaluation": {"every": 1000},
            "resources": {"backend": backend, "gpus_per_client": share, "cpus_per_client": 1},
        }
    )  # fmt: skip


if __name__ == "__main__":
    main()
