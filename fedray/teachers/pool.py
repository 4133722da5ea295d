"""The teachers that one process has loaded."""

import sys
from collections.abc import Collection
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import torch

from fedray.data.federated import FederatedDataset
from fedray.data.views import VIEWS, apply_views
from fedray.errors import SpecError
from fedray.teachers import adapted, loading
from fedray.teachers.cache import OutputArray
from fedray.teachers.ensemble import LogitEnsemble
from fedray.teachers.sections import Adapted, AnyTeacher, Ensemble, members, members_of
from fedray.teachers.targets import OnlineTargets
from fedray.teachers.teacher import ImageOutputs, Teacher
from fedray.training import malloc
from fedray.types import Indices, OutputKind, Row, TeacherOutput, TeacherQuery


class TeacherPool:
    """Computes teacher outputs in one process. Each teacher is loaded at its first use."""

    def __init__(
        self, teacher: AnyTeacher | None, federated: FederatedDataset, seed: int, device: torch.device
    ) -> None:
        self._teacher = teacher
        self._members = members(teacher)
        self._federated = federated
        self._seed = seed
        self._device = device
        self._loaded: dict[tuple[int, int | None], Teacher] = {}
        self._flops: dict[tuple[int, int | None], int] = {}
        self._ensembles: dict[int, LogitEnsemble] = {}

    def compute(self, query: TeacherQuery, rows: Indices, features: OutputArray | None) -> TeacherOutput:
        """Compute the outputs of some rows; for a query of a head, fit a linear probe to a client's features.

        Raises SpecError where logits do not match the data's classes or a batch does not fit into memory.
        """
        if query.output_kind == "head":
            assert features is not None, "a head is fitted to features"
            return TeacherOutput(self._fit_head(query, features), self._provenance("a linear probe", query), 0, 0, 0)
        teacher = self._load(query.member, query.client)
        if query.output_kind == "logits":
            self._check_classes(teacher)
        images = self._images(query, rows)
        flops = self._flops_per_image(query.member, query.client)
        outputs = _outputs(teacher, images)[query.output_kind]
        if query.client is not None and not query.augmented:
            del self._loaded[query.member, query.client]  # it is queried once, and every client may have one
        produced_by = self._provenance(teacher.name, query) | {"flops": flops}
        return TeacherOutput(outputs, produced_by, len(rows), len(rows) * flops, peak_bytes(self._device))

    def online_targets(self, client: int, output_kinds: Collection[OutputKind]) -> OnlineTargets:
        """Return targets that the client's teachers compute for each batch."""
        owners = {
            member: client if isinstance(self._members[member], Adapted) else None
            for member in members_of(self._teacher, client, self._seed)
        }
        teachers = [self._load(member, owner) for member, owner in owners.items()]
        if isinstance(self._teacher, Ensemble) and len(teachers) > 1 and client not in self._ensembles:
            data = self._federated.train.take(self._federated.shards[client])
            logits = [torch.from_numpy(_outputs(teacher, data.images)["logits"]) for teacher in teachers]
            labels = torch.from_numpy(data.labels)
            self._ensembles[client] = LogitEnsemble.fit(logits, labels, self._teacher.combine)
        for teacher in teachers if "logits" in output_kinds else ():
            self._check_classes(teacher)
        proxy_view = self._teacher is not None and self._teacher.view == "proxy"
        flops = sum(self._flops_per_image(member, owner) for member, owner in owners.items())
        return OnlineTargets(teachers, self._ensembles.get(client), sorted(output_kinds), proxy_view, flops)

    def release(self) -> None:
        """Unload all teachers and return their memory to the system."""
        if self._loaded:
            self._loaded.clear()
            malloc.trim()

    def _load(self, member: int, client: int | None) -> Teacher:
        """Load a member once: an adapted teacher for a client, or only its backbone if no client is given."""
        if (member, client) not in self._loaded:
            spec = self._members[member]
            if isinstance(spec, Adapted) and client is None:
                spec = spec.backbone
            base = None if client is None else self._load(member, None)
            teacher = loading.load(spec, self._federated, self._seed, self._device, client, base)
            self._loaded[member, client] = teacher
        return self._loaded[member, client]

    def _check_classes(self, teacher: Teacher) -> None:
        classes = len(self._federated.train.classes)
        if teacher.num_logits != classes:
            raise SpecError(
                f"teacher.class_map: {teacher.name} has {teacher.num_logits} outputs, but the data has {classes} "
                "classes; map each class to outputs of the model."
            )

    def _images(self, query: TeacherQuery, rows: Indices) -> npt.NDArray[np.uint8]:
        images = self._federated.side(query.side).images
        if not query.augmented:
            return images[rows]
        return apply_views(torch.from_numpy(images[rows // VIEWS]), torch.from_numpy(rows % VIEWS)).numpy()

    def _fit_head(self, query: TeacherQuery, features: OutputArray) -> npt.NDArray[np.float32]:
        """Return [classes, d + 1], the bias in the last column."""
        spec, client = self._members[query.member], query.client
        assert isinstance(spec, Adapted)
        assert client is not None, "a linear probe belongs to a client"
        data = self._federated.train
        initial = self._load(query.member, None).head
        labels = data.labels[self._federated.shards[client]]
        head = adapted.probe(spec, features, labels, initial, len(data.classes), self._seed, client)
        return np.hstack([head.weight.numpy(), head.bias.numpy()[:, None]])

    def _flops_per_image(self, member: int, client: int | None) -> int:
        if (member, client) not in self._flops:
            self._flops[member, client] = self._load(member, client).flops(self._federated.train.images[0])
        return self._flops[member, client]

    def _provenance(self, teacher: str, query: TeacherQuery) -> Row:
        """The record of what produced the outputs."""
        return {
            "teacher": teacher,
            "data": self._federated.side(query.side).name,
            "device": torch.cuda.get_device_name(0) if self._device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            **{package: version(package) for package in ("fedray", "torch", "open_clip_torch", "timm")},
        }


def _outputs(teacher: Teacher, images: npt.NDArray[np.uint8]) -> ImageOutputs:
    """Compute a teacher's outputs. Raises SpecError where a batch does not fit into memory."""
    try:
        return teacher.outputs(images)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
            raise
        raise SpecError(
            f"teacher.batch_size is {teacher.batch_size}, and {teacher.name} runs out of memory; lower it."
        ) from error


def peak_bytes(device: torch.device) -> int:
    """Return the peak memory of this process: on its GPU, or resident where it has none; 0 where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
