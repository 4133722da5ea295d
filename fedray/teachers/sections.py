"""What a spec may say of its teachers. To add a kind: a section, in `AnyTeacher`, and its loader in `teachers.load`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from fedray.models.proxies import Proxy
from fedray.section import Section
from fedray.seeding import numpy_rng
from fedray.types import Precision

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
    """How clients come by a teacher's answers."""

    view: Literal["plain", "proxy"] = "plain"
    """What the teacher looks at: the plain image, or the same crop and flip that the proxy sees."""
    mode: Literal["cached", "online"] = "cached"
    """`bank`: each answer is computed once, stored, and served to every run that asks again.
    `online`: the teacher sits beside the proxy and answers each batch anew."""


class ImageTeacher(ServingOptions):
    """A teacher that looks at images, and so can be asked about any of them."""

    batch_size: int = Field(64, ge=1)
    precision: Precision = "float32"
    """bfloat16: answers to about two digits, in a quarter of the time on a processor with AMX. On one
    without instructions for it (AVX512-BF16, AMX) it takes many times longer."""
    fast_layers: bool = True
    """Use faster layers for the teacher, as `training.fast_layers` does for the proxy."""


class Supervised(ImageTeacher):
    """A stand-in for a foundation model: a network fitted once on the public split."""

    kind: Literal["supervised"] = "supervised"
    model: Proxy = Proxy()
    epochs: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=1)
    """Of its fitting, and of its answers."""
    lr: float = Field(0.05, gt=0)


class ZeroShot(ImageTeacher):
    """An open_clip model that classifies by comparing images with prompts."""

    kind: Literal["zero_shot"] = "zero_shot"
    model: str = "ViT-B-32"
    """open_clip's name, or `local-dir:PATH` of a folder in open_clip's format."""
    pretrained: str | None = "openai"
    """open_clip's tag, or the path of a checkpoint. With OpenAI's weights as a file, name the model
    `ViT-B-32-quickgelu`: only by the tag is it known what activation they were trained with."""
    prompts: Literal["single", "cifar18"] | Annotated[tuple[str, ...], Field(min_length=1)] = "single"
    """`single` is "a photo of a {}.", `cifar18` the templates OpenAI used for CIFAR; or a list of one's own."""
    classes: tuple[str, ...] | None = None
    """Names to put into the prompts; None takes the data set's."""

    @field_validator("prompts")
    @classmethod
    def _have_one_gap(cls, prompts: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for prompt in () if isinstance(prompts, str) else prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"must each have one {{}} for the class name, and '{prompt}' has not")
        return prompts

    def names(self, classes: tuple[str, ...]) -> tuple[str, ...]:
        """The names for the prompts: the spec's, or the data's as English has them, without underscores."""
        return self.classes or tuple(name.replace("_", " ") for name in classes)

    @property
    def templates(self) -> tuple[str, ...]:
        """The prompts themselves, each with one `{}`."""
        return (
            self.prompts
            if isinstance(self.prompts, tuple)
            else {"single": SINGLE_PROMPT, "cifar18": CIFAR18_PROMPTS}[self.prompts]
        )


class Classifier(ImageTeacher):
    """A timm model with the head it was trained with."""

    kind: Literal["classifier"] = "classifier"
    model: str
    """timm's name, such as `swin_base_patch4_window7_224`."""
    pretrained: str = "default"
    """timm's tag (`default` is timm's own choice), or the path of a checkpoint (safetensors or torch's own)."""
    class_map: dict[str, tuple[int, ...]] | None = None
    """For each class of the data, which of the model's outputs mean it: their probabilities add up.
    None where the model has the data's classes."""

    def __hash__(self) -> int:  # a space tells its experiments apart by hash, and `class_map` has none
        return hash((self.kind, self.model, self.pretrained))


def _unserved(teacher: Any) -> Any:
    if (teacher.view, teacher.mode) != ("plain", "cached"):
        raise ValueError("must leave view and mode to the section around it")
    return teacher


MemberSection = AfterValidator(_unserved)

AnyImageTeacher = Annotated[Supervised | ZeroShot | Classifier, Field(discriminator="kind")]


