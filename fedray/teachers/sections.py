"""The `teacher` sections of a spec.

To add a kind: a section in `NETWORKS`, or in `MEMBERS` if it is not one network, and a case in
`teachers.loading.load`. A teacher outside the package is a subclass of `TeacherSection`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from fedray.models.proxies import AnyProxy, Proxy
from fedray.registry import Registry
from fedray.section import Section
from fedray.seeding import numpy_rng
from fedray.types import Precision

if TYPE_CHECKING:
    import torch

    from fedray.data.federated import FederatedDataset
    from fedray.teachers.teacher import Teacher

SINGLE_PROMPT = ("a photo of a {}.",)
CIFAR18_PROMPTS = tuple(
    f"a {kind} of {article} {{}}." if size is None else f"a photo of {article} {size} {{}}."
    for article in ("a", "the")
    for kind, size in (
        ("photo", None), ("blurry photo", None), ("black and white photo", None), ("low contrast photo", None),
        ("high contrast photo", None), ("bad photo", None), ("good photo", None), ("photo", "small"), ("photo", "big"),
    )
)  # fmt: skip
"""The prompts that OpenAI used for CIFAR-10 and CIFAR-100 (openai/CLIP, data/prompts.md)."""


class ServingOptions(Section):
    """How a teacher's outputs reach the clients."""

    view: Literal["plain", "proxy"] = "plain"
    """The teacher's input: the plain image, or the crop and flip of it that the proxy gets."""
    mode: Literal["cached", "online"] = "cached"
    """`cached`: outputs are computed once, stored, and read by every later run.
    `online`: the teacher runs in the client's process, on every batch."""


class ImageTeacher(ServingOptions):
    """A teacher that is a network, and so has outputs for any image."""

    batch_size: int = Field(64, ge=1)
    """Images per forward pass of the teacher."""
    precision: Precision = "float32"
    """bfloat16: outputs with about two significant digits, in a quarter of the time on a processor with AMX.
    A processor without bfloat16 instructions (AVX512-BF16, AMX) takes many times longer."""
    fast_layers: bool = True
    """Use faster layers for the teacher, as `training.fast_layers` does for the proxy."""


class TeacherSection(ImageTeacher):
    """A network from outside the package; a subclass defines its fields and `load`."""

    kind: str = ""

    @abstractmethod
    def load(self, data: "FederatedDataset", seed: int, device: "torch.device") -> "Teacher":
        """Return the frozen teacher on a device. Its outputs depend on the arguments and on the section alone."""


class Supervised(ImageTeacher):
    """A stand-in for a foundation model: a network that is fitted once, on the public split."""

    kind: Literal["supervised"] = "supervised"
    model: AnyProxy = Proxy()
    """The network to fit, as in the `proxy` section."""
    epochs: int = Field(30, ge=1)
    """Epochs over the public split."""
    batch_size: int = Field(32, ge=1)
    """Images per step of its fitting, and per forward pass."""
    lr: float = Field(0.05, gt=0)
    """Learning rate of its fitting."""


class ZeroShot(ImageTeacher):
    """An open_clip model: logits are the similarities of an image to prompts."""

    kind: Literal["zero_shot"] = "zero_shot"
    model: str = "ViT-B-32"
    """open_clip's model name, or `local-dir:PATH` of a folder in open_clip's format."""
    pretrained: str | None = "openai"
    """open_clip's tag, or the path of a checkpoint. For a file with OpenAI's weights set the model to
    `ViT-B-32-quickgelu`: the activation that they were trained with is known only from the tag."""
    prompts: Literal["single", "cifar18"] | Annotated[tuple[str, ...], Field(min_length=1)] = "single"
    """`single` is "a photo of a {}.", `cifar18` the 18 templates that OpenAI used for CIFAR; or your own list."""
    classes: tuple[str, ...] | None = None
    """Class names to put into the prompts; null for the data set's names."""

    @field_validator("prompts")
    @classmethod
    def _check_placeholders(cls, prompts: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for prompt in () if isinstance(prompts, str) else prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"must each have one {{}} for the class name; '{prompt}' has {prompt.count('{}')}")
        return prompts

    def names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """Return the class names for the prompts: the spec's, or the data's with spaces for underscores."""
        return self.classes or tuple(name.replace("_", " ") for name in classes)

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates, each with one `{}`."""
        return (
            self.prompts
            if isinstance(self.prompts, tuple)
            else {"single": SINGLE_PROMPT, "cifar18": CIFAR18_PROMPTS}[self.prompts]
        )


class Classifier(ImageTeacher):
    """A timm model with its pretrained head."""

    kind: Literal["classifier"] = "classifier"
    model: str
    """timm's model name, such as `swin_base_patch4_window7_224`."""
    pretrained: str = "default"
    """timm's tag (`default` for timm's default tag), or the path of a checkpoint (safetensors or PyTorch)."""
    class_map: dict[str, tuple[int, ...]] | None = None
    """For each class of the data, the indices of the model's outputs whose probabilities are summed.
    null where the model's outputs are the data's classes."""

    def __hash__(self) -> int:  # a search space hashes its experiments, and a dict such as `class_map` is not hashable
        return hash((self.kind, self.model, self.pretrained))


def _check_options_are_default(teacher: "AnyMember") -> "AnyMember":
    if (teacher.view, teacher.mode) != ("plain", "cached"):
        raise ValueError("must not set view and mode; set them in the enclosing section")
    return teacher


MemberSection = AfterValidator(_check_options_are_default)

Network: TypeAlias = Supervised | ZeroShot | Classifier | TeacherSection
NETWORKS: Registry[Network] = Registry(
    TeacherSection, "fedray.teachers", (Supervised, ZeroShot, Classifier), chooser="kind"
)


