"""The estimated cost of a study, and its comparison with the actual one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import federated

from fedray.backends.serial import SerialBackend
from fedray.cli.plan_table import print_plan
from fedray.config.experiment import Experiment
from fedray.config.loader import read
from fedray.errors import SpecError
from fedray.server.driver import Driver
from fedray.study import estimate, plan
from fedray.study.probe import StepTiming, TeacherTiming, measure, measure_teachers
from fedray.study.study import Study
from fedray.study.workload import Workload
from fedray.teachers.cache import TeacherCache

Make = Callable[..., Experiment]
TWO_CORES = {"CPU": 2.0, "GPU": 0.0}

SPACE = """
base:
  data: {train: digits, test: digits, train_limit: 200, test_limit: 60, public_fraction: 0.2}
  partition: {kind: iid, clients: 4}
  teacher: {kind: supervised, epochs: 1}
  strategy: {name: fedlpfm}
  training: {rounds: 2, batch_size: 10, optimizer: {lr: 0.05}}
  resources: {backend: serial}
space:
  strategy.lam: {grid: [0.25, 0.5, 1.0]}
"""


def study(folder: Path, *overrides: str) -> Study:
    (folder / "study.yaml").write_text(SPACE)
    return Study(read(folder / "study.yaml", overrides), folder / "results")


def finish(of: Study, which: int) -> None:
    trial = of.trials()[which]
    trial.start()
    for _ in Driver(trial.experiment, trial.folder.path).run():
        pass


def seconds(**changes: float) -> StepTiming:
    fields = {"step": 0.0, "call": 0.0, "image": 0.0, "update": 0.0, "round": 0.0, "memory": 0}
    return StepTiming(**(fields | changes))


WORK = Workload((4, 3, 2, 1), 100, cohort=4, rounds=5, evaluations=3, test_images=60, weights_bytes=0, flops=0)


@pytest.mark.parametrize(
    ("speed", "actors", "expected"),
    [
        (seconds(step=1.0), 1, 5 * 10),
        (seconds(step=1.0), 2, 5 * 5),
        (seconds(call=1.0), 1, 5 * 4),
        (seconds(call=1.0), 2, 5 * 2),
        (seconds(image=1.0), 1, 3 * 60),
        (seconds(image=1.0), 2, 3 * 30),
        (seconds(update=1.0), 2, 5 * 4),  # in the driver, so independent of the number of actors
        (seconds(round=1.0), 2, 5),
        (seconds(step=1.0, round=1.0), 1, 55),
    ],
)
def test_seconds_of_a_trial(speed: StepTiming, actors: int, expected: float) -> None:
    assert speed.of(WORK, actors) == expected


class TestCounts:
    def test_trials_at_once(self, tmp_path: Path) -> None:
        planned = plan.plan(study(tmp_path), TWO_CORES, TeacherCache())
        assert (len(planned.trials), len(planned.pending), planned.at_once) == (3, 3, 2)
        assert {plan.actors for plan in planned.actors.values()} == {1}

    def test_trials_that_share_a_teacher_share_its_outputs(self, tmp_path: Path) -> None:
        planned = plan.plan(study(tmp_path), TWO_CORES, TeacherCache())
        assert (planned.queries.missing, planned.queries.cached) == (160, 0)
        assert (planned.outputs_used, planned.online) == (3 * 2 * 160, 0)

    def test_finished_trials_are_not_planned(self, tmp_path: Path) -> None:
        finish(study(tmp_path), 0)
        planned = plan.plan(study(tmp_path), TWO_CORES, TeacherCache())
        assert (len(planned.trials), len(planned.pending)) == (3, 2)
        assert (planned.queries.missing, planned.queries.cached) == (0, 160)
        assert planned.outputs_used == 2 * 2 * 160

    def test_online_outputs_are_counted_apart(self, tmp_path: Path) -> None:
        planned = plan.plan(study(tmp_path, "teacher.mode=online"), TWO_CORES, TeacherCache())
        assert (planned.queries.missing, planned.outputs_used, planned.online) == (0, 960, 960)

    def test_finished_study(self, tmp_path: Path) -> None:
        for which in range(3):
            finish(study(tmp_path), which)
        planned = plan.plan(study(tmp_path), TWO_CORES, TeacherCache())
        assert (list(planned.pending), planned.outputs_used) == ([], 0)

    def test_proposals_of_a_searcher_are_drawn_at_random(self, tmp_path: Path) -> None:
        overrides = ["search.algorithm=optuna", "search.samples=7", "training.rounds=3"]
        text = SPACE.replace("{grid: [0.25, 0.5, 1.0]}", "{uniform: [0, 1]}")
        (tmp_path / "drawn.yaml").write_text(text)
        planned = plan.plan(Study(read(tmp_path / "drawn.yaml", overrides), tmp_path), TWO_CORES, TeacherCache())
        assert len(planned.pending) == 7

    def test_client_larger_than_the_cluster_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"resources\.gpus_per_client is 1, but the cluster has 0 GPUs"):
            plan.plan(study(tmp_path, "resources.gpus_per_client=1"), TWO_CORES, TeacherCache())


class TestMeasurements:
    def test_each_kind_of_trial_is_measured_once(self, tmp_path: Path) -> None:
        planned, messages = plan.plan(study(tmp_path), TWO_CORES, TeacherCache()), list[str]()
        plan.probe(planned, SerialBackend, messages.append)
        assert messages == ["measuring lam=0.25"]  # the weight of a loss does not change its duration
        assert len(set(planned.step_timings.values())) == 1
        (speed,) = set(planned.step_timings.values())
        assert 0 < speed.step < 5
        assert speed.memory > 100e6  # torch alone uses more
        assert 0 < planned.teacher_timings[0].seconds < 5
        assert planned.total_seconds > planned.startup_seconds + sum(planned.seconds.values()) / 2

    @pytest.mark.parametrize("proxy", ["cnn", "linear_probe"])
    def test_a_strategy_that_broadcasts_more_than_weights(self, small: Make, proxy: str) -> None:
        experiment = small(proxy={"name": proxy, "norm": None}, strategy={"name": "scaffold"})
        assert 0 < measure(experiment, federated.load(experiment), SerialBackend, 1).step < 5

    @pytest.mark.slow
    def test_larger_proxy_has_longer_steps(self, small: Make) -> None:
        speeds = []
        for name in ("cnn", "resnet18"):
            experiment = small(proxy={"name": name}, partition={"kind": "iid", "clients": 1}, teacher=None)
            speeds.append(measure(experiment, federated.load(experiment), SerialBackend, 1).step)
        assert speeds[1] > 2 * speeds[0]

    def test_missing_teacher_is_reported(self, small: Make) -> None:
        base = small(teacher=None, strategy={"name": "fedavg"}).model_dump(mode="json")
        teacher = {"kind": "zero_shot", "model": "ViT-B-32", "pretrained": "openai-typo"}
        experiment = Experiment.model_validate({**base, "teacher": teacher, "strategy": {"name": "fedlpfm"}})
        (found,) = measure_teachers(experiment, federated.load(experiment), SerialBackend)
        assert "openai-typo" in found.problem

    def test_total_seconds(self, tmp_path: Path) -> None:
        planned = plan.plan(study(tmp_path), TWO_CORES, TeacherCache())
        names = [trial.name for trial in planned.pending]
        planned.work = dict.fromkeys(names, WORK)
        planned.step_timings = {
            name: seconds(round=number) for name, number in zip(names, (1.0, 2.0, 4.0), strict=True)
        }
        planned.teacher_timings = [TeacherTiming(0.5, 10, 0), TeacherTiming(float("nan"), 0, 0, "not there")]
        planned.startup_seconds = 3.0
        assert planned.teacher_seconds == 160 * 0.5
        assert planned.total_seconds == 3.0 + 80.0 + 5 * (1 + 4)  # the third starts when the first ends


class TestComparisonWithActual:
    def test_seconds_of_finished_trials(self, tmp_path: Path) -> None:
        of = study(tmp_path)
        estimate.save(of, {trial.name: 10.0 * number for number, trial in enumerate(of.trials(), 1)})
        assert estimate.compare_with_actual(of, of.trials()) is None
        for which in (0, 2):
            finish(of, which)
        trials = study(tmp_path).trials()
        actual = sum(row["seconds"] for which in (0, 2) for row in trials[which].history())
        assert estimate.compare_with_actual(of, trials) == (2, 40.0, actual)

    def test_later_plan_keeps_estimates_of_other_trials(self, tmp_path: Path) -> None:
        of = study(tmp_path)
        first, second, _ = (trial.name for trial in of.trials())
        estimate.save(of, {first: 1.0, second: 2.0})
        estimate.save(of, {second: 3.0})
        finish(of, 0)
        finish(of, 1)
        found = estimate.compare_with_actual(of, study(tmp_path).trials())
        assert found is not None
        assert found[:2] == (2, 4.0)

    def test_damaged_plan_is_ignored(self, tmp_path: Path) -> None:
        of = study(tmp_path)
        finish(of, 0)
        (of.folder / "plan.json").write_text("{")
        assert estimate.compare_with_actual(of, of.trials()) is None


def test_printed_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = study(tmp_path)
    planned = plan.plan(of, TWO_CORES, TeacherCache())
    print_plan(of, planned)
    rows = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert rows["trials"].startswith("3: 3 pending; 3 to run")
    assert rows["clients"].strip() == "4 per trial in 1 actor with 1 core; 6 rounds in all"
    assert rows["capacity"].strip() == "2 trials at a time on 2 cores, 0 GPUs"
    assert rows["teachers"].strip() == "960 outputs used: 0 in the cache, 160 forward passes to compute the rest"
    assert "time" not in rows  # nothing was measured


def test_printed_numbers_have_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of = study(tmp_path)
    planned = plan.plan(of, TWO_CORES, TeacherCache())
    names = [trial.name for trial in planned.pending]
    sized: dict[str, Any] = {"weights_bytes": 10**9, "flops": 3 * 10**14}
    planned.work = dict.fromkeys(names, Workload((4,), 100, 1, 5, 5, 60, **sized))
    planned.step_timings = dict.fromkeys(names, seconds(round=60.0, memory=1_500_000_000))
    print_plan(of, planned)
    out = capsys.readouterr().out
    assert "900.0 Tflop to train the proxies; 30.0 GB between drivers and clients" in out
    assert "at most 1.50 GB per actor" in out
    assert "10 min 00 s" in out  # two trials of five minutes one after the other


def test_probe_refuses_a_batch_that_a_trial_cannot_be_trained_on(tmp_path: Path) -> None:
    """200 examples minus 40 public ones, of 160 clients: each has one, and BatchNorm needs two."""
    of = study(tmp_path, "partition.clients=160", "proxy={name: resnet18, norm: null}")
    planned = plan.plan(of, TWO_CORES, TeacherCache(tmp_path / "cache"))
    with pytest.raises(SpecError, match=r"^lam=0\.25: proxy\.name is 'resnet18', whose BatchNorm layers cannot train"):
        plan.probe(planned, SerialBackend, lambda _: None)


def test_plan_refuses_class_names_of_another_number(tmp_path: Path) -> None:
    of = study(tmp_path, "teacher={kind: zero_shot, model: no-such-model, classes: [one, two]}")
    with pytest.raises(SpecError, match=r"teacher\.classes names 2 classes, but the data has 10"):
        plan.plan(of, TWO_CORES, TeacherCache(tmp_path / "cache"))
