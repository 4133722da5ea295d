"""What a spec may say of teachers, and which of them a client has."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fedray.teachers.sections import AnyTeacher, Ensemble, Supervised, ZeroShot, members, members_of

STAND_IN, CLIP, TABLE = (
    {"kind": "supervised"},
    {"kind": "zero_shot"},
    {"kind": "precomputed", "file": "answers.parquet"},
)

OPENAIS_FOR_CIFAR = """
    a photo of a {}.
    a blurry photo of a {}.
    a black and white photo of a {}.
    a low contrast photo of a {}.
    a high contrast photo of a {}.
    a bad photo of a {}.
    a good photo of a {}.
    a photo of a small {}.
    a photo of a big {}.
    a photo of the {}.
    a blurry photo of the {}.
    a black and white photo of the {}.
    a low contrast photo of the {}.
    a high contrast photo of the {}.
    a bad photo of the {}.
    a good photo of the {}.
    a photo of the small {}.
    a photo of the big {}.
"""


def read(spec: dict[str, Any]) -> Any:
    return TypeAdapter(AnyTeacher).validate_python(spec)


def messages_of(**spec: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        read(spec)
    return "\n".join(error["msg"] for error in caught.value.errors())


def several(*teachers: dict[str, Any], **spec: Any) -> Ensemble:
    found = read({"kind": "ensemble", "teachers": teachers or (STAND_IN, CLIP)} | spec)
    assert isinstance(found, Ensemble)
    return found


class TestPrompts:
    def test_openais_for_cifar(self) -> None:
        prompts = ZeroShot(prompts="cifar18").templates
        assert list(prompts) == [line.strip() for line in OPENAIS_FOR_CIFAR.strip().splitlines()]
        assert len(set(prompts)) == 18

    def test_single(self) -> None:
        assert ZeroShot().templates == ("a photo of a {}.",)

    def test_ones_own(self) -> None:
        assert ZeroShot(prompts=("{} at night", "one {}")).templates == ("{} at night", "one {}")

    @pytest.mark.parametrize("prompt", ["a photo", "a {} beside a {}", "a {name}"])
    def test_without_one_gap(self, prompt: str) -> None:
        message = messages_of(kind="zero_shot", prompts=["one {}", prompt])
        assert message.endswith(f"must each have one {{}} for the class name; '{prompt}' has {prompt.count('{}')}")

    def test_none_at_all(self) -> None:
        assert "at least 1 item" in messages_of(kind="zero_shot", prompts=[])


class TestAssignment:
    def test_all(self) -> None:
        teacher = several(STAND_IN, CLIP, TABLE)
        assert [teacher.members_of(client, seed=0) for client in range(3)] == [(0, 1, 2)] * 3
        assert teacher.combines

    def test_consistent(self) -> None:
        teacher = several(assignment="consistent")
        assert [teacher.members_of(client, seed=0) for client in range(3)] == [(0,)] * 3
        assert not teacher.combines

    def test_random_is_drawn_for_seed_and_client(self) -> None:
        teacher = several(assignment="random")
        drawn = [teacher.members_of(client, seed=0) for client in range(200)]
        assert drawn == [teacher.members_of(client, seed=0) for client in range(200)]
        assert drawn != [teacher.members_of(client, seed=1) for client in range(200)]
        assert set(drawn) == {(0,), (1,)}
        assert 70 < drawn.count((0,)) < 130  # 200 fair coins stray so far once in 45000 times
        assert not teacher.combines

    def test_by_hand(self) -> None:
        """In whatever order they are named, the first of the spec comes first."""
        teacher = several(STAND_IN, CLIP, TABLE, assignment=[2, [1], [2, 0]])
        assert [teacher.members_of(client, seed=0) for client in range(3)] == [(2,), (1,), (0, 2)]
        assert teacher.combines

    def test_by_hand_with_one_each(self) -> None:
        assert not several(assignment=[1, [0], 1]).combines

    @pytest.mark.parametrize("entry", [2, -1, [0, 2], [], [1, 1]])
    def test_that_names_no_teacher_or_one_twice(self, entry: Any) -> None:
        message = messages_of(kind="ensemble", teachers=[STAND_IN, CLIP], assignment=[0, entry])
        assert message.endswith("must name for each client one or more of the teachers 0 to 1, each once")

    def test_of_a_single_teacher(self) -> None:
        assert members(Supervised()) == (Supervised(),)
        assert members_of(Supervised(), client=7, seed=0) == (0,)

    def test_of_several(self) -> None:
        teacher = several(assignment="consistent")
        assert members(teacher) == (Supervised(), ZeroShot())
        assert members_of(teacher, client=7, seed=0) == (0,)


class TestServing:
    """`view` and `mode` are said once: by the outermost section."""

    INNER = "must not set view and mode; set them in the enclosing section"

    @pytest.mark.parametrize("served", [{"view": "proxy"}, {"mode": "online"}])
    def test_of_a_member(self, served: dict[str, str]) -> None:
        assert self.INNER in messages_of(kind="ensemble", teachers=[STAND_IN, CLIP | served])
        adapted = {"kind": "adapted", "backbone": STAND_IN} | served
        assert self.INNER in messages_of(kind="ensemble", teachers=[adapted, CLIP])

    @pytest.mark.parametrize("served", [{"view": "proxy"}, {"mode": "online"}])
    def test_of_an_adapted_teachers_backbone(self, served: dict[str, str]) -> None:
        assert self.INNER in messages_of(kind="adapted", backbone=CLIP | served)

    @pytest.mark.parametrize("served", [{"view": "proxy"}, {"mode": "online"}])
    def test_precomputed_answers_are_for_plain_images(self, served: dict[str, str]) -> None:
        assert "precomputed outputs exist for plain images only" in messages_of(**TABLE, **served)
        message = messages_of(kind="ensemble", teachers=[CLIP, TABLE], **served)
        assert message.endswith("precomputed outputs exist for plain images only: leave view 'plain' and mode 'cached'")

    def test_by_the_section_around_them(self) -> None:
        teacher = several(STAND_IN, {"kind": "adapted", "backbone": CLIP}, view="proxy", mode="online")
        assert (teacher.view, teacher.mode) == ("proxy", "online")
        assert read({"kind": "adapted", "backbone": CLIP, "view": "proxy"}).view == "proxy"


def test_one_teacher_is_not_several() -> None:
    assert "at least 2 items" in messages_of(kind="ensemble", teachers=[CLIP])


def test_several_are_not_nested_and_not_adapted() -> None:
    inner = {"kind": "ensemble", "teachers": [STAND_IN, CLIP]}
    assert "does not match any of the expected tags" in messages_of(kind="ensemble", teachers=[inner, CLIP])
    assert "does not match any of the expected tags" in messages_of(kind="adapted", backbone=inner)
    assert "does not match any of the expected tags" in messages_of(kind="adapted", backbone=TABLE)


def test_every_section_comes_back_as_it_was_written_out() -> None:
    classifier = {"kind": "classifier", "model": "resnet18", "class_map": {"cat": [1, 2], "dog": [3]}}
    for teacher in (
        several(STAND_IN, CLIP, TABLE, assignment=[2, [1], [2, 0]]),
        read(classifier),
        read({"kind": "adapted", "backbone": classifier, "method": "fine_tune"}),
        read(CLIP | {"prompts": ["one {}"], "classes": ["cat", "dog"]}),
    ):
        assert read(teacher.model_dump(mode="json")) == teacher
