"""CPU time of a training step, compared with a bare PyTorch loop for the same step, on one thread.

    python benchmarks/step.py
    python benchmarks/step.py --models cnn --precisions float32 --repeats 9

An epoch has 500 colour images of 32x32 pixels in batches of 50. The bare loop uses the same memory layout and precision
as fedray, and its images are normalised beforehand; the floor is the bare loop in float32 and NCHW. Each loop has its
own process, and the processes alternate epoch by epoch, so that other load on the machine affects all of them. Times
are CPU times of the process. bfloat16 is slow on processors without instructions for it.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fedray.models import proxies
from fedray.models.fast_layers import use_fast_layers
from fedray.models.heads import keep_head_float32
from fedray.models.precision import autocast, memory_format
from fedray.training import malloc
from fedray.training.batches import ClientData, Normalization
from fedray.training.local_update import Trainer, local_update
from fedray.training.sections import SGD, Training
from fedray.types import LossTerm

CPU = torch.device("cpu")
SIZE, BATCH, STEPS, CLASSES = 32, 50, 10, 10
MEAN, STD = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)
Epoch = Callable[[], Any]


def main() -> None:
    options = arguments()
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread; ratios of CPU time")
    print(f"{'':40}{'ms a step':>18}   {'fedray / bare':25}fedray / floor")
    for model in options.models:
        settings = list(itertools.product(options.precisions, options.memory_formats))
        loops = [(loop, *setting) for loop in ("bare", "fedray") for setting in settings]
        floor = ("bare", "float32", "contiguous")
        seconds = measure(model, loops if floor in loops else [floor, *loops], options.repeats)
        for precision, layout in settings:
            times, bare = seconds["fedray", precision, layout], seconds["bare", precision, layout]
            step = f"{statistics.median(bare) * 1000:.1f} -> {statistics.median(times) * 1000:.1f}"
            print(
                f"{model:17}{precision:10}{layout:13}{step:>18}   {ratio(times, bare):25}"
                f"{ratio(times, seconds[floor])}",
                flush=True,
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet18", "mobilenet_v2"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--memory-formats", nargs="+", default=["contiguous", "channels_last"])
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def ratio(times: Sequence[float], baseline: Sequence[float]) -> str:
    """Format the ratios of consecutive epochs: median, minimum and maximum."""
    ratios = [a / b for a, b in zip(times, baseline, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def measure(model: str, loops: Sequence[tuple[str, str, str]], repeats: int) -> dict[tuple[str, str, str], list[float]]:
    """Measure seconds of CPU time per step, for each loop and repeat. The first epoch of each loop is not counted."""
    seconds = {loop: list[float]() for loop in loops}
    with processes(model, loops) as pipes:
        for repeat in range(repeats + 1):
            for loop, pipe in pipes.items():
                pipe.send(True)
                elapsed = pipe.recv()
                if repeat:
                    seconds[loop].append(elapsed)
    return seconds


@contextmanager
def processes(model: str, loops: Sequence[tuple[str, str, str]]) -> Iterator[dict[tuple[str, str, str], Any]]:
    """Start a process for each loop, and stop them at the end. Yields a pipe to each."""
    context, pipes, started = get_context("spawn"), {}, []
    for loop in loops:
        pipes[loop], child_end = context.Pipe()
        started.append(context.Process(target=serve, args=(child_end, model, *loop), daemon=True))
        started[-1].start()
    yield pipes
    for pipe, process in zip(pipes.values(), started, strict=True):
        pipe.send(False)
        process.join()


def serve(pipe: Any, name: str, loop: str, precision: str, layout: str) -> None:
    """Run an epoch for each True from the pipe, and send back its seconds per step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = proxies.build(proxies.Proxy(name=name), proxies.ImageShape(3, SIZE, CLASSES))
    training = Training.model_validate({"batch_size": BATCH, "precision": precision, "memory_format": layout})
    model = model.to(memory_format=memory_format(training.memory_format))
    images = torch.randint(0, 256, (BATCH * STEPS, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (len(images),))
    epoch = (bare_epoch if loop == "bare" else fedray_epoch)(model, images, labels, training)
    while pipe.recv():
        start = time.process_time()
        epoch()
        pipe.send((time.process_time() - start) / STEPS)


def bare_epoch(model: Any, images: torch.Tensor, labels: torch.Tensor, training: Training) -> Epoch:
    """An epoch as in a script for a single experiment, with torch's own layers."""
    images = (images / 255 - MEAN) / STD
    model.train()

    def epoch() -> None:
        sgd = training.optimizer
        assert isinstance(sgd, SGD)
        optimizer = torch.optim.SGD(model.parameters(), lr=sgd.lr, momentum=sgd.momentum, weight_decay=sgd.weight_decay)
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            pictures = images[batch].contiguous(memory_format=memory_format(training.memory_format))
            with autocast(CPU, training.precision):
                loss = cross_entropy(model(pictures), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)

    return epoch


def fedray_epoch(model: Any, images: torch.Tensor, labels: torch.Tensor, training: Training) -> Epoch:
    """An epoch of fedray's local training."""
    malloc.keep_freed_memory()
    use_fast_layers(keep_head_float32(model, CLASSES))
    data = ClientData(images, labels, np.arange(len(images)), Normalization(MEAN, STD))
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training)
    return lambda: local_update(trainer, data, number=1, seed=0, client=0)


if __name__ == "__main__":
    main()
