"""Targets are the same from the cache as computed online, and each teacher output is computed once."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from helpers import federated
from pydantic import TypeAdapter
from safetensors.numpy import load_file

from fedray.backends.serial import SerialBackend
from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import apply_views, choose_views
from fedray.errors import SpecError
from fedray.results import checkpoint
from fedray.server.driver import Driver
from fedray.server.teacher_client import TeacherClient
from fedray.server.teacher_targets import TeacherTargets
from fedray.teachers import adapted, loading
from fedray.teachers.cache import TeacherCache
from fedray.teachers.pool import TeacherPool
from fedray.teachers.sections import AnyTeacher
from fedray.training.batches import AugmentedBatch
from fedray.types import Progress, TeacherProgress
from fedray.workers.requests import QueryTeacher, Request, WorkerResult
from fedray.workers.worker import Worker

Make = Callable[..., Experiment]
Floats = npt.NDArray[np.float32]
Weights = dict[str, Floats]

CPU = torch.device("cpu")
HALF = np.finfo(np.float16)
CLIENT_EXAMPLES = 80  # 100 examples less the public fifth
STAND_IN = {"kind": "supervised", "epochs": 2}
OTHER = {"kind": "supervised", "epochs": 4, "lr": 0.02}
PROBE = {"kind": "adapted", "backbone": STAND_IN, "epochs": 3}
TUNED = {**PROBE, "method": "fine_tune", "epochs": 2}
BOTH = {"kind": "ensemble", "teachers": [STAND_IN, OTHER]}
KINDS = {"supervised": STAND_IN, "probe": PROBE, "fine_tuned": TUNED, "ensemble": BOTH}


class NoTeacherWorker(Worker):
    """Fails where a teacher output must be computed: all must be cached."""

    def handle(self, request: Request[Any]) -> WorkerResult[Any]:
        assert not isinstance(request, QueryTeacher), "a teacher output was computed"
        return super().handle(request)


@pytest.fixture
def make(small: Make) -> Make:
    """Make a small experiment that distils from a teacher of any kind."""

    def make(teacher: Any = STAND_IN, strategy: Any = None, **sections: Any) -> Experiment:
        sections["data"] = {"train_limit": 100} | sections.get("data", {})
        sections["training"] = {"rounds": 2} | sections.get("training", {})
        strategy = {"name": "fedlpfm", "lam": 0.5, "temperature": 2.0} | (strategy or {})
        return small(teacher=TypeAdapter(AnyTeacher).validate_python(teacher), strategy=strategy, **sections)

    return make


def finish(experiment: Experiment, folder: Path, worker: type[Worker] = Worker, cache: Path | None = None) -> Weights:
    """Run to the end. Return the final proxy and the state of each client."""
    for _ in Driver(experiment, folder, partial(SerialBackend, worker=worker), cache=cache).run():
        pass
    weights = load_file(folder / "model.safetensors")
    _, clients = checkpoint.load(folder / "checkpoint") or (None, {})
    for client, number in clients.items():
        state = checkpoint.client_file(folder / "checkpoint", client, number).read()
        weights |= {f"{client}/{name}": values for group in state.values() for name, values in group.items()}
    return weights


def interrupt(experiment: Experiment, folder: Path, rounds: int = 1) -> None:
    """Stop after a number of rounds, as Ctrl-C does."""
    run = Driver(experiment, folder).run()
    for _ in range(rounds):
        next(run)
    run.close()


def bits(weights: Weights) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in weights.items()}


def passes(*folders: Path) -> int:
    return sum(int(pd.read_csv(folder / "rounds.csv")["teacher_forward_passes"].sum()) for folder in folders)


def client_targets(
    experiment: Experiment, data: FederatedDataset, number: int = 1, cohort: Sequence[int] | None = None
) -> dict[int, dict[str, Floats]]:
    """Each client's targets of a round, as the driver sends them."""
    backend = SerialBackend(experiment, data)
    client = TeacherClient(experiment, data, backend, TeacherCache())
    clients = range(len(data.shards)) if cohort is None else cohort
    shared = TeacherTargets(experiment, data, backend, client).of_round(number, clients, ignore)
    return {client: targets.get() for client, targets in shared.items()}


