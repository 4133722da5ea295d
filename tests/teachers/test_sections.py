"""The teacher sections of a spec, and the assignment of teachers to clients."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from fedray.teachers.sections import AnyTeacher, Ensemble, Supervised, ZeroShot, members, members_of

STAND_IN, CLIP, TABLE = (
    {"kind": "supervised"},
    {"kind": "zero_shot"},
    {"kind": "precomputed", "file": "outputs.parquet"},
)

OPENAI_CIFAR_PROMPTS = """
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


def ensemble(*teachers: dict[str, Any], **spec: Any) -> Ensemble:
    section = read({"kind": "ensemble", "teachers": teachers or (STAND_IN, CLIP)} | spec)
    assert isinstance(section, Ensemble)
    return section


class TestPrompts:
    def test_cifar18_equals_openais_templates(self) -> None:
        prompts = ZeroShot(prompts="cifar18").templates
        assert list(prompts) == [line.strip() for line in OPENAI_CIFAR_PROMPTS.strip().splitlines()]
        assert len(set(prompts)) == 18

    def test_single_is_one_template(self) -> None:
        assert ZeroShot().templates == ("a photo of a {}.",)

    def test_a_list_of_templates(self) -> None:
        assert ZeroShot(prompts=("{} at night", "one {}")).templates == ("{} at night", "one {}")

    @pytest.mark.parametrize("prompt", ["a photo", "a {} and a {}", "a {name}"])
    def test_templates_need_exactly_one_placeholder(self, prompt: str) -> None:
        message = messages_of(kind="zero_shot", prompts=["one {}", prompt])
        assert message.endswith(f"must each have one {{}} for the class name; '{prompt}' has {prompt.count('{}')}")

    def test_an_empty_list_is_refused(self) -> None:
        assert "at least 1 item" in messages_of(kind="zero_shot", prompts=[])


class TestAssignment:
    def test_all(self) -> None:
        teacher = ensemble(STAND_IN, CLIP, TABLE)
        assert [teacher.members_of(client, seed=0) for client in range(3)] == [(0, 1, 2)] * 3
        assert teacher.combines

    def test_consistent(self) -> None:
        teacher = ensemble(assignment="consistent")
        assert [teacher.members_of(client, seed=0) for client in range(3)] == [(0,)] * 3
        assert not teacher.combines

    def test_random_is_drawn_for_seed_and_client(self) -> None:
        teacher = ensemble(assignment="random")
        drawn = [teacher.members_of(client, seed=0) for client in range(200)]
        assert drawn == [teacher.members_of(client, seed=0) for client in range(200)]
        assert drawn != [teacher.members_of(client, seed=1) for client in range(200)]
        assert set(drawn) == {(0,), (1,)}
        assert 70 < drawn.count((0,)) < 130  # 200 fair coins are outside once in 45,000 times
        assert not teacher.combines

    def test_a_list_is_sorted_by_the_teachers_order(self) -> None:
        teacher = ensemble(STAND_IN, CLIP, TABLE, assignment=[2, [1], [2, 0]])
        assert [teacher.members_of(client, seed=0) for client in range(3)] == [(2,), (1,), (0, 2)]
        assert teacher.combines

    def test_a_list_with_one_teacher_each(self) -> None:
        assert not ensemble(assignment=[1, [0], 1]).combines

    @pytest.mark.parametrize("entry", [2, -1, [0, 2], [], [1, 1]])
    def test_an_invalid_entry_is_refused(self, entry: Any) -> None:
        message = messages_of(kind="ensemble", teachers=[STAND_IN, CLIP], assignment=[0, entry])
        assert message.endswith("must name for each client one or more of the teachers 0 to 1, each once")

    def test_members_of_a_single_teacher(self) -> None:
        assert members(Supervised()) == (Supervised(),)
        assert members_of(Supervised(), client=7, seed=0) == (0,)

    def test_members_of_an_ensemble(self) -> None:
        teacher = ensemble(assignment="consistent")
        assert members(teacher) == (Supervised(), ZeroShot())
        assert members_of(teacher, client=7, seed=0) == (0,)


class TestServingOptions:
    """`view` and `mode` are set once, in the outermost section."""

    REFUSED = "must not set view and mode; set them in the enclosing section"

    @pytest.mark.parametrize("options", [{"view": "proxy"}, {"mode": "online"}])
    def test_in_a_member_are_refused(self, options: dict[str, str]) -> None:
        assert self.REFUSED in messages_of(kind="ensemble", teachers=[STAND_IN, CLIP | options])
        adapted = {"kind": "adapted", "backbone": STAND_IN} | options
        assert self.REFUSED in messages_of(kind="ensemble", teachers=[adapted, CLIP])

    @pytest.mark.parametrize("options", [{"view": "proxy"}, {"mode": "online"}])
    def test_in_a_backbone_are_refused(self, options: dict[str, str]) -> None:
        assert self.REFUSED in messages_of(kind="adapted", backbone=CLIP | options)

    @pytest.mark.parametrize("options", [{"view": "proxy"}, {"mode": "online"}])
    def test_of_precomputed_outputs_are_refused(self, options: dict[str, str]) -> None:
        assert "precomputed outputs exist for plain images only" in messages_of(**TABLE, **options)
        message = messages_of(kind="ensemble", teachers=[CLIP, TABLE], **options)
        assert message.endswith("precomputed outputs exist for plain images only: leave view 'plain' and mode 'cached'")

    def test_in_the_outermost_section_are_accepted(self) -> None:
        teacher = ensemble(STAND_IN, {"kind": "adapted", "backbone": CLIP}, view="proxy", mode="online")
        assert (teacher.view, teacher.mode) == ("proxy", "online")
        assert read({"kind": "adapted", "backbone": CLIP, "view": "proxy"}).view == "proxy"


def test_an_ensemble_of_one_teacher_is_refused() -> None:
    assert "at least 2 items" in messages_of(kind="ensemble", teachers=[CLIP])


def test_ensembles_are_neither_nested_nor_adapted() -> None:
    inner = {"kind": "ensemble", "teachers": [STAND_IN, CLIP]}
    assert "does not match any of the expected tags" in messages_of(kind="ensemble", teachers=[inner, CLIP])
    assert "does not match any of the expected tags" in messages_of(kind="adapted", backbone=inner)
    assert "does not match any of the expected tags" in messages_of(kind="adapted", backbone=TABLE)


def test_sections_round_trip_through_json() -> None:
    classifier = {"kind": "classifier", "model": "resnet18", "class_map": {"cat": [1, 2], "dog": [3]}}
    for teacher in (
        ensemble(STAND_IN, CLIP, TABLE, assignment=[2, [1], [2, 0]]),
        read(classifier),
        read({"kind": "adapted", "backbone": classifier, "method": "fine_tune"}),
        read(CLIP | {"prompts": ["one {}"], "classes": ["cat", "dog"]}),
    ):
        assert read(teacher.model_dump(mode="json")) == teacher
