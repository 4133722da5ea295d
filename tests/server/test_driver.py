"""Whole runs without Ray: resumption, failures, cohorts, tables."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import federated
from helpers.workers import FailingWorker, MisshapenWorker, NotFiniteWorker
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.errors import RunError
from fedray.losses.terms import DISTILLATIONS
from fedray.server.cohort import draw_cohort
from fedray.server.driver import Driver
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
IID = {"kind": "iid", "clients": 4}


def finish(experiment: Experiment, folder: Path, worker: type[Worker] = Worker) -> dict[str, bytes]:
    for _ in Driver(experiment, folder, partial(SerialBackend, worker=worker)).run():
        pass
    return weights_of(folder)


def weights_of(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_file(folder / "model.safetensors").items()}


MACHINE_COLUMNS = ["seconds", "teacher_seconds", "teacher_forward_passes", "teacher_flops", "peak_bytes"]
"""Columns that depend on the machine or on the contents of the teacher cache."""


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name).drop(columns=MACHINE_COLUMNS, errors="ignore")


@pytest.mark.parametrize("interrupted_after", [1, 2])
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fedavg"},
        {"name": "fedprox"},
        {"name": "fml"},
        {"name": "fedlpfm"},
        {"name": "fedlpfm", "loss": {"name": "cosine"}},
    ],
    ids=lambda s: s.get("loss", s)["name"],
)
def test_an_interrupted_run_resumes_with_the_same_bits(
    small: Make, tmp_path: Path, strategy: dict[str, Any], interrupted_after: int
) -> None:
    experiment = small(strategy=strategy, data={"augment": "crop_flip"})
    whole = finish(experiment, tmp_path / "whole")
    rounds = Driver(experiment, tmp_path / "resumed").run()
    for _ in range(interrupted_after):
        next(rounds)
    rounds.close()
    assert finish(experiment, tmp_path / "resumed") == whole
    for name in ("rounds.csv", "clients.csv", "classes.csv", "partition.csv"):
        pd.testing.assert_frame_equal(table(tmp_path / "resumed", name), table(tmp_path / "whole", name))


MOMENTS = {
    "local_steps": 5,
    "batch_size": 8,
    "optimizer": {"name": "adamw", "lr": 0.01},
    "schedule": {"name": "cosine", "warm_up": 1},
    "clip_norm": 1.0,
}


def test_an_interrupted_run_with_adamw_and_local_steps_resumes_with_the_same_bits(small: Make, tmp_path: Path) -> None:
    """A client's epochs, and so its teacher outputs, depend on its number of examples."""
    partition = {"kind": "dirichlet", "alpha": 0.1, "clients": 4, "min_examples": 4}
    experiment = small(
        strategy={"name": "fedlpfm"}, teacher={"view": "proxy"}, data={"augment": "crop_flip"}, partition=partition,
        training=MOMENTS,
    )  # fmt: skip
    whole = finish(experiment, tmp_path / "whole")
    rounds = Driver(experiment, tmp_path / "resumed").run()
    next(rounds)
    rounds.close()
    assert finish(experiment, tmp_path / "resumed") == whole
    examples = table(tmp_path / "whole", "clients.csv")["examples"]
    assert len({experiment.training.epochs(1, n).stop for n in examples}) > 1


def test_resuming_from_an_older_checkpoint_leaves_no_duplicate_rows(small: Make, tmp_path: Path) -> None:
    experiment = small(training={"rounds": 5}, checkpoint={"every": 2})
    rounds = Driver(experiment, tmp_path).run()
    for _ in range(3):
        next(rounds)
    rounds.close()
    shutil.rmtree(tmp_path / "checkpoint" / "round-00003")  # as after a kill: three rounds of rows, a checkpoint of two
    finish(experiment, tmp_path)
    assert table(tmp_path, "rounds.csv")["round"].tolist() == [1, 2, 3, 4, 5]


def test_lambda_zero_is_fedavg_bit_for_bit(small: Make, tmp_path: Path) -> None:
    fedavg = finish(small(strategy={"name": "fedavg"}), tmp_path / "fedavg")
    assert finish(small(strategy={"name": "fedlpfm", "lam": 0.0}), tmp_path / "fedlpfm") == fedavg
    assert finish(small(strategy={"name": "fedlpfm", "lam": 0.1}), tmp_path / "other") != fedavg
    assert finish(small(strategy={"name": "fedprox", "mu": 0.0}), tmp_path / "fedprox") == fedavg


def test_results_depend_on_the_seed(small: Make, tmp_path: Path) -> None:
    first = finish(small(seed=1), tmp_path / "a")
    assert finish(small(seed=1), tmp_path / "b") == first
    assert finish(small(seed=2), tmp_path / "c") != first