def ignore(_: Progress) -> None:
    pass


def direct(spec: Any, data: FederatedDataset, images: npt.NDArray[np.uint8], output_kind: str = "logits") -> Floats:
    """A teacher's outputs, computed without fedray's cache."""
    outputs = loading.load(TypeAdapter(AnyTeacher).validate_python(spec), data, 0, CPU).outputs(images)
    return np.asarray(outputs[output_kind])


def online_logits(experiment: Experiment, data: FederatedDataset, client: int) -> Floats:
    """An online teacher's logits of the client's plain images, called as a training step calls it."""
    images = torch.from_numpy(data.train.images[data.shards[client]])
    batch = AugmentedBatch(0, torch.arange(len(images)), images, images, 1.0)
    pool = TeacherPool(experiment.teacher, data, experiment.seed, CPU)
    return pool.online_targets(client, {"logits"})(batch)["logits"].numpy()


def views_of(data: FederatedDataset, client: int, epoch: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    examples = data.shards[client]
    numbers = choose_views(examples, seed, epoch)
    return apply_views(torch.from_numpy(data.train.images[examples]), torch.from_numpy(numbers)).numpy()


def assert_rounded_to_fp16(rounded: Floats, expected: Floats) -> None:
    """Check that the error is at most half a unit in the last place, or half the smallest number."""
    allowed = np.maximum(np.abs(expected) * float(HALF.eps) / 2, float(HALF.smallest_subnormal) / 2)
    assert (np.abs(rounded.astype(np.float64) - expected) <= allowed).all()
    assert not np.array_equal(rounded, expected)


class TestCachedAndOnline:
    CROPPED: dict[str, Any] = {"data": {"augment": "crop_flip"}, "training": {"local_epochs": 2}}  # noqa: RUF012

    @pytest.mark.parametrize(("view", "tolerance"), [("plain", 1e-5), ("proxy", 1e-4)])
    def test_both_modes_train_the_same_proxy(self, make: Make, tmp_path: Path, view: str, tolerance: float) -> None:
        cached, online = (
            finish(make({**STAND_IN, "view": view, "mode": mode}, **self.CROPPED), tmp_path / mode)
            for mode in ("cached", "online")
        )
        for name in cached:
            np.testing.assert_allclose(cached[name], online[name], rtol=tolerance, atol=tolerance)
        assert passes(tmp_path / "online") == CLIENT_EXAMPLES * 2 * 2  # two epochs in each of two rounds
        other = finish(make({**STAND_IN, "view": {"plain": "proxy", "proxy": "plain"}[view]}, **self.CROPPED), tmp_path)
        assert max(np.abs(cached[name] - other[name]).max() for name in cached) > 10 * tolerance

    def test_targets_of_plain_images_equal_the_teachers_outputs(self, make: Make) -> None:
        experiment = make(**self.CROPPED)
        data = federated.load(experiment)
        for client, targets in client_targets(experiment, data).items():
            expected = direct(STAND_IN, data, data.train.images[data.shards[client]])
            assert targets.keys() == {"logits"}
            np.testing.assert_array_equal(targets["logits"], expected[None])
            np.testing.assert_allclose(online_logits(experiment, data, client), expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("number", [1, 3])
    def test_targets_of_views_are_for_each_epochs_views(self, make: Make, number: int) -> None:
        experiment = make({**STAND_IN, "view": "proxy"}, **self.CROPPED)
        data = federated.load(experiment)
        by_client = client_targets(experiment, data, number, cohort=[0, 2])
        assert by_client.keys() == {0, 2}
        for client in by_client:
            logits = by_client[client]["logits"]
            assert logits.shape == (2, len(data.shards[client]), 10)
            for place, epoch in enumerate((2 * (number - 1), 2 * (number - 1) + 1)):
                assert_rounded_to_fp16(logits[place], direct(STAND_IN, data, views_of(data, client, epoch)))

    def test_without_augmentation_the_proxy_view_is_the_plain_image(self, make: Make, tmp_path: Path) -> None:
        plain = finish(make(), tmp_path / "plain")
        assert bits(finish(make({**STAND_IN, "view": "proxy"}), tmp_path / "proxy")) == bits(plain)
        assert passes(tmp_path / "plain", tmp_path / "proxy") == CLIENT_EXAMPLES

    def test_features_of_views(self, make: Make) -> None:
        experiment = make({**STAND_IN, "view": "proxy"}, strategy={"loss": {"name": "cosine"}}, **self.CROPPED)
        data = federated.load(experiment)
        for client, targets in client_targets(experiment, data).items():
            assert targets.keys() == {"features"}
            assert_rounded_to_fp16(
                targets["features"][1], direct(STAND_IN, data, views_of(data, client, 1), "features")
            )


class TestComputedOnce:
    def test_trials_with_one_teacher_share_its_outputs(self, make: Make, tmp_path: Path) -> None:
        first = finish(make(), tmp_path / "first")
        finish(make(strategy={"lam": 0.1, "temperature": 5.0}), tmp_path / "lam")
        finish(make(training={"optimizer": {"lr": 0.01}, "rounds": 3}), tmp_path / "lr")
        assert bits(finish(make(), tmp_path / "again")) == bits(first)
        assert [passes(tmp_path / name) for name in ("first", "lam", "lr", "again")] == [CLIENT_EXAMPLES, 0, 0, 0]

    def test_runs_with_one_seed_share_outputs_of_views(self, make: Make, tmp_path: Path) -> None:
        sections: dict[str, Any] = {"data": {"augment": "crop_flip"}, "training": {"local_epochs": 2}}
        teacher = {**STAND_IN, "view": "proxy"}
        finish(make(teacher, **sections), tmp_path / "first")
        finish(make(teacher, strategy={"lam": 0.9}, **sections), tmp_path / "second", NoTeacherWorker)
        data = federated.load(make())
        examples = np.concatenate(data.shards)
        views = {pair for epoch in range(4) for pair in zip(examples, choose_views(examples, 0, epoch), strict=True)}
        assert len(examples) == CLIENT_EXAMPLES
        assert passes(tmp_path / "first") == len(views)
        assert passes(tmp_path / "second") == 0

    @pytest.mark.parametrize("view", ["plain", "proxy"])
    def test_a_resumed_run_computes_no_output_twice(self, make: Make, tmp_path: Path, view: str) -> None:
        experiment = make({**STAND_IN, "view": view}, data={"augment": "crop_flip"}, training={"rounds": 3})
        whole = finish(experiment, tmp_path / "whole", cache=tmp_path / "another")
        interrupt(experiment, tmp_path / "resumed")
        assert bits(finish(experiment, tmp_path / "resumed")) == bits(whole)
        columns = ["round", "teacher_outputs_used", "teacher_forward_passes"]
        resumed, uninterrupted = (pd.read_csv(tmp_path / name / "rounds.csv")[columns] for name in ("resumed", "whole"))
        pd.testing.assert_frame_equal(resumed, uninterrupted)
        assert resumed["teacher_outputs_used"].tolist() == [CLIENT_EXAMPLES] * 3

    def test_interrupted_computation_of_outputs_resumes(self, make: Make, tmp_path: Path) -> None:
        experiment = make({**STAND_IN, "batch_size": 5})
        data, events = federated.load(experiment), list[Progress]()
        backend = SerialBackend(experiment, data)
        client = TeacherClient(experiment, data, backend, TeacherCache())

        def stop_at_the_second(event: Progress) -> None:
            events.append(event)
            if len(events) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            TeacherTargets(experiment, data, backend, client).of_round(1, range(4), stop_at_the_second)
        assert events == [TeacherProgress(5, CLIENT_EXAMPLES), TeacherProgress(10, CLIENT_EXAMPLES)]
        finish(experiment, tmp_path / "run")
        assert passes(tmp_path / "run") == CLIENT_EXAMPLES - 10

    def test_only_views_of_the_cohort_are_computed(self, make: Make, tmp_path: Path) -> None:
        teacher, training = {**STAND_IN, "view": "proxy"}, {"participation": 0.5, "rounds": 1}
        finish(make(teacher, data={"augment": "crop_flip"}, training=training), tmp_path)
        rounds, clients = pd.read_csv(tmp_path / "rounds.csv"), pd.read_csv(tmp_path / "clients.csv")
        assert len(clients) == 2
        assert (
            rounds["teacher_forward_passes"].tolist()
            == rounds["teacher_outputs_used"].tolist()
            == [clients["examples"].sum()]
        )

    def test_lam_zero_never_queries_the_teacher(self, make: Make, tmp_path: Path) -> None:
        finish(make(strategy={"lam": 0.0}), tmp_path, NoTeacherWorker)
        rounds = pd.read_csv(tmp_path / "rounds.csv")
        assert (
            rounds[["teacher_outputs_used", "teacher_forward_passes", "teacher_seconds"]].to_numpy().tolist()
            == [[0, 0, 0]] * 2
        )
        assert TeacherCache().entries() == []


class TestHistory:
    """Outputs that were cached before must not change a single bit of a run."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("view", [pytest.param("plain", marks=pytest.mark.slow), "proxy"])
    def test_earlier_runs_change_no_bit(self, make: Make, tmp_path: Path, kind: str, view: str) -> None:
        sections: dict[str, Any] = {"data": {"augment": "crop_flip"}, "training": {"local_epochs": 2}}
        experiment = make({**KINDS[kind], "view": view}, **sections)
        alone = finish(experiment, tmp_path / "alone", cache=tmp_path / "fresh")
        sections["training"] = {"participation": 0.3, "rounds": 1}
        other_view = {"plain": "proxy", "proxy": "plain"}[view]
        finish(make({**KINDS[kind], "view": other_view}, **sections), tmp_path / "other view")
        finish(make({**KINDS[kind], "view": view}, **sections), tmp_path / "other cohort")
        sections["partition"] = {"kind": "iid", "clients": 7}
        finish(make({**KINDS[kind], "view": view}, **sections), tmp_path / "other clients")
        assert bits(finish(experiment, tmp_path / "after")) == bits(alone)
        assert passes(tmp_path / "after") < passes(tmp_path / "alone")
        again = finish(experiment, tmp_path / "again", NoTeacherWorker, cache=tmp_path / "fresh")
        assert bits(again) == bits(alone)

    def test_damaged_rows_are_computed_again_during_a_run(self, make: Make, tmp_path: Path) -> None:
        first = finish(make(), tmp_path / "first")
        (entry,) = TeacherCache().entries()
        content = bytearray((entry.folder / "rows.bin").read_bytes())
        examples = np.concatenate(federated.load(make()).shards)
        for row in examples[:3]:
            content[row * 44 + 20] ^= 0xFF  # a row is a checksum of 4 bytes and 10 numbers of 4 bytes
        (entry.folder / "rows.bin").write_bytes(content)
        assert bits(finish(make(), tmp_path / "second")) == bits(first)
        assert passes(tmp_path / "second") == 3


class TestEnsemble:
    def parquet(self, data: FederatedDataset, file: Path) -> Floats:
        logits = np.random.default_rng(3).normal(size=(len(data.train), 10)).astype(np.float32)
        pd.DataFrame({"index": data.train.rows, "logits": list(logits)}).to_parquet(file)
        return logits

    def test_consistent_uses_only_the_first_teacher(self, make: Make, tmp_path: Path) -> None:
        alone = finish(make(), tmp_path / "alone")
        both = finish(make({**BOTH, "assignment": "consistent"}), tmp_path / "both", NoTeacherWorker)
        assert bits(both) == bits(alone)

    def test_random_assigns_each_client_one_fixed_teacher(self, make: Make) -> None:
        teacher, partition = {**BOTH, "assignment": "random"}, {"kind": "iid", "clients": 12}
        data = federated.load(make(partition=partition))
        outputs = [direct(spec, data, data.train.images) for spec in (STAND_IN, OTHER)]

        def drawn(number: int) -> list[int]:
            by_client = client_targets(make(teacher, partition=partition), data, number)
            return [
                [
                    np.array_equal(by_client[client]["logits"][0], teacher_outputs[shard])
                    for teacher_outputs in outputs
                ].index(True)
                for client, shard in enumerate(data.shards)
            ]

        assert drawn(1) == drawn(2)
        assert set(drawn(1)) == {0, 1}
        section = make(teacher).teacher
        assert [section.members_of(client, 0)[0] for client in range(12)] == drawn(1)
        assert any(section.members_of(client, 1) != section.members_of(client, 0) for client in range(12))

    @pytest.mark.parametrize("combine", ["mean_logits", "mean_probabilities", "weighted", "best"])
    @pytest.mark.parametrize("assignment", ["all", [0, [1, 0], [0, 1, 2], 2]], ids=["all", "listed"])
    def test_targets_equal_a_second_implementation(
        self, make: Make, tmp_path: Path, assignment: Any, combine: str
    ) -> None:
        data = federated.load(make())
        precomputed = self.parquet(data, tmp_path / "logits.parquet")
        teachers = [STAND_IN, OTHER, {"kind": "precomputed", "file": str(tmp_path / "logits.parquet")}]
        experiment = make({"kind": "ensemble", "teachers": teachers, "assignment": assignment, "combine": combine})
        outputs = [*(direct(spec, data, data.train.images) for spec in (STAND_IN, OTHER)), precomputed]
        having = [[0, 1, 2]] * 4 if assignment == "all" else [[0], [0, 1], [0, 1, 2], [2]]
        by_client = client_targets(experiment, data)
        for client, places in enumerate(having):
            shard = data.shards[client]
            own = [outputs[place][shard].astype(np.float64) for place in places]
            expected = combine_by_hand(own, data.train.labels[shard], combine) if len(own) > 1 else own[0]
            logits = by_client[client]["logits"][0]
            np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4, err_msg=f"client {client}")

    @pytest.mark.parametrize(
        ("combine", "view", "tolerance"),
        [("mean_logits", "plain", 1e-5), ("mean_probabilities", "proxy", 1e-4), ("weighted", "proxy", 1e-4)],
    )
    def test_both_modes_train_the_same_proxy(
        self, make: Make, tmp_path: Path, combine: str, view: str, tolerance: float
    ) -> None:
        """Regardless of the order of a client's teachers."""
        teacher = {**BOTH, "assignment": [0, [1, 0], 1, [0, 1]], "combine": combine, "view": view}
        cached, online = (
            finish(make({**teacher, "mode": mode}, data={"augment": "crop_flip"}), tmp_path / mode)
            for mode in ("cached", "online")
        )
        for name in cached:
            np.testing.assert_allclose(cached[name], online[name], rtol=tolerance, atol=tolerance)

    def test_online_targets_equal_cached_targets(self, make: Make) -> None:
        experiment = make({**BOTH, "assignment": [0, [1, 0], 1, [0, 1]]})
        data = federated.load(experiment)
        for client, targets in client_targets(experiment, data).items():
            np.testing.assert_allclose(
                online_logits(experiment, data, client), targets["logits"][0], rtol=1e-4, atol=1e-5
            )

    def test_assignment_of_another_number_of_clients_is_refused(self, make: Make, tmp_path: Path) -> None:
        experiment = make({**BOTH, "assignment": [0, 1, [0, 1]]})
        with pytest.raises(SpecError, match=r"^teacher.assignment has 3 entries, but there are 4 clients\.$"):
            Driver(experiment, tmp_path)

    def test_outputs_used_are_counted_per_teacher(self, make: Make, tmp_path: Path) -> None:
        experiment = make({**BOTH, "assignment": [0, 1, [0, 1], [1, 0]]})
        sizes = [len(shard) for shard in federated.load(experiment).shards]
        finish(experiment, tmp_path)
        rounds = pd.read_csv(tmp_path / "rounds.csv")
        used = sizes[0] + sizes[1] + 2 * sizes[2] + 2 * sizes[3]
        assert rounds["teacher_outputs_used"].tolist() == [used, used]
        assert rounds["teacher_forward_passes"].tolist() == [used, 0]


class TestAdapted:
    @pytest.mark.parametrize("spec", [PROBE, TUNED], ids=["linear_probe", "fine_tune"])
    def test_targets_equal_a_directly_adapted_teacher(self, make: Make, spec: dict[str, Any]) -> None:
        experiment = make(spec)
        data = federated.load(experiment)
        base = loading.load(TypeAdapter(AnyTeacher).validate_python(STAND_IN), data, 0, CPU)
        before = base.outputs(data.train.images)["logits"]
        by_client = client_targets(experiment, data)
        for client, shard in enumerate(data.shards):
            examples = data.train.take(shard)
            teacher = adapted.adapt(experiment.teacher, base, examples, shard, 0, client)
            logits = by_client[client]["logits"][0]
            np.testing.assert_allclose(logits, teacher.outputs(examples.images)["logits"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(online_logits(experiment, data, client), logits, rtol=1e-4, atol=1e-4)
            assert np.abs(logits - before[shard]).max() > 0.01  # adaptation changes the logits

    @pytest.mark.parametrize(("spec", "view"), [(PROBE, "proxy"), (TUNED, "plain")], ids=["linear_probe", "fine_tune"])
    def test_online_trains_the_same_proxy(self, make: Make, tmp_path: Path, spec: dict[str, Any], view: str) -> None:
        cached, online = (
            finish(make({**spec, "view": view, "mode": mode}, data={"augment": "crop_flip"}), tmp_path / mode)
            for mode in ("cached", "online")
        )
        for name in cached:
            np.testing.assert_allclose(cached[name], online[name], rtol=1e-4, atol=1e-4)

    def test_probes_of_all_clients_share_features(self, make: Make, tmp_path: Path) -> None:
        finish(make(PROBE), tmp_path / "probe")
        finish(make({**PROBE, "lr": 0.1}), tmp_path / "other")
        finish(make(strategy={"loss": {"name": "cosine"}}), tmp_path / "features")
        assert passes(tmp_path / "probe", tmp_path / "other", tmp_path / "features") == CLIENT_EXAMPLES

    def test_probe_heads_are_applied_to_features_of_views(self, make: Make) -> None:
        experiment = make({**PROBE, "view": "proxy"}, data={"augment": "crop_flip"})
        data = federated.load(experiment)
        base = loading.load(TypeAdapter(AnyTeacher).validate_python(STAND_IN), data, 0, CPU)
        for client, targets in client_targets(experiment, data, number=2).items():
            examples = data.train.take(data.shards[client])
            teacher = adapted.adapt(experiment.teacher, base, examples, data.shards[client], 0, client)
            expected = teacher.outputs(views_of(data, client, 1))["logits"]
            np.testing.assert_allclose(targets["logits"][0], expected, rtol=5e-3, atol=5e-3)


class TestFeatures:
    @pytest.mark.parametrize(("loss", "mode"), [("cosine", "cached"), ("feature_mse", "online")])
    def test_each_clients_projection_is_kept_and_restored(
        self, make: Make, tmp_path: Path, loss: str, mode: str
    ) -> None:
        experiment = make(
            {**STAND_IN, "mode": mode}, strategy={"loss": {"name": loss}}, training={"rounds": 3, "participation": 0.75}
        )
        whole = finish(experiment, tmp_path / "whole")
        interrupt(experiment, tmp_path / "resumed")
        assert bits(finish(experiment, tmp_path / "resumed")) == bits(whole)
        projections = {name: values for name, values in whole.items() if name.endswith("/weight")}
        assert {values.shape for values in projections.values()} == {(512, 512)}
        assert len({values.tobytes() for values in projections.values()}) == len(projections) == 4
        assert not any("projection" in name for name in whole if name not in projections)

    def test_both_modes_agree(self, make: Make, tmp_path: Path) -> None:
        cached, online = (
            finish(make({**STAND_IN, "mode": mode}, strategy={"loss": {"name": "cosine"}}), tmp_path / mode)
            for mode in ("cached", "online")
        )
        for name in cached:
            np.testing.assert_allclose(cached[name], online[name], rtol=1e-5, atol=1e-5)

    def test_a_projection_is_trained(self, make: Make, tmp_path: Path) -> None:
        experiment = make(strategy={"loss": {"name": "cosine"}}, training={"rounds": 1})
        once = finish(experiment, tmp_path / "once")
        twice = finish(make(strategy={"loss": {"name": "cosine"}}), tmp_path / "twice")
        moved = [np.abs(once[name] - twice[name]).max() for name in once if name.endswith("/weight")]
        assert len(moved) == 4
        assert min(moved) > 0


class TestFunctionMatching:
    def test_mixup_resumes_bit_for_bit(self, make: Make, tmp_path: Path) -> None:
        def matching(mixup: float, mode: str) -> Experiment:
            return make(
                {**STAND_IN, "view": "proxy", "mode": mode},
                strategy={"lam": 1.0, "loss": {"name": "function_matching", "mixup": mixup}},
                data={"augment": "crop_flip"},
                training={"rounds": 3},
            )

        whole = finish(matching(1.0, "online"), tmp_path / "whole")
        interrupt(matching(1.0, "online"), tmp_path / "resumed", rounds=2)
        assert bits(finish(matching(1.0, "online"), tmp_path / "resumed")) == bits(whole)
        clients = pd.read_csv(tmp_path / "whole" / "clients.csv")
        assert np.isfinite(clients["loss_function_matching"]).all()
        assert passes(tmp_path / "whole") == 3 * CLIENT_EXAMPLES
        assert bits(finish(matching(0.0, "online"), tmp_path / "unmixed")) != bits(whole)
        cached, unmixed = (
            finish(matching(0.0, "cached"), tmp_path / "cached"),
            tmp_path / "unmixed" / "model.safetensors",
        )
        for name, values in load_file(unmixed).items():
            np.testing.assert_allclose(cached[name], values, rtol=2e-3, atol=2e-3)


def test_teacher_accuracy_is_recorded(make: Make, tmp_path: Path) -> None:
    finish(make(), tmp_path)
    data = federated.load(make())
    examples = np.concatenate(data.shards)
    accuracy = (direct(STAND_IN, data, data.train.images[examples]).argmax(1) == data.train.labels[examples]).mean()
    assert json.loads((tmp_path / "environment.json").read_text())["teacher_accuracy"] == pytest.approx(accuracy)


def combine_by_hand(own: list[Any], labels: Any, combine: str) -> Any:
    """Center each teacher's logits, scale them to the first teacher's size, and average them."""
    centered = [logits - logits.mean(1, keepdims=True) for logits in own]
    scaled = [z * np.sqrt((centered[0] ** 2).mean() / (z**2).mean()) for z in centered]
    accuracies = np.array([(logits.argmax(1) == labels).mean() for logits in own])
    if combine == "mean_logits":
        return np.mean(scaled, axis=0)
    if combine == "mean_probabilities":
        return np.log(np.mean([np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in scaled], axis=0))
    if combine == "best":
        return scaled[int(accuracies.argmax())]
    return np.average(scaled, axis=0, weights=accuracies)
