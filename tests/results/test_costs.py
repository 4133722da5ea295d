"""costs.json, compared with sums over the tables and with operations counted by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.data.views import apply_views
from fedray.models.flops import training_flops
from fedray.server.driver import Driver
from fedray.teachers import loading
from fedray.teachers.cache import TeacherCache
from fedray.types import Row

Make = Callable[..., Experiment]

CONVOLUTION_1 = 32 * 25 * 1 * 8 * 8  # multiplications: output channels x 5x5 x input channels x positions
CONVOLUTION_2 = 64 * 25 * 32 * 4 * 4
LINEAR_1 = 64 * 2 * 2 * 512
LINEAR_2 = 512 * 10
FORWARD = 2 * (CONVOLUTION_1 + CONVOLUTION_2 + LINEAR_1 + LINEAR_2)  # one addition per multiplication
BACKWARD = 2 * FORWARD - 2 * CONVOLUTION_1  # gradients of weights and inputs, without those of the images


def distil(small: Make, teacher: Any = None, **sections: Any) -> Experiment:
    data = {"train_limit": 100} | sections.pop("data", {})
    training = {"rounds": 3, "local_epochs": 2, "participation": 0.5} | sections.pop("training", {})
    return small(data=data, training=training, strategy={"name": "fedlpfm"}, teacher=teacher or {}, **sections)


def finish(experiment: Experiment, folder: Path) -> tuple[Row, pd.DataFrame, pd.DataFrame]:
    for _ in Driver(experiment, folder).run():
        pass
    rounds, clients = pd.read_csv(folder / "rounds.csv"), pd.read_csv(folder / "clients.csv")
    return json.loads((folder / "costs.json").read_text()), rounds, clients


def test_training_flops_of_the_small_cnn_by_hand(small: Make) -> None:
    for norm in (None, "batch"):  # normalising is not counted
        experiment = small(proxy={"name": "cnn", "norm": norm})
        assert training_flops(experiment.proxy, federated.load(experiment).train.shape) == FORWARD + BACKWARD


def test_training_flops_keep_the_random_state(small: Make) -> None:
    data = federated.load(small())
    before = torch.get_rng_state()
    training_flops(small().proxy, data.train.shape)
    assert torch.equal(torch.get_rng_state(), before)


def test_costs_are_sums_over_the_tables(small: Make, tmp_path: Path) -> None:
    costs, rounds, clients = finish(distil(small), tmp_path)
    teacher, proxy = costs["teacher"], costs["proxy"]
    used = 2 * clients["examples"].sum()  # in two epochs
    assert teacher["outputs_used"] == rounds["teacher_outputs_used"].sum() == used
    assert teacher["forward_passes"] == rounds["teacher_forward_passes"].sum() == 80  # independent of the partition
    assert teacher["forward_passes_saved"] == used - 80
    assert teacher["flops"] == 80 * FORWARD
    assert teacher["seconds"] == pytest.approx(rounds["teacher_seconds"].sum(), abs=0.001)
    assert teacher["peak_bytes"] > 50e6  # a process that has imported torch
    assert teacher["storage_error"] == 0
    assert proxy["examples_trained"] == used
    assert proxy["flops_per_example"] == FORWARD + BACKWARD
    assert proxy["flops"] == used * (FORWARD + BACKWARD)
    assert proxy["seconds"] == pytest.approx(clients["seconds"].sum(), abs=0.001)
    assert proxy["peak_bytes"] == clients["peak_bytes"].max()
    assert "private" not in costs


def test_costs_include_a_private_model(small: Make, tmp_path: Path) -> None:
    fml, _, clients = finish(small(strategy={"name": "fml"}), tmp_path)
    per_example = FORWARD + BACKWARD  # the private model is of the same kind
    assert fml["private"] == {"flops_per_example": per_example, "flops": per_example * int(clients["examples"].sum())}
    assert fml["proxy"]["flops"] == fml["private"]["flops"]


def test_costs_include_frozen_models(small: Make, tmp_path: Path) -> None:
    moon, _, clients = finish(small(strategy={"name": "moon"}, teacher=None), tmp_path)
    per_example = 2 * FORWARD  # the global and the previous model, which are not trained
    assert moon["frozen"] == {"flops_per_example": per_example, "flops": per_example * int(clients["examples"].sum())}
    assert moon["proxy"]["flops_per_example"] == FORWARD + BACKWARD


def test_costs_name_the_cache_entries_and_their_origin(small: Make, tmp_path: Path) -> None:
    costs, *_ = finish(distil(small), tmp_path)
    (entry,) = TeacherCache().entries()
    ((key, produced_by),) = costs["teacher"]["entries"].items()
    assert key == entry.key
    assert produced_by == entry.produced_by
    assert produced_by["teacher"] == "the stand-in"
    assert produced_by["data"] == federated.load(distil(small)).train.name
    assert (produced_by["device"], produced_by["threads"], produced_by["flops"]) == ("cpu", 1, FORWARD)
    assert produced_by["torch"] == torch.__version__.split("+")[0] or produced_by["torch"] == torch.__version__


def test_costs_of_a_run_with_cached_outputs_are_zero(small: Make, tmp_path: Path) -> None:
    first, *_ = finish(distil(small), tmp_path / "first")
    second, rounds, _ = finish(distil(small), tmp_path / "second")
    assert (
        rounds["teacher_forward_passes"].sum() == second["teacher"]["forward_passes"] == second["teacher"]["flops"] == 0
    )
    assert second["teacher"]["forward_passes_saved"] == second["teacher"]["outputs_used"]
    assert second["teacher"]["peak_bytes"] is None
    assert second["teacher"]["entries"] == first["teacher"]["entries"]


def test_costs_include_rounds_before_an_interruption(small: Make, tmp_path: Path) -> None:
    undisturbed, *_ = finish(distil(small), tmp_path / "whole")
    TeacherCache().entries()[0].remove()
    rounds = Driver(distil(small), tmp_path / "resumed").run()
    while not (tmp_path / "resumed" / "checkpoint").exists():
        next(rounds)
    rounds.close()
    resumed, *_ = finish(distil(small), tmp_path / "resumed")
    for part, fields in {
        "teacher": ("outputs_used", "forward_passes", "forward_passes_saved", "flops"),
        "proxy": ("examples_trained", "flops"),
    }.items():
        assert [resumed[part][field] for field in fields] == [undisturbed[part][field] for field in fields]


def test_costs_of_an_online_teacher_count_every_forward_pass(small: Make, tmp_path: Path) -> None:
    costs, rounds, clients = finish(distil(small, {"mode": "online"}), tmp_path)
    used = 2 * clients["examples"].sum()
    assert costs["teacher"]["outputs_used"] == costs["teacher"]["forward_passes"] == used
    assert rounds["teacher_forward_passes"].tolist() == rounds["teacher_outputs_used"].tolist()
    assert costs["teacher"]["forward_passes_saved"] == 0
    assert costs["teacher"]["entries"] == {}
    assert costs["teacher"]["flops"] == used * FORWARD
    assert costs["teacher"]["seconds"] > 0


def test_storage_error_is_the_largest_rounding_error(small: Make, tmp_path: Path) -> None:
    """The largest error over the stored rows of the entry."""
    experiment = distil(small, {"view": "proxy"}, data={"augment": "crop_flip"})
    costs, *_ = finish(experiment, tmp_path)
    (entry,) = TeacherCache().entries()
    stored, known = entry.read(np.arange(entry.rows))
    rows = np.flatnonzero(known)
    assert stored is not None
    data = federated.load(experiment)
    images = apply_views(torch.from_numpy(data.train.images[rows // 162]), torch.from_numpy(rows % 162)).numpy()
    logits = loading.load(experiment.teacher, data, 0, torch.device("cpu")).outputs(images)["logits"]
    error = np.abs(logits.astype(np.float64) - stored[rows].astype(np.float64)).max()
    assert 0 < error < 0.01
    assert costs["teacher"]["storage_error"] == pytest.approx(error, rel=1e-6)
    assert costs["teacher"]["forward_passes"] == len(rows)


def test_costs_without_a_teacher(small: Make, tmp_path: Path) -> None:
    experiment = small(data={"train_limit": 100}, training={"rounds": 1}, teacher=None)
    costs, *_ = finish(experiment, tmp_path)
    teacher = costs["teacher"]
    assert [teacher[field] for field in ("outputs_used", "forward_passes", "forward_passes_saved")] == [0, 0, 0]
    assert teacher["flops"] == 0
    assert teacher["entries"] == {}
    assert costs["proxy"]["examples_trained"] == 80
