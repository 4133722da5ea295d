"""The work counted before a run equals the work that the run does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers import federated

from fedray.config.experiment import Experiment
from fedray.server.driver import Driver
from fedray.study.workload import FEATURE_WIDTH, QueryCounter, Workload, workload
from fedray.teachers.cache import TeacherCache

Make = Callable[..., Experiment]


def work(**changes: Any) -> Workload:
    fields = {"steps": (4, 3, 2, 1), "examples": 100, "cohort": 4, "rounds": 5, "evaluations": 5, "test_images": 60,
              "weights_bytes": 1000, "flops": 0}  # fmt: skip
    return Workload(**(fields | changes))


def distilling(small: Make, teacher: dict[str, Any], **sections: Any) -> Experiment:
    """Make a Fed-LPFM experiment with this teacher section alone."""
    base = small(teacher=None, strategy={"name": "fedavg"}, **sections).model_dump(mode="json")
    return Experiment.model_validate({**base, "teacher": teacher, "strategy": {"name": "fedlpfm"}})


def run(experiment: Experiment, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    for _ in Driver(experiment, folder).run():
        pass
    return pd.read_csv(folder / "rounds.csv"), json.loads((folder / "costs.json").read_text())


@pytest.mark.parametrize(
    ("steps", "actors", "expected"),
    [
        ((4, 3, 2, 1), 1, 10),
        ((4, 3, 2, 1), 2, 5),  # 4, 1 and 3, 2
        ((4, 3, 2, 1), 3, 4),
        ((4, 3, 2, 1), 9, 4),  # one actor per client: the longest
        ((5, 5, 4, 4, 3), 2, 12),  # 5, 4, 3 and 5, 4
    ],
)
def test_makespan_places_clients_on_the_first_free_actor(steps: tuple[int, ...], actors: int, expected: int) -> None:
    assert work(steps=steps, cohort=len(steps)).makespan(actors) == expected


def test_half_the_clients_take_half_the_steps() -> None:
    assert work(cohort=2).makespan(1) == 5


def test_bytes_count_both_directions() -> None:
    assert work().bytes == 2 * 5 * 4 * 1000


@pytest.mark.parametrize(
    ("training", "every"),
    [({"rounds": 3, "local_epochs": 2}, 1), ({"rounds": 5, "participation": 0.5}, 2), ({"local_steps": 7}, 1)],
)
def test_the_count_equals_a_run(small: Make, tmp_path: Path, training: dict[str, Any], every: int) -> None:
    partition = {"kind": "iid", "clients": 4}
    experiment = small(training=training, evaluation={"every": every}, partition=partition, teacher=None)
    counted = workload(experiment, federated.load(experiment))
    rounds, costs = run(experiment, tmp_path)
    assert counted.bytes == (rounds["bytes_down"] + rounds["bytes_up"]).sum()
    assert counted.evaluations == rounds["test_accuracy"].count()
    assert counted.examples * counted.rounds == costs["proxy"]["examples_trained"]
    assert counted.flops == costs["proxy"]["flops"]


def test_finished_rounds_are_not_counted(small: Make) -> None:
    experiment = small(training={"rounds": 7}, evaluation={"every": 3}, teacher=None)
    data = federated.load(experiment)
    whole, rest = workload(experiment, data), workload(experiment, data, done=3)
    assert (rest.rounds, rest.evaluations) == (4, 2)  # 6 and 7
    assert rest.flops * 7 == whole.flops * 4


def test_a_client_without_examples_takes_no_steps(small: Make) -> None:
    partition = {"kind": "class_split", "classes_per_client": 1, "clients": 12}
    experiment = small(partition=partition, teacher=None)
    data = federated.load(experiment)
    holders = sum(1 for shard in data.shards if len(shard))
    assert len(workload(experiment, data).steps) == workload(experiment, data).cohort == holders


STAND_IN = {"kind": "supervised", "epochs": 1}
OTHER = {"kind": "supervised", "epochs": 2}


class TestTeachers:
    """The forward passes counted as missing are those that a run computes."""

    @pytest.mark.parametrize(
        "teacher",
        [
            STAND_IN,
            {**STAND_IN, "view": "proxy"},
            {"kind": "adapted", "backbone": STAND_IN, "epochs": 1},
            {"kind": "ensemble", "assignment": "random", "teachers": [STAND_IN, OTHER]},
            {"kind": "ensemble", "assignment": "all", "combine": "best", "teachers": [STAND_IN, OTHER]},
        ],
        ids=["plain", "proxy view and local steps", "linear probe", "one per client", "ensemble"],
    )
    def test_missing_passes_equal_a_runs_passes(self, small: Make, tmp_path: Path, teacher: dict[str, Any]) -> None:
        training = {"local_steps": 7} if teacher.get("view") == "proxy" else {}
        experiment = distilling(small, teacher, data={"augment": "crop_flip"}, training=training)
        before, after = QueryCounter(TeacherCache()), QueryCounter(TeacherCache())
        used = before.add(experiment, federated.load(experiment))
        rounds, _ = run(experiment, tmp_path)
        after.add(experiment, federated.load(experiment))
        assert before.cached == 0
        assert before.missing == rounds["teacher_forward_passes"].sum() > 0
        assert used == rounds["teacher_outputs_used"].sum()
        assert (after.missing, after.cached) == (0, before.missing)

    @pytest.mark.parametrize("every", [1, 2])
    def test_a_linear_probe_reads_train_and_test_set(self, small: Make, tmp_path: Path, every: int) -> None:
        experiment = small(proxy={"name": "linear_probe", "norm": None}, evaluation={"every": every})
        data, counter = federated.load(experiment), QueryCounter(TeacherCache())
        used = counter.add(experiment, data)
        assert counter.feature_width(experiment, data) == FEATURE_WIDTH
        rounds, costs = run(experiment, tmp_path)
        width = counter.feature_width(experiment, data)
        counted = workload(experiment, data, feature_width=width)
        assert counter.missing == rounds["teacher_forward_passes"].sum() == 160 + 60
        assert costs["teacher"]["forward_passes"] == 160 + 60
        assert used == rounds["teacher_outputs_used"].sum() == 3 * 160 + {1: 3, 2: 2}[every] * 60
        assert width == 512
        assert counted.bytes == (rounds["bytes_down"] + rounds["bytes_up"]).sum() == 3 * 4 * 2 * 4 * (512 * 10 + 10)
        assert counted.flops == costs["proxy"]["flops"]

    def test_outputs_of_two_trials_are_counted_once(self, small: Make) -> None:
        counter = QueryCounter(TeacherCache())
        for lam in (0.3, 0.6):
            experiment = small(strategy={"name": "fedlpfm", "lam": lam})
            used = counter.add(experiment, federated.load(experiment))
        assert counter.missing == 160  # the four fifths of 200 that are not public
        assert used == 160 * 3

    def test_without_a_teacher_nothing_is_counted(self, small: Make) -> None:
        experiment = small(strategy={"name": "fedavg"})
        counter = QueryCounter(TeacherCache())
        assert counter.add(experiment, federated.load(experiment)) == 0
        assert counter.missing == counter.cached == 0

    def test_counting_needs_no_weights(self, small: Make) -> None:
        teacher = {"kind": "zero_shot", "model": "ViT-B-32", "pretrained": "openai"}
        experiment = distilling(small, teacher, data={"public_fraction": 0})
        counter = QueryCounter(TeacherCache())
        counter.add(experiment, federated.load(experiment))
        assert counter.missing == 200