class Adapted(ServingOptions):
    """A network fitted further on each client's own examples before round 1: the paper's fine-tuned teacher."""

    kind: Literal["adapted"] = "adapted"
    backbone: Annotated[AnyImageTeacher, MemberSection]
    method: Literal["linear_probe", "fine_tune"] = "linear_probe"
    """`linear_probe` fits a linear head on frozen features, `fine_tune` the head and the image tower."""
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(32, ge=1)
    lr: float = Field(0.01, gt=0, le=1000)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class Precomputed(Section):
    """Answers from a parquet: `path` or `index` (the row in the source), and `logits`, `features` or both."""

    kind: Literal["precomputed"] = "precomputed"
    file: Path
    view: Literal["plain", "proxy"] = "plain"
    mode: Literal["cached", "online"] = "cached"

    @field_validator("view", "mode")
    @classmethod
    def _are_left(cls, value: str) -> str:
        if value in ("proxy", "online"):
            raise ValueError("precomputed answers are for plain images and cannot be asked online; leave it out")
        return value


AnyMember = Annotated[Supervised | ZeroShot | Classifier | Adapted | Precomputed, Field(discriminator="kind")]


class Ensemble(ServingOptions):
    """Several teachers: one for each client, or an ensemble for each."""

    kind: Literal["ensemble"] = "ensemble"
    teachers: tuple[Annotated[AnyMember, MemberSection], ...] = Field(min_length=2)
    assignment: Literal["all", "consistent", "random"] | tuple[int | tuple[int, ...], ...] = "all"
    """`all`: every client learns from all of them. `consistent`: every client from the first.
    `random`: each client from one, drawn once. A list: for each client, which one or ones (0, 1, ...)."""
    combine: Literal["mean_logits", "mean_probabilities", "weighted", "best"] = "mean_logits"
    """How the answers of a client's teachers become one. `weighted` is the mean of logits weighed by
    accuracy on the client's own examples, `best` is the teacher that is most often right on them."""

    @model_validator(mode="after")
    def _tables_know_plain_images_only(self) -> "Ensemble":
        if (self.view, self.mode) != ("plain", "cached") and any(isinstance(t, Precomputed) for t in self.teachers):
            raise ValueError("precomputed answers are for plain images: leave its view 'plain' and its mode 'cached'")
        return self

    @field_validator("assignment")
    @classmethod
    def _names_teachers(cls, assignment: Any, info: ValidationInfo) -> Any:
        count = len(info.data.get("teachers", ()))
        chosen = [] if isinstance(assignment, str) else [_as_tuple(entry) for entry in assignment]
        for entry in chosen:
            if not entry or len(set(entry)) < len(entry) or not all(0 <= place < count for place in entry):
                raise ValueError(f"must name for each client one or more of the teachers 0 to {count - 1}, each once")
        return assignment

    @property
    def combines(self) -> bool:
        """Whether some client has more than one teacher."""
        if isinstance(self.assignment, str):
            return self.assignment == "all"
        return any(len(_as_tuple(entry)) > 1 for entry in self.assignment)

    def members_of(self, client: int, seed: int) -> tuple[int, ...]:
        """Which of the teachers a client has, as rising places in `teachers`."""
        if self.assignment == "all":
            return tuple(range(len(self.teachers)))
        if self.assignment == "consistent":
            return (0,)
        if self.assignment == "random":
            return (int(numpy_rng(seed, "teacher assignment", client).integers(len(self.teachers))),)
        return tuple(sorted(_as_tuple(self.assignment[client])))


AnyTeacher = Annotated[
    Supervised | ZeroShot | Classifier | Adapted | Precomputed | Ensemble, Field(discriminator="kind")
]


def members(teacher: Any) -> tuple[Any, ...]:
    """The single teachers that a section stands for."""
    return teacher.teachers if isinstance(teacher, Ensemble) else (teacher,)


def members_of(teacher: Any, client: int, seed: int) -> tuple[int, ...]:
    """Which of `members(teacher)` a client learns from."""
    return teacher.members_of(client, seed) if isinstance(teacher, Ensemble) else (0,)


def _as_tuple(entry: int | Sequence[int]) -> tuple[int, ...]:
    return (entry,) if isinstance(entry, int) else tuple(entry)
