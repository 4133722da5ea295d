"""Checks that need the data's classes and no model, made before a teacher is loaded."""

from collections.abc import Mapping, Sequence

from fedray.data.dataset import Dataset
from fedray.errors import SpecError, nearest
from fedray.teachers.sections import AnyTeacher, Classifier, ZeroShot, members, network_of


def check_classes(teacher: AnyTeacher | None, data: Dataset) -> None:
    """Raises SpecError where a teacher's class names or its class map do not fit the classes of the data."""
    for member in members(teacher):
        match network_of(member):
            case ZeroShot() as network:
                _check_prompts(network, data)
            case Classifier(class_map=dict(mapping)):
                check_class_map(mapping, data.classes)


def check_class_map(mapping: Mapping[str, Sequence[int]], classes: Sequence[str], outputs: int | None = None) -> None:
    """Raises SpecError unless a map has valid outputs for each class and no others. `outputs`: those of the model."""
    for name in mapping:
        if name not in classes:
            raise SpecError(f"teacher.class_map: the data has no class '{name}'{nearest(name, classes)}")
    for name in classes:
        group = mapping.get(name, ())
        if not group or min(group) < 0 or (outputs is not None and max(group) >= outputs):
            known = "" if outputs is None else f" 0 to {outputs - 1}"
            raise SpecError(
                f"teacher.class_map: '{name}' needs one or more of the model's outputs{known}, it has {list(group)}."
            )


def _check_prompts(network: ZeroShot, data: Dataset) -> None:
    if network.classes is None and not data.named:
        raise SpecError(
            f"teacher.classes: the labels of {data.name} have no names, so that prompts would read "
            f"'{network.templates[0].format(data.classes[0])}'; list the {len(data.classes)} class names."
        )
    names = network.names(data.classes)
    if len(names) != len(data.classes):
        raise SpecError(f"teacher.classes names {len(names)} classes, but the data has {len(data.classes)}.")
