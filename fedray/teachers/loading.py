"""Loads the teacher that a section of the spec describes."""

import torch

from fedray.data.federated import FederatedDataset
from fedray.teachers.sections import Adapted, AnyMember, Classifier, Supervised, TeacherSection, ZeroShot
from fedray.teachers.teacher import Teacher


def load(
    member: AnyMember,
    federated: FederatedDataset,
    seed: int,
    device: torch.device,
    client: int | None = None,
    base: Teacher | None = None,
) -> Teacher:
    """Load a teacher. An adapted one is fitted for its client, starting from `base` if that is loaded already.

    Raises SpecError where it cannot be loaded. Each kind's module is imported here, since its library may take
    seconds to import.
    """
    classes = federated.train.classes
    match member:
        case ZeroShot():
            from fedray.teachers import zero_shot

            return zero_shot.load(member, classes, device)
        case Classifier():
            from fedray.teachers import classifier

            return classifier.load(member, classes, device)
        case Supervised():
            from fedray.teachers import supervised

            return supervised.load(member, federated, seed, device)
        case Adapted():
            from fedray.teachers import adapted

            assert client is not None, "an adapted teacher belongs to a client"
            base, examples = base or load(member.backbone, federated, seed, device), federated.shards[client]
            return adapted.adapt(member, base, federated.train.take(examples), examples, seed, client)
        case TeacherSection():
            return member.load(federated, seed, device)
        case _:
            raise TypeError(f"a {member.kind} teacher is read from a table, not loaded")
