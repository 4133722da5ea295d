"""What a step of training costs beside a bare PyTorch loop that does the same, on one CPU thread.

    python benchmarks/step.py
    python benchmarks/step.py --models cnn --precisions float32 --repeats 9

An epoch is 500 colour images of 32x32 in batches of 50. The bare loop has its images normalised beforehand, in one
layout and precision as fedray's; the floor is the bare loop in float32 and NCHW. Every loop has a process of its own,
and they take turns epoch by epoch, so that whatever else the machine does falls on all of them. Times are the
process's CPU time: nothing here waits for anything. bfloat16 is slow where the processor has no instructions for it.
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
from fedray.training.sections import Training
from fedray.types import LossTerm

CPU = torch.device("cpu")
SIZE, BATCH, STEPS, CLASSES = 32, 50, 10, 10
MEAN, DEVIATION = torch.full((1, 3, 1, 1), 0.5), torch.full((1, 3, 1, 1), 0.25)
Epoch = Callable[[], Any]


def main() -> None:
    options = arguments()
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread; ratios of CPU time")
    print(f"{'':40}{'ms a step':>18}   {'fedray beside bare':25}beside the floor")
    for model in options.models:
        settings = list(itertools.product(options.precisions, options.memory_formats))
        loops = [(loop, *setting) for loop in ("bare", "fedray") for setting in settings]
        floor = ("bare", "float32", "contiguous")
        seconds = measured(model, loops if floor in loops else [floor, *loops], options.repeats)
        for precision, layout in settings:
            bare, ours = seconds["bare", precision, layout], seconds["fedray", precision, layout]
            step = f"{statistics.median(bare) * 1000:.1f} -> {statistics.median(ours) * 1000:.1f}"
            print(
                f"{model:17}{precision:10}{layout:13}{step:>18}   {ratio(ours, bare):25}{ratio(ours, seconds[floor])}",
                flush=True,
            )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cnn", "resnet18", "mobilenet_v2"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--memory-formats", nargs="+", default=["contiguous", "channels_last"])
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Of epochs that ran one after the other: median, lowest and highest."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def measured(
    model: str, loops: Sequence[tuple[str, str, str]], repeats: int
) -> dict[tuple[str, str, str], list[float]]:
    """Seconds of CPU time for a step, for each loop and repeat; the first epoch of each is not counted."""
    seconds = {loop: list[float]() for loop in loops}
    with processes(model, loops) as pipes:
        for repeat in range(repeats + 1):
            for loop, pipe in pipes.items():
                pipe.send(True)
                spent = pipe.recv()
                if repeat:
                    seconds[loop].append(spent)
    return seconds


@contextmanager
def processes(model: str, loops: Sequence[tuple[str, str, str]]) -> Iterator[dict[tuple[str, str, str], Any]]:
    context, pipes, started = get_context("spawn"), {}, []
    for loop in loops:
        pipes[loop], theirs = context.Pipe()
        started.append(context.Process(target=serve, args=(theirs, model, *loop), daemon=True))
        started[-1].start()
    yield pipes
    for pipe, process in zip(pipes.values(), started, strict=True):
        pipe.send(False)
        process.join()


def serve(pipe: Any, name: str, loop: str, precision: str, layout: str) -> None:
    """Run an epoch whenever told, and tell how long a step took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = proxies.build(proxies.Proxy(name=name), proxies.ImageShape(3, SIZE, CLASSES))
    training = Training.model_validate({"batch_size": BATCH, "precision": precision, "memory_format": layout})
    model = model.to(memory_format=memory_format(training.memory_format))
    images = torch.randint(0, 256, (BATCH * STEPS, 3, SIZE, SIZE), dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (len(images),))
    epoch = (bare if loop == "bare" else ours)(model, images, labels, training)
    while pipe.recv():
        start = time.process_time()
        epoch()
        pipe.send((time.process_time() - start) / STEPS)


def bare(model: Any, images: torch.Tensor, labels: torch.Tensor, training: Training) -> Epoch:
    """As the scripts do that people write for one experiment, with torch's own pooling."""
    images = (images / 255 - MEAN) / DEVIATION
    model.train()

    def epoch() -> None:
        optimizer = torch.optim.SGD(
            model.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
        )
        total = 0.0
        for chosen in torch.randperm(len(images)).split(BATCH):
            pictures = images[chosen].contiguous(memory_format=memory_format(training.memory_format))
            with autocast(CPU, training.precision):
                loss = cross_entropy(model(pictures), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)

    return epoch


def ours(model: Any, images: torch.Tensor, labels: torch.Tensor, training: Training) -> Epoch:
    malloc.keep_freed_memory()
    use_fast_layers(keep_head_float32(model, CLASSES))
    shard = ClientData(images, labels, np.arange(len(images)), Normalization(MEAN, DEVIATION))
    trainer = Trainer({"proxy": model}, {"proxy": [LossTerm("cross_entropy")]}, training)
    return lambda: local_update(trainer, shard, first_epoch=0, seed=0, client=0)


if __name__ == "__main__":
    main()