def test_a_single_client_is_plain_sgd(small: Make, tmp_path: Path) -> None:
    """The mean of one client is its weights, so two rounds of one epoch equal one round of two."""
    partition = {"kind": "iid", "clients": 1}
    finish(small(partition=partition, training={"rounds": 1, "optimizer": {"momentum": 0.0}}), tmp_path / "one")
    finish(small(partition=partition, training={"rounds": 2, "optimizer": {"momentum": 0.0}}), tmp_path / "two")
    finish(
        small(partition=partition, training={"rounds": 1, "local_epochs": 2, "optimizer": {"momentum": 0.0}}),
        tmp_path / "epochs",
    )
    assert weights_of(tmp_path / "two") == weights_of(tmp_path / "epochs")
    assert weights_of(tmp_path / "two") != weights_of(tmp_path / "one")


def test_cohorts_are_drawn_by_seed_and_round(small: Make, tmp_path: Path) -> None:
    experiment = small(
        partition={"kind": "iid", "clients": 20},
        training={"participation": 0.25, "rounds": 2},
        strategy={"name": "fml"},
    )
    shards = federated.load(experiment).shards
    cohorts = [draw_cohort(experiment, shards, number) for number in range(1, 100)]
    assert all(len(set(cohort)) == 5 for cohort in cohorts)
    assert draw_cohort(experiment, shards, 7) == cohorts[6]
    times = np.bincount(np.concatenate(cohorts), minlength=20)
    assert times.min() > 10  # 24.75 expected; 10 is 3.4 deviations below
    finish(experiment, tmp_path)
    clients = table(tmp_path, "clients.csv")
    assert clients.groupby("round")["client"].apply(list).tolist() == cohorts[:2]
    private = {file.stem for file in (tmp_path / "checkpoint" / "clients").iterdir()}
    assert private == {f"{client:05d}-{number:05d}" for number in (1, 2) for client in cohorts[number - 1]}


def test_tables_describe_the_run(small: Make, tmp_path: Path) -> None:
    finish(small(strategy={"name": "fml"}, evaluation={"every": 2}), tmp_path)
    rounds, clients, classes = (table(tmp_path, f"{name}.csv") for name in ("rounds", "clients", "classes"))
    partition = table(tmp_path, "partition.csv").set_index("client")
    assert rounds["round"].tolist() == [1, 2, 3]
    assert rounds["test_accuracy"].notna().tolist() == [False, True, True]
    size = sum(array.nbytes for array in load_file(tmp_path / "model.safetensors").values())
    assert rounds["bytes_up"].tolist() == rounds["bytes_down"].tolist() == [4 * size] * 3
    assert partition["examples"].sum() == 160  # 200 minus the public fifth
    examples = partition.groupby("client")["examples"].sum()
    assert clients.groupby("client")["examples"].first().tolist() == examples.tolist()
    losses = [column for column in clients.columns if column.startswith("loss")]
    assert losses == ["loss_cross_entropy", "loss_mutual", "loss_private_cross_entropy", "loss_private_mutual"]
    assert clients[losses].notna().all(axis=None)
    last = classes[classes["round"] == 3]
    assert last["examples"].tolist() == [6] * 10
    assert rounds["test_accuracy"].iloc[-1] == pytest.approx((last["test_accuracy"] * last["examples"]).sum() / 60)
    assert rounds["worst_class_accuracy"].iloc[-1] == last["test_accuracy"].min()


def test_an_error_of_a_client_ends_the_run_with_its_traceback(small: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"client 2 failed in round 2 on node .*ZeroDivisionError") as raised:
        finish(small(), tmp_path, FailingWorker)
    assert "divided by nothing" in str(raised.value)
    assert "workers.py" in str(raised.value)
    assert table(tmp_path, "rounds.csv")["round"].tolist() == [1]


def test_a_run_continues_after_a_dropped_failure(small: Make, tmp_path: Path) -> None:
    finish(small(training={"failures": "drop", "min_cohort": 3}), tmp_path, FailingWorker)
    rounds, clients = table(tmp_path, "rounds.csv"), table(tmp_path, "clients.csv")
    assert rounds["failed_clients"].tolist() == [0, 1, 0]
    assert rounds["clients"].tolist() == [4, 3, 4]
    failed = clients[clients["failure"].notna()]
    assert failed[["round", "client"]].to_numpy().tolist() == [[2, 2]]
    assert "ZeroDivisionError" in failed["failure"].item()


def test_a_run_ends_if_too_few_clients_succeed(small: Make, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"1 of 4 clients failed, which leaves fewer than training.min_cohort=4"):
        finish(small(training={"failures": "drop", "min_cohort": 4}), tmp_path, FailingWorker)


@pytest.mark.parametrize(
    ("worker", "message"),
    [
        (NotFiniteWorker, "client 1 failed in round 1 .*classifier.1.bias is not finite"),
        (MisshapenWorker, r"client 3 failed in round 1 .*classifier.1.bias is float32\[511\], not float32\[512\]"),
    ],
)
def test_unusable_updates_are_rejected(small: Make, tmp_path: Path, worker: type[Worker], message: str) -> None:
    with pytest.raises(RunError, match=message):
        finish(small(), tmp_path, worker)


