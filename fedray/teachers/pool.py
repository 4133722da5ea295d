"""The teachers that one process has loaded, and what they are asked there."""

import sys
from importlib.metadata import version

import numpy as np
import torch

from fedray.config.experiment import Experiment
from fedray.data.federated import FederatedDataset
from fedray.data.views import VIEWS, apply_views
from fedray.errors import SpecError
from fedray.teachers import adapted, loading
from fedray.teachers.cache import Values
from fedray.teachers.ensemble import LogitEnsemble
from fedray.teachers.sections import Adapted, Ensemble, members, members_of
from fedray.teachers.targets import OnlineTargets
from fedray.teachers.teacher import Teacher, TeacherOutputs
from fedray.training import malloc
from fedray.types import Indices, Row, TeacherOutput, TeacherQuery


class TeacherPool:
    """Loads a teacher when it is first asked."""

    def __init__(self, experiment: Experiment, federated: FederatedDataset, device: torch.device) -> None:
        self._experiment = experiment
        self._federated = federated
        self._device = device
        self._loaded: dict[tuple[int, int | None], Teacher] = {}
        self._flops: dict[tuple[int, int | None], int] = {}
        self._blends: dict[int, LogitEnsemble] = {}

    def answer(self, question: TeacherQuery, rows: Indices, features: Values | None) -> TeacherOutput:
        """A teacher's answers for some rows; or, from a client's features, the head that its probe fits."""
        if question.output_kind == "head":
            assert features is not None, "a head is fitted to features"
            return TeacherOutput(self._fit_head(question, features), self._record("a linear probe", question), 0, 0, 0)
        teacher = self._teacher(question.member, question.client)
        if question.output_kind == "logits":
            self._check_outputs(teacher)
        seen = self._seen(question, rows)
        flops = self._flops_of(question.member, question.client)
        answers = self._ask(teacher, seen)[question.output_kind]
        if question.client is not None and not question.augmented:
            del self._loaded[question.member, question.client]  # it is asked once, and there may be many
        record = self._record(teacher.name, question) | {"flops": flops}
        return TeacherOutput(answers, record, len(rows), len(rows) * flops, peak_bytes(self._device))

    def online(self, client: int) -> OnlineTargets:
        """A client's teachers, for its steps to ask."""
        teacher = self._experiment.teacher
        specs, chosen = members(teacher), members_of(teacher, client, self._experiment.seed)
        owners = {m: client if isinstance(specs[m], Adapted) else None for m in chosen}
        own = [self._teacher(m, owner) for m, owner in owners.items()]
        if isinstance(teacher, Ensemble) and len(own) > 1 and client not in self._blends:
            data = self._federated.train.take(self._federated.shards[client])
            said = [torch.from_numpy(self._ask(each, data.images)["logits"]) for each in own]
            self._blends[client] = LogitEnsemble.fit(said, torch.from_numpy(data.labels), teacher.combine)
        output_kinds = sorted(self._experiment.strategy.required_outputs)
        for each in own if "logits" in output_kinds else ():
            self._check_outputs(each)
        proxy_view = teacher is not None and teacher.view == "proxy"
        flops = sum(self._flops_of(m, owner) for m, owner in owners.items())
        return OnlineTargets(own, self._blends.get(client), output_kinds, proxy_view, flops)

    def dismiss(self) -> None:
        """Let all teachers go, and their memory."""
        if self._loaded:
            self._loaded.clear()
            malloc.trim()

    def _teacher(self, member: int, client: int | None) -> Teacher:
        """One of the spec's teachers; an adapted one as it is for its client, or else before."""
        if (member, client) not in self._loaded:
            spec = members(self._experiment.teacher)[member]
            if isinstance(spec, Adapted) and client is None:
                spec = spec.backbone
            base = None if client is None else self._teacher(member, None)
            found = loading.load(spec, self._federated, self._experiment.seed, self._device, client, base)
            self._loaded[member, client] = found
        return self._loaded[member, client]

    def _ask(self, teacher: Teacher, images: np.ndarray) -> TeacherOutputs:
        """As the teacher answers. Raises SpecError where its batches are too large for the memory."""
        try:
            return teacher.ask(images)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            raise SpecError(
                f"teacher.batch_size is {teacher.batch_size}, and {teacher.name} runs out of memory with it; lower it."
            ) from error

    def _check_outputs(self, teacher: Teacher) -> None:
        classes = len(self._federated.train.classes)
        if teacher.outputs != classes:
            raise SpecError(
                f"teacher.class_map: {teacher.name} has {teacher.outputs} outputs, and the data {classes} classes; "
                "say which outputs mean which class."
            )

    def _seen(self, question: TeacherQuery, rows: Indices) -> np.ndarray:
        images = self._federated.side(question.side).images
        if not question.augmented:
            return images[rows]
        return apply_views(torch.from_numpy(images[rows // VIEWS]), torch.from_numpy(rows % VIEWS)).numpy()

    def _fit_head(self, question: TeacherQuery, features: Values) -> Values:
        """[classes, d + 1], bias last."""
        assert question.client is not None, "a probe is some client's"
        spec = members(self._experiment.teacher)[question.member]
        data, seed = self._federated.train, self._experiment.seed
        start = self._teacher(question.member, None).head
        labels = data.labels[self._federated.shards[question.client]]
        head = adapted.probe(spec, features, labels, start, len(data.classes), seed, question.client)
        return np.hstack([head.weight.numpy(), head.bias.numpy()[:, None]])

    def _flops_of(self, member: int, client: int | None) -> int:
        """Of one image, counted once."""
        if (member, client) not in self._flops:
            self._flops[member, client] = self._teacher(member, client).flops(self._federated.train.images[0])
        return self._flops[member, client]

    def _record(self, teacher: str, question: TeacherQuery) -> Row:
        return {
            "teacher": teacher,
            "data": self._federated.side(question.side).name,
            "device": torch.cuda.get_device_name(0) if self._device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            **{package: version(package) for package in ("fedray", "torch", "open_clip_torch", "timm")},
        }


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held: on its GPU, or resident where it has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0  # not known
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
