"""Second implementations of the distillation losses, row by row in NumPy.

Each function takes the student's and the teacher's outputs and the labels, and returns the mean over the batch. The
temperature is 3; other options are those of NUMPY_LOSSES.
"""

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray
NumpyLoss = Callable[[Array, Array, Array], float]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(p: Array, q: Array) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0))


def numpy_kd(s: Array, t: Array, _: Array) -> float:
    return 9 * np.mean([kl(softmax(t[i] / 3), softmax(s[i] / 3)) for i in range(len(s))])


def numpy_reverse_kd(s: Array, t: Array, y: Array) -> float:
    return numpy_kd(t, s, y)


def numpy_ls_kd(s: Array, t: Array, y: Array) -> float:
    return numpy_kd(*(np.array([(z - z.mean()) / z.std(ddof=1) for z in logits]) for logits in (s, t)), y)


def numpy_dkd(s: Array, t: Array, y: Array) -> float:
    rows = []
    for i, label in enumerate(y):
        p, q = softmax(t[i] / 3), softmax(s[i] / 3)
        target_kl = kl(np.array([p[label], 1 - p[label]]), np.array([q[label], 1 - q[label]]))
        other_kl = kl(np.delete(p, label) / (1 - p[label]), np.delete(q, label) / (1 - q[label]))
        rows.append(9 * (2 * target_kl + 5 * other_kl))
    return float(np.mean(rows))


def numpy_dist(s: Array, t: Array, _: Array) -> float:
    q, p = (np.array([softmax(z / 3) for z in logits]) for logits in (s, t))
    rows = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    return float(9 * (0.5 * rows + 2 * columns))


def numpy_rld(s: Array, t: Array, y: Array) -> float:
    rows = []
    for i, label in enumerate(y):
        top, q_y = softmax(t[i] / 2).max(), softmax(s[i] / 2)[label]
        confidence = 4 * kl(np.array([top, 1 - top]), np.array([q_y, 1 - q_y]))
        below = t[i] < t[i][label]
        refined = 9 * kl(softmax(t[i][below] / 3), softmax(s[i][below] / 3)) if below.any() else 0.0
        rows.append(2 * confidence + 5 * refined)
    return float(np.mean(rows))


def numpy_mse(s: Array, t: Array, _: Array) -> float:
    return float(np.mean([((a - a.mean()) - (b - b.mean())) ** 2 for a, b in zip(s, t, strict=True)]))


def numpy_cosine(s: Array, t: Array, _: Array) -> float:
    return float(np.mean([1 - (a @ b) / math.sqrt((a @ a) * (b @ b)) for a, b in zip(s, t, strict=True)]))


def numpy_feature_mse(s: Array, t: Array, _: Array) -> float:
    return float(np.mean([(a - b / math.sqrt((b**2).mean())) ** 2 for a, b in zip(s, t, strict=True)]))


NUMPY_LOSSES: list[tuple[dict[str, object], NumpyLoss]] = [
    ({"name": "kd"}, numpy_kd),
    ({"name": "kd", "direction": "reverse"}, numpy_reverse_kd),
    ({"name": "ls_kd"}, numpy_ls_kd),
    ({"name": "dkd", "alpha": 2, "beta": 5}, numpy_dkd),
    ({"name": "dist", "beta": 0.5, "gamma": 2}, numpy_dist),
    ({"name": "rld", "alpha": 2, "beta": 5, "confidence_temperature": 2}, numpy_rld),
    ({"name": "mse"}, numpy_mse),
    ({"name": "function_matching"}, numpy_kd),
    ({"name": "cosine"}, numpy_cosine),
    ({"name": "feature_mse"}, numpy_feature_mse),
]
"""Sections of the losses, and their second implementations."""
