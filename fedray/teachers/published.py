"""Published zero-shot accuracies, for comparison with measured ones.

From mlfoundations/open_clip, docs/openclip_results.csv, and for MobileCLIP from apple/ml-mobileclip,
results/*.jsonl. In percent, with the prompts written for the data set (`prompts: cifar18`).
"""

from collections.abc import Collection

CIFAR10 = frozenset(
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
)  # fmt: skip

PUBLISHED: dict[tuple[str, str], tuple[float, float]] = {
    ("RN50", "openai"): (71.57, 40.30),
    ("RN101", "openai"): (80.78, 47.64),
    ("RN50x4", "openai"): (79.43, 45.14),
    ("RN50x64", "openai"): (85.10, 59.85),
    ("ViT-B-32", "openai"): (89.83, 64.23),
    ("ViT-B-32-quickgelu", "laion400m_e32"): (90.74, 70.29),
    ("ViT-B-32", "laion2b_s34b_b79k"): (93.58, 75.55),
    ("ViT-B-32", "datacomp_xl_s13b_b90k"): (95.61, 80.31),
    ("ViT-B-16", "openai"): (90.77, 66.95),
    ("ViT-B-16", "datacomp_xl_s13b_b90k"): (96.24, 82.12),
    ("ViT-B-16", "dfn2b"): (96.72, 83.49),
    ("ViT-L-14", "openai"): (95.59, 75.82),
    ("ViT-L-14", "laion2b_s32b_b82k"): (96.62, 83.32),
    ("ViT-L-14", "datacomp_xl_s13b_b90k"): (98.24, 87.36),
    ("ViT-L-14", "dfn2b"): (98.36, 88.37),
    ("ViT-B-16-SigLIP", "webli"): (92.34, 72.23),
    ("ViT-SO400M-14-SigLIP", "webli"): (96.79, 84.17),
    ("MobileCLIP-S1", "datacompdr"): (95.00, 79.18),
    ("MobileCLIP-S2", "datacompdr"): (95.88, 81.28),
    ("MobileCLIP-B", "datacompdr"): (97.78, 86.21),
    ("RN50-quickgelu", "cc12m"): (52.41, 20.93),
    ("RN50-quickgelu", "yfcc15m"): (49.43, 18.62),
}
"""Accuracy on CIFAR-10 and CIFAR-100, by (model, tag)."""


def published(model: str, tag: str | None, classes: Collection[str]) -> float | None:
    """Return the published accuracy in percent on a data set with these class names; None where none is known."""
    known = PUBLISHED.get((model, tag or "")) or PUBLISHED.get((model.removesuffix("-quickgelu"), tag or ""))
    if known is None:
        return None
    if set(classes) == CIFAR10:
        return known[0]
    is_cifar100 = len(classes) == 100 and {"aquarium_fish", "willow_tree"} <= {
        name.replace(" ", "_") for name in classes
    }
    return known[1] if is_cifar100 else None
