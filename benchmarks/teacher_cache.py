"""Cost of a teacher per round: without one (FedAvg), from the teacher cache, and online.

    python benchmarks/teacher_cache.py                    # ViT-B/32 at 224, 2,000 images, ResNet18
    python benchmarks/teacher_cache.py--gpus 1            # the same on a GPU

The teacher is an open_clip model of real size with random weights, as fast as a trained one. The three runs take turns
round by round, so that other load of the machine affects all of them.
"""

import argparse
import io
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file

import fedray
from fedray.types import RoundResult


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["FEDRAY_CACHE"] = str(folder / "cache")
        write_images(folder / "images.parquet", options.images)
        save_file(open_clip.create_model(options.teacher).state_dict(), folder / "teacher.safetensors")
        runs = {mode: rounds_of(mode, folder, options) for mode in ("none", "cached", "online")}
        rows = {mode: [] for mode in runs}
        for number in range(1, options.rounds + 1):
            for mode, rounds in runs.items():
                row = next(rounds).row
                rows[mode].append(row)
                seconds, teacher_seconds = row["seconds"], row["teacher_seconds"]
                print(
                    f"round {number}, teacher {mode}: {seconds:.2f} s, {teacher_seconds:.2f} s of them for the teacher"
                )
    report(rows, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ViT-B-32", help="architecture, by its open_clip name")
    parser.add_argument("--proxy", default="resnet18")
    parser.add_argument("--stem", default="cifar", choices=["cifar", "imagenet"])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--gpus", type=float, default=0)
    return parser.parse_args()


def rounds_of(mode: str, folder: Path, options: argparse.Namespace) -> Iterator[RoundResult]:
    fedlpfm = {"name": "fedlpfm", "lam": 0.5}
    experiment = fedray.Experiment.model_validate(
        {
            "data": {"train": f"parquet:{folder}/images.parquet", "test": f"parquet:{folder}/images.parquet",
                     "augment": "crop_flip"},
            "partition": {"kind": "iid", "clients": 2},
            "proxy": {"name": options.proxy, "stem": options.stem if options.proxy != "cnn" else None},
            "teacher": {"kind": "zero_shot", "model": options.teacher, "pretrained": f"{folder}/teacher.safetensors",
                        "mode": "cached" if mode == "none" else mode},
            "strategy": {"name": "fedavg"} if mode == "none" else fedlpfm,
            "training": {"rounds": options.rounds, "batch_size": 64},
            "evaluation": {"every": 1000},
            "resources": {"backend": "serial", "cpus_per_client": options.threads, "gpus_per_client": options.gpus},
        }
    )  # fmt: skip
    return iter(fedray.rounds(experiment, folder / mode))


def write_images(file: Path, count: int) -> None:
    """Write random colour images of 32x32 pixels in the Hugging Face layout."""
    random = np.random.default_rng(0)
    images = []
    for row in range(count):
        jpeg = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(jpeg, "JPEG", quality=75)
        images.append({"bytes": jpeg.getvalue(), "path": f"{row}.jpg"})
    pq.write_table(pa.table({"img": images, "label": np.arange(count) % 10}), file)


def report(rows: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    device = torch.cuda.get_device_name(0) if options.gpus else f"CPU, {options.threads} threads"
    models = f"teacher {options.teacher}, proxy {options.proxy}"
    print(f"\n{models}, {options.images:,} images, {device}, torch {torch.__version__}")
    for mode in ("cached", "online"):
        pairs = zip(rows[mode][1:], rows["none"][1:], strict=True)
        ratios = [row["seconds"] / base["seconds"] for row, base in pairs]
        middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
        first = rows[mode][0]["seconds"]
        print(
            f"mode {mode}: {middle:.3f} times a FedAvg round, median of {len(ratios)} pairs ({low:.3f} to {high:.3f}); "
            f"its first round took {first:.1f} s"
        )


if __name__ == "__main__":
    main()