def test_a_dropped_update_is_not_part_of_the_mean(small: Make, tmp_path: Path) -> None:
    finish(small(training={"failures": "drop"}), tmp_path, NotFiniteWorker)
    assert all(np.isfinite(array).all() for array in load_file(tmp_path / "model.safetensors").values())


@pytest.mark.slow
def test_distillation_helps_clients_with_one_class_each(small: Make, tmp_path: Path) -> None:
    """On 1,200 digits, a teacher makes up for much of the skew between clients."""
    sections: dict[str, Any] = {
        "data": {"train_limit": None, "test_limit": None},
        "partition": {"kind": "class_split", "classes_per_client": 1, "clients": 10},
        "teacher": {"epochs": 30},
        "proxy": {"name": "cnn", "norm": None},
        "training": {"rounds": 12, "local_epochs": 2, "batch_size": 32},
    }
    finish(small(strategy={"name": "fedavg"}, **sections), tmp_path / "fedavg")
    finish(small(strategy={"name": "fedlpfm", "lam": 0.8, "temperature": 2}, **sections), tmp_path / "fedlpfm")
    mean = {s: table(tmp_path / s, "rounds.csv")["test_accuracy"].tail(4).mean() for s in ("fedavg", "fedlpfm")}
    assert mean["fedlpfm"] > mean["fedavg"] + 0.15


def sections_for(loss: str) -> dict[str, Any]:
    """Sections of a strategy with this distillation, and of a teacher that fits it."""
    strategy = {"name": "fedlpfm", "lam": 0.5, "temperature": 4.0, "loss": {"name": loss}}
    if loss == "function_matching":
        return {"strategy": strategy | {"lam": 1}, "teacher": {"view": "proxy", "mode": "online"}}
    return {"strategy": strategy}


@pytest.mark.parametrize("loss", sorted(DISTILLATIONS))
def test_fedlpfm_trains_with_every_distillation(small: Make, tmp_path: Path, loss: str) -> None:
    finish(small(**sections_for(loss), training={"rounds": 3, "optimizer": {"lr": 0.02}}), tmp_path)
    values = table(tmp_path, "clients.csv").groupby("round")[f"loss_{loss}"].mean()
    assert np.isfinite(values).all()
    assert values[3] < values[1]


def test_function_matching_with_an_online_teacher_resumes_bit_for_bit(small: Make, tmp_path: Path) -> None:
    experiment = small(**sections_for("function_matching"), data={"augment": "crop_flip"})
    whole = finish(experiment, tmp_path / "whole")
    rounds = Driver(experiment, tmp_path / "resumed").run()
    next(rounds)
    rounds.close()
    assert finish(experiment, tmp_path / "resumed") == whole
    pd.testing.assert_frame_equal(table(tmp_path / "resumed", "rounds.csv"), table(tmp_path / "whole", "rounds.csv"))


def test_projections_are_saved_and_never_sent(small: Make, tmp_path: Path) -> None:
    experiment = small(strategy={"name": "fedlpfm", "loss": {"name": "cosine"}})
    finish(experiment, tmp_path / "cosine")
    finish(small(strategy={"name": "fedavg"}), tmp_path / "fedavg")
    assert weights_of(tmp_path / "cosine").keys() == weights_of(tmp_path / "fedavg").keys()
    sent = [table(tmp_path / name, "rounds.csv")["bytes_up"].tolist() for name in ("cosine", "fedavg")]
    assert sent[0] == sent[1]
    states = [load_file(file) for file in sorted((tmp_path / "cosine" / "checkpoint" / "clients").glob("*-00003.*"))]
    assert [{name: array.shape for name, array in own.items()} for own in states] == [
        {"projection/weight": (512, 512)}
    ] * 4
    assert len({own["projection/weight"].tobytes() for own in states}) == 4


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_tables_count_teacher_outputs(small: Make, tmp_path: Path, mode: str) -> None:
    experiment = small(
        strategy={"name": "fedlpfm"}, teacher={"mode": mode}, training={"local_epochs": 2}, partition=IID
    )
    finish(experiment, tmp_path)
    rounds, clients = (pd.read_csv(tmp_path / name) for name in ("rounds.csv", "clients.csv"))
    assert rounds["teacher_outputs_used"].tolist() == [2 * 160] * 3  # 160 examples, two epochs a round
    passes = [2 * 160] * 3 if mode == "online" else [160, 0, 0]  # cached: one pass per image
    assert rounds["teacher_forward_passes"].tolist() == passes
    assert (rounds["teacher_seconds"] >= 0).all()
    assert (clients["peak_bytes"] > 2**20).all()


def test_without_a_teacher_no_outputs_are_counted(small: Make, tmp_path: Path) -> None:
    finish(small(strategy={"name": "fedavg"}), tmp_path)
    columns = ["teacher_outputs_used", "teacher_forward_passes", "teacher_seconds"]
    assert (pd.read_csv(tmp_path / "rounds.csv")[columns] == 0).all(axis=None)