class Adapted(ServingOptions):
    """A network that is fitted further on each client's own examples before round 1, as in the Fed-LPFM paper."""

    kind: Literal["adapted"] = "adapted"
    backbone: Annotated[Network, NETWORKS, MemberSection]
    """The teacher to start from."""
    method: Literal["linear_probe", "fine_tune"] = "linear_probe"
    """`linear_probe` fits a linear head on frozen features, `fine_tune` the head and the image encoder."""
    epochs: int = Field(10, ge=1)
    """Epochs over the client's examples."""
    batch_size: int = Field(32, ge=1)
    """Examples per step of the fitting."""
    lr: float = Field(0.01, gt=0, le=1000)
    """Learning rate of the fitting."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the fitting."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty of the fitting."""


class Precomputed(Section):
    """Outputs from a parquet file with `path` or `index` (the row in the source), and `logits`, `features` or both."""

    kind: Literal["precomputed"] = "precomputed"
    file: Path
    """The parquet file."""
    view: Literal["plain", "proxy"] = "plain"
    """Always `plain`: the file has outputs for plain images only."""
    mode: Literal["cached", "online"] = "cached"
    """Always `cached`: there is no network to run."""

    @field_validator("view", "mode")
    @classmethod
    def _check_default(cls, value: str) -> str:
        if value in ("proxy", "online"):
            raise ValueError(
                "precomputed outputs exist for plain images only and cannot be computed online; leave it out"
            )
        return value


Member: TypeAlias = Network | Adapted | Precomputed
MEMBERS: Registry[Member] = Registry(
    TeacherSection, "fedray.teachers", (*NETWORKS.values(), Adapted, Precomputed), chooser="kind"
)
AnyMember = Annotated[Member, MEMBERS]


TeacherAssignment: TypeAlias = Literal["all", "consistent", "random"] | tuple[int | tuple[int, ...], ...]
"""Which teachers a client has: by a rule, or for each client the indices of its teachers."""


class Ensemble(ServingOptions):
    """Several teachers: each client has one of them, or combines several."""

    kind: Literal["ensemble"] = "ensemble"
    teachers: tuple[Annotated[AnyMember, MemberSection], ...] = Field(min_length=2)
    """The sections of the teachers; `view` and `mode` are set here, for all of them."""
    assignment: TeacherAssignment = "all"
    """`all`: every client has all teachers. `consistent`: every client has the first. `random`: each client
    has one, drawn once. A list: for each client, the index or indices of its teachers (0, 1, ...)."""
    combine: Literal["mean_logits", "mean_probabilities", "weighted", "best"] = "mean_logits"
    """How the logits of a client's teachers are combined. `weighted`: mean of logits, weighted by accuracy
    on the client's own examples. `best`: the teacher with the highest accuracy on them."""

    @model_validator(mode="after")
    def _check_precomputed_members(self) -> "Ensemble":
        if (self.view, self.mode) != ("plain", "cached") and any(isinstance(t, Precomputed) for t in self.teachers):
            raise ValueError("precomputed outputs exist for plain images only: leave view 'plain' and mode 'cached'")
        return self

    @field_validator("assignment")
    @classmethod
    def _check_assignment(cls, assignment: TeacherAssignment, info: ValidationInfo) -> TeacherAssignment:
        count = len(info.data.get("teachers", ()))
        entries = [] if isinstance(assignment, str) else [_as_tuple(entry) for entry in assignment]
        for entry in entries:
            if not entry or len(set(entry)) < len(entry) or not all(0 <= index < count for index in entry):
                raise ValueError(f"must name for each client one or more of the teachers 0 to {count - 1}, each once")
        return assignment

    @property
    def combines(self) -> bool:
        """Whether any client has more than one teacher."""
        if isinstance(self.assignment, str):
            return self.assignment == "all"
        return any(len(_as_tuple(entry)) > 1 for entry in self.assignment)

    def members_of(self, client: int, seed: int) -> tuple[int, ...]:
        """Return the indices of a client's teachers, ascending."""
        if self.assignment == "all":
            return tuple(range(len(self.teachers)))
        if self.assignment == "consistent":
            return (0,)
        if self.assignment == "random":
            return (int(numpy_rng(seed, "teacher assignment", client).integers(len(self.teachers))),)
        return tuple(sorted(_as_tuple(self.assignment[client])))


TEACHERS: Registry[Member | Ensemble] = Registry(
    TeacherSection, "fedray.teachers", (*MEMBERS.values(), Ensemble), chooser="kind"
)
"""The built-in teachers by kind, and those of other packages."""

AnyTeacher = Annotated[Member | Ensemble, TEACHERS]


def members(teacher: AnyTeacher | None) -> tuple[AnyMember, ...]:
    """Return the single teachers of a section: an ensemble's, or the teacher itself."""
    if teacher is None:
        return ()
    return teacher.teachers if isinstance(teacher, Ensemble) else (teacher,)


def members_of(teacher: AnyTeacher | None, client: int, seed: int) -> tuple[int, ...]:
    """Return the indices into `members(teacher)` of a client's teachers."""
    return teacher.members_of(client, seed) if isinstance(teacher, Ensemble) else (0,)


def network_of(member: AnyMember) -> Network | Precomputed:
    """Return the backbone of an adapted teacher; any other teacher itself."""
    return member.backbone if isinstance(member, Adapted) else member


def _as_tuple(entry: int | Sequence[int]) -> tuple[int, ...]:
    return (entry,) if isinstance(entry, int) else tuple(entry)
