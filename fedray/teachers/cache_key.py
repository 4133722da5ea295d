"""Everything that a teacher's outputs depend on, as JSON: the teacher cache finds an entry by its hash.

Weights that a spec names by a file or folder count by their bytes; weights named by a library's tag count by
that name. Where and when outputs were computed is recorded in the entry, but is not part of the key.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

from fedray.code_hash import FITTING_CODE, NoSourceError, code_hash
from fedray.data.dataset import digest
from fedray.data.federated import FederatedDataset
from fedray.errors import SpecError
from fedray.files import file_digest, strip_scheme
from fedray.teachers.sections import (
    Adapted,
    AnyMember,
    AnyTeacher,
    Classifier,
    Supervised,
    TeacherSection,
    ZeroShot,
    members,
)
from fedray.types import Row, TeacherQuery
from fedray.user_code import user_objects


def cache_content(
    query: TeacherQuery, teacher: AnyTeacher | None, federated: FederatedDataset, *, seed: int, threads: int
) -> Row:
    """Return everything that can change the outputs of a query.

    `seed`, `threads` and the code that fits count for teachers that fedray fits itself.
    """
    member = members(teacher)[query.member]
    fitting = {"seed": seed, "threads": threads, "torch": version("torch"), "code": _code_of(member)}
    client: Row = {}
    if query.client is not None:
        client = _client_content(query.client, federated) | fitting
    elif isinstance(member, Adapted):
        member = member.backbone
    return {
        "output_kind": query.output_kind,
        "images": federated.side(query.side).image_digest,
        "views": "crop 4 and flip" if query.augmented else "plain",
        "teacher": _member_content(member, query.output_kind, federated, fitting) | client,
    }


def _member_content(member: AnyMember, output_kind: str, federated: FederatedDataset, fitting: Row) -> Row:
    section = member.model_dump(mode="json", exclude={"view", "mode"})
    match member:
        case ZeroShot() if output_kind == "features":  # prompts and class names affect logits only
            return {k: v for k, v in section.items() if k not in ("prompts", "classes")} | _open_clip_content(member)
        case ZeroShot():
            names = list(member.names(federated.train.classes))
            return section | {"prompts": list(member.templates), "classes": names} | _open_clip_content(member)
        case Classifier():
            return section | {"pretrained": _weights(member.pretrained), "classes": list(federated.train.classes)}
        case Supervised():
            model = section["model"] | {"init": _weights(member.model.init)}
            return section | {"model": model, "public": _public_digest(federated)} | fitting
        case Adapted():
            return section | {"backbone": _member_content(member.backbone, "logits", federated, fitting)}
        case TeacherSection():
            data = digest(federated.train.images, federated.train.labels, *federated.shards)
            classes = list(federated.train.classes)
            return section | {"data": data, "public": _public_digest(federated), "classes": classes} | fitting
    raise TypeError(f"outputs of a {member.kind} teacher are not cached")


def _code_of(member: AnyMember) -> str:
    """The hash of the code that fits a teacher. Raises SpecError for code outside the package without a source."""
    try:
        return code_hash(FITTING_CODE, user_objects(member))
    except NoSourceError as error:
        raise SpecError(f"teacher: {error}, so its outputs cannot be cached; set teacher.mode: online") from None


def _client_content(client: int, federated: FederatedDataset) -> Row:
    """The client's examples, which its teacher is adapted to."""
    examples = federated.shards[client]
    data = federated.train.take(examples)
    return {"client": client, "examples": digest(examples, data.images, data.labels)}


def _public_digest(federated: FederatedDataset) -> str:
    public = federated.train.take(federated.public)
    return digest(federated.public, public.images, public.labels, federated.mean, federated.std)


def _open_clip_content(spec: ZeroShot) -> Row:
    """The architecture behind the model's name, and the weights where they are files."""
    if spec.model.startswith("local-dir:"):
        return {"model": _weights(spec.model)}
    package = importlib.util.find_spec("open_clip")
    configs = Path(package.origin).parent / "model_configs" if package and package.origin else Path()
    architecture = configs / f"{spec.model.replace('/', '-')}.json"
    return {"architecture": file_digest(architecture), "pretrained": _weights(spec.pretrained)}


def _weights(name: str | None) -> str | None:
    """The digest of the bytes where the name is a file or folder; the name itself where it is a tag."""
    return name and (file_digest(strip_scheme(name)) or name)
