"""What a teacher's answers depend on, as JSON: the address of their entry in the bank.

Weights that a spec names by a file or folder count by their bytes; those that it names by a
library's tag count by that name. Where and when answers were computed is recorded, but not part of it.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

from fedray.config.experiment import Experiment
from fedray.data.dataset import digest
from fedray.data.federated import FederatedDataset
from fedray.files import file_digest, strip_scheme
from fedray.teachers.sections import Adapted, AnyMember, Classifier, Supervised, ZeroShot, members
from fedray.types import Row, TeacherQuery


def cache_content(question: TeacherQuery, experiment: Experiment, federated: FederatedDataset) -> Row:
    """Everything that could change the answer to a question about one of the federation's data sets."""
    member = members(experiment.teacher)[question.member]
    data = federated.side(question.side)
    if isinstance(member, Adapted) and question.client is None:
        member = member.backbone
    own = _own(question.client, experiment, federated) if question.client is not None else {}
    return {
        "output_kind": question.output_kind,
        "images": data.image_digest,
        "views": "crop 4 and flip" if question.augmented else "plain",
        "teacher": _described(member, question.output_kind, experiment, federated) | own,
    }


def _described(member: AnyMember, output_kind: str, experiment: Experiment, federated: FederatedDataset) -> Row:
    said = member.model_dump(mode="json", exclude={"view", "mode"})
    match member:
        case ZeroShot() if output_kind == "features":  # what prompts say changes no image's features
            return {k: v for k, v in said.items() if k not in ("prompts", "classes")} | _open_clip(member)
        case ZeroShot():
            names = list(member.names(federated.train.classes))
            return said | {"prompts": list(member.templates), "classes": names} | _open_clip(member)
        case Classifier():
            return said | {"pretrained": _weights(member.pretrained), "classes": list(federated.train.classes)}
        case Supervised():
            model = said["model"] | {"init": _weights(member.model.init)}
            return said | {"model": model, "public": _public(federated)} | _fitted(experiment)
        case Adapted():
            return said | {"backbone": _described(member.backbone, "logits", experiment, federated)}
    raise TypeError(f"{member.kind} needs no bank")


def _own(client: int, experiment: Experiment, federated: FederatedDataset) -> Row:
    examples = federated.shards[client]
    own = federated.train.take(examples)
    return {"client": client, "examples": digest(examples, own.images, own.labels)} | _fitted(experiment)


def _fitted(experiment: Experiment) -> Row:
    """What decides the weights of a network that is fitted here."""
    return {
        "seed": experiment.seed,
        "threads": experiment.resources.threads,
        "torch": version("torch"),
        "fedray": version("fedray"),
    }


def _public(federated: FederatedDataset) -> str:
    public = federated.train.take(federated.public)
    return digest(federated.public, public.images, public.labels, federated.mean, federated.std)


def _open_clip(spec: ZeroShot) -> Row:
    """The architecture behind the name, and the weights where they are files."""
    if spec.model.startswith("local-dir:"):
        return {"model": _weights(spec.model)}
    found = importlib.util.find_spec("open_clip")
    configs = Path(found.origin).parent / "model_configs" if found and found.origin else Path()
    architecture = configs / f"{spec.model.replace('/', '-')}.json"
    return {"architecture": file_digest(architecture), "pretrained": _weights(spec.pretrained)}


def _weights(named: str | None) -> str | None:
    """What a spec says of weights; of a file or folder not where it is but its bytes."""
    return named and (file_digest(strip_scheme(named)) or named)
