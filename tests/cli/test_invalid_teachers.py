"""Invalid teachers, distillation losses and tables of logits end in one sentence and exit code 2."""

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import timm
from safetensors.torch import save_model

ZERO_SHOT = "teacher={kind: zero_shot}"

A, B = "{kind: zero_shot}", "{kind: zero_shot, model: RN50}"

COSINE = "strategy={name: fedlpfm, loss: {name: cosine}}"

TEACHER = ("strategy.name=fedlpfm", "teacher.kind=precomputed", "teacher.file=logits.parquet")


def matching(**fields: float) -> str:
    """An override that sets a strategy whose loss is function matching."""
    loss = {"name": "function_matching", **({"mixup": fields.pop("mixup")} if "mixup" in fields else {})}
    return f"strategy={json.dumps({'name': 'fedlpfm', 'loss': loss, **fields})}"


def ensemble(*teachers: str, **fields: str) -> str:
    """An override that sets an ensemble of teachers."""
    entries = [f"teachers: [{', '.join(teachers)}]", *(f"{name}: {value}" for name, value in fields.items())]
    return f"teacher={{kind: ensemble, {', '.join(entries)}}}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            [matching(lam=0.5), ZERO_SHOT],
            "but must be the whole objective, as it uses no labels: set strategy.lam: 1",
        ),
        (
            [matching(lam=1), ZERO_SHOT],
            "its loss compares outputs for the same view of an image: set teacher.view",
        ),
        (
            [matching(lam=1), "teacher={kind: zero_shot, view: proxy}"],
            "strategy is 'fedlpfm', but its loss mixes images, whose outputs cannot be cached: "
            "set teacher.mode: online, or strategy.loss.mixup: 0.",
        ),
        ([matching(lam=1, mixup=-1), ZERO_SHOT], "strategy.loss.mixup is -1, but must be at least 0"),
        (["strategy={name: fedlpfm, loss: {name: cosin}}", ZERO_SHOT], "feature_mse; did you mean 'cosine'?"),
        (
            ["strategy={name: fedlpfm, loss: {name: kd, alpha: 1}}", ZERO_SHOT],
            "unknown field 'strategy.loss.alpha' ('strategy.loss' has name, direction)",
        ),
        (["strategy={name: scaffold, distillation: {}}"], "it distils from a teacher and the spec has none"),
        (
            ["strategy={name: moon, distillation: {lam: 2}}", ZERO_SHOT],
            "strategy.distillation.lam is 2, but must be between 0 and 1 if balance is 'convex'.",
        ),
        (
            ["strategy={name: moon, distillation: {loss: {name: function_matching}}}", ZERO_SHOT],
            "set strategy.distillation.lam: 1 and strategy.distillation.balance: convex.",
        ),
        (
            [
                "strategy={name: moon, distillation: {lam: 1, loss: {name: function_matching}}}",
                "teacher={kind: zero_shot, view: proxy}",
            ],
            "set teacher.mode: online, or strategy.distillation.loss.mixup: 0.",
        ),
        (
            ["strategy={name: fedntd, distillation: {lam: 1, loss: {name: function_matching}}}", ZERO_SHOT],
            "but must not use the loss function_matching, which has no labels; fedntd needs them.",
        ),
        (
            ["strategy={name: fedlpfm, distillation: {}}", ZERO_SHOT],
            "strategy.distillation is {}, but must be null for fedlpfm, which has these fields itself: set strategy.",
        ),
        (
            ["strategy={name: fml, distillation: {lam: 0.2}}", ZERO_SHOT],
            "strategy.distillation is {'lam': 0.2}, but must be null for fml: its two objectives",
        ),
    ],
)
def test_bad_losses(run_error: Callable[..., str], overrides: list[str], expected: str) -> None:
    assert expected in run_error(*overrides)


@pytest.mark.parametrize(
    ("teacher", "expected"),
    [
        (ensemble(A), "teacher.teachers is [{'kind': 'zero_shot'}], but must have at least 2 entries."),
        ("teacher.kind=ensemble", "'teacher.teachers' is missing"),
        (ensemble(A, B, assignment="each"), "must be one of all, consistent, random or a list"),
        (
            ensemble(A, B, assignment="[0, 5]"),
            "teacher.assignment is [0, 5], but must name for each client one or more ",
        ),
        (ensemble(A, B, assignment="[0, [0, 5]]"), "one or more of the teachers 0 to 1, each once."),
        (ensemble(A, B, assignment="[0, []]"), "one or more of the teachers 0 to 1, each once."),
        (ensemble(A, B, assignment="[0, [0, x]]"), "teacher.assignment.1.1 is 'x', but must be a valid integer"),
        (
            ensemble(A, "{kind: zero_shoot}"),
            "teacher.teachers.1 is 'zero_shoot', but must be one of supervised, zero_shot,",
        ),
        (ensemble(A, "{model: RN50}"), "'teacher.teachers.1' must have a kind"),
        (ensemble(A, "RN50"), "teacher.teachers.1 is 'RN50', but must be a section"),
        (
            ensemble(A, "{kind: zero_shot, modl: RN50}"),
            "unknown field 'teacher.teachers.1.modl'; did you mean 'model'? ('teacher.teachers.1' has view, mode, ",
        ),
        (
            ensemble(A, "{kind: zero_shot, prompts: [a, b]}"),
            "teacher.teachers.1.prompts is ['a', 'b'], but must each have ",
        ),
        (
            ensemble(A, "{kind: adapted, backbone: {kind: zero_shot, batch_size: 0}}"),
            "teacher.teachers.1.backbone.batch_size is 0, but must be at least 1",
        ),
        (
            ensemble(A, "{kind: zero_shot, mode: online}"),
            "teacher.teachers.1 is {'kind': 'zero_shot', 'mode': 'online'}, but must not set view and mode; ",
        ),
        (
            ensemble(A, "{kind: precomputed, file: x.parquet}", mode="online"),
            "teacher is 'ensemble', but precomputed outputs exist for plain images only: leave view 'plain' and",
        ),
        (
            "teacher={kind: adapted, backbone: {kind: zero_shot, mode: online}}",
            "teacher.backbone is {'kind': 'zero_shot', 'mode': 'online'}, but must not set view and mode; ",
        ),
        (
            "teacher={kind: adapted, backbone: {kind: adapted}}",
            "teacher.backbone is 'adapted', but must be one of supervised, zero_shot, classifier.",
        ),
        ("teacher={kind: adapted, backbone: {kind: supervised}}", "so data.public_fraction must be above 0"),
        ("teacher={kind: zero_shot, prompts: []}", "must be one of single, cifar18 or must have at least 1 entry"),
        (
            "teacher={kind: zero_shot, prompts: cifar19}",
            "must be one of single, cifar18 or a list; did you mean 'cifar18'?",
        ),
        ("teacher={kind: zero_shot, prompts: [1]}", "teacher.prompts.0 is 1, but must be text"),
        (
            "teacher={kind: zero_shot, prompts: ['{} or {}']}",
            "must each have one {} for the class name; '{} or {}' has 2",
        ),
        (
            "teacher={kind: precomputed, file: x, mode: online}",
            "teacher.mode is 'online', but precomputed outputs exist for plain images",
        ),
        ("teacher={kind: precomputed, file: 3}", "teacher.file is 3, but must be a path"),
        ("teacher={kind: classifier, model: x, class_map: {cat: 1}}", "teacher.class_map.cat is 1, but must be a list"),
        (
            "teacher={kind: classifier, model: x, class_map: {cat: [x]}}",
            "teacher.class_map.cat.0 is 'x', but must be a ",
        ),
        (
            "teacher={kind: classifier, model: x, class_map: [1]}",
            "teacher.class_map is [1], but must map names to values",
        ),
    ],
)
def test_bad_teachers(run_error: Callable[..., str], teacher: str, expected: str) -> None:
    assert expected in run_error(teacher)


def test_features_of_an_ensemble(run_error: Callable[..., str]) -> None:
    expected = "features, and those of several teachers cannot be combined: assign one teacher to each client"
    assert expected in run_error(COSINE, ensemble(A, B))
    assert expected in run_error(COSINE, ensemble(A, B, assignment="[0, [0, 1]]"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "teacher is null, but must be one network whose features all clients read, such as zero_shot, classifier"),
        ([ensemble(A, B)], "teacher is 'ensemble', but must be one network whose features all clients read"),
        (["teacher={kind: precomputed, file: x.parquet}"], "but must be one network whose features all clients read"),
        (["teacher={kind: adapted, backbone: {kind: zero_shot}}"], "or supervised, because proxy.name is linear_probe"),
        (["teacher={kind: zero_shot, mode: online}"], "but must have mode: cached and view: plain, as the features of"),
        (["teacher={kind: zero_shot, view: proxy}"], "but must have mode: cached and view: plain, as the features of"),
        (
            [ZERO_SHOT, "data.augment=crop_flip"],
            "proxy is {'name': 'linear_probe'}, but its inputs are features of plain images: set data.augment: none.",
        ),
        (
            [ZERO_SHOT, "strategy.name=fedlpfm"],
            "strategy is {'name': 'fedlpfm'}, but it distils from a teacher, whose ",
        ),
        ([ZERO_SHOT, COSINE], "but it distils from a teacher, whose features the proxy linear_probe reads already"),
        ([ZERO_SHOT, "strategy.name=moon"], "but its loss reads the proxy's features, which are the fixed inputs of"),
        (
            [ZERO_SHOT, "strategy.name=feddf", "data.public_fraction=0.2"],
            "but it uses public images, and the proxy linear_probe reads features",
        ),
        ([ZERO_SHOT, "strategy.name=fml"], "but it has a private model of images, and the proxy linear_probe reads"),
        (
            ["teacher={kind: supervised}", "data.public_fraction=0.2", "proxy.norm=group"],
            "proxy: a linear_probe has neither stem, norm nor pretrained weights; leave them out.",
        ),
        (
            ["teacher={kind: supervised, model: {name: linear_probe}}", "data.public_fraction=0.2"],
            "linear_probe reads a teacher's features, not images; it can only be the name of the proxy.",
        ),
    ],
)
def test_bad_inputs_of_a_linear_probe(run_error: Callable[..., str], overrides: list[str], expected: str) -> None:
    assert expected in run_error("proxy.name=linear_probe", *overrides)


def test_a_private_model_cannot_be_a_linear_probe(run_error: Callable[..., str]) -> None:
    error = run_error("strategy={name: fml, private: {name: linear_probe}}")
    assert "linear_probe reads a teacher's features, not images; it can only be the name of the proxy." in error


def test_assignment_must_have_an_entry_per_client(run_error: Callable[..., str]) -> None:
    sentence = run_error("strategy.name=fedlpfm", ensemble(A, B, assignment="[0, 1, 1]"))
    assert "teacher.assignment has 3 entries, but there are 2 clients" in sentence


def test_unknown_timm_model_as_teacher(run_error: Callable[..., str]) -> None:
    sentence = run_error("strategy.name=fedlpfm", "teacher={kind: classifier, model: resnett18}")
    assert "teacher.model: timm has no model 'resnett18'; did you mean 'resnet18'?" in sentence


OTHERS = ", ".join(f"'{digit}': [{digit}]" for digit in range(1, 10))
"""Entries of a class map for all digits but 0."""


@pytest.mark.parametrize(
    ("class_map", "expected"),
    [
        ("{zero: [1]}", "teacher.class_map: the data has no class 'zero'"),
        ("{'00': [1]}", "teacher.class_map: the data has no class '00'; did you mean '0'?"),
        ("{'0': [1]}", "teacher.class_map: '1' needs one or more of the model's outputs"),
        (f"{{'0': [1000], {OTHERS}}}", "teacher.class_map: '0' needs one or more of the model's outputs 0 to 999"),
    ],
)
def test_class_map_with_wrong_classes_or_outputs(run_error: Callable[..., str], class_map: str, expected: str) -> None:
    save_model(timm.create_model("test_resnet"), "weights.safetensors")
    teacher = "kind: classifier, model: test_resnet, pretrained: 'file:weights.safetensors'"
    assert expected in run_error("strategy.name=fedlpfm", f"teacher={{{teacher}, class_map: {class_map}}}")


def test_weights_of_another_teacher(run_error: Callable[..., str]) -> None:
    save_model(timm.create_model("test_resnet"), "weights.safetensors")
    teacher = "kind: classifier, model: test_vit, pretrained: 'file:weights.safetensors'"
    sentence = run_error("strategy.name=fedlpfm", f"teacher={{{teacher}, class_map: {{'0': [0], {OTHERS}}}}}")
    assert "teacher.pretrained: 'file:weights.safetensors' could not be loaded" in sentence


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["show", "nonsense"], "there is no entry 'nonsense' in "),
        (["prune", "nonsense"], "there is no entry 'nonsense' in "),
        (["prune"], "choose the entries to delete with exactly one of KEY ..., --unused-days N and --all."),
        (["check", "spec.yaml"], "the spec has no teacher to check."),
        (["check", "spce.yaml"], "there is no spec 'spce.yaml'; did you mean 'spec.yaml'?"),
        (["check", "spec.yaml", "teacher.kind=oracle"], "teacher is 'oracle', but must be one of "),
    ],
)
def test_bad_teacher_commands(command_error: Callable[..., str], arguments: list[str], expected: str) -> None:
    assert expected in command_error("teachers", *arguments)


def logits(keys: dict[str, object], classes: int) -> None:
    count = len(next(iter(keys.values())))  # type: ignore[arg-type]
    pd.DataFrame({**keys, "logits": list(np.zeros((count, classes), np.float32))}).to_parquet("logits.parquet")


@pytest.mark.parametrize(
    ("keys", "classes", "expected"),
    [
        ({"index": range(3000)}, 7, r"'logits.parquet' has logits [100, 7], but digits needs [100, 10]"),
        ({"index": range(5000, 8000)}, 10, "has logits for 0 of the 100 images of digits"),
        ({"index": [*range(3000), *range(3000)]}, 10, "twice"),
        ({"path": ["a.jpg", "b.jpg"]}, 10, "digits has no paths; use the column index"),
        ({"image": ["a.jpg", "b.jpg"]}, 10, "needs the columns logits (or features) and path or index"),
    ],
)
def test_logits_of_another_data_set(
    run_error: Callable[..., str], keys: dict[str, object], classes: int, expected: str
) -> None:
    logits(keys, classes)
    assert expected in run_error(*TEACHER)


def test_table_without_the_features_that_the_loss_reads(run_error: Callable[..., str]) -> None:
    logits({"index": range(3000)}, 10)
    sentence = run_error(COSINE, "teacher={kind: precomputed, file: logits.parquet}")
    assert "'logits.parquet' has no column features, which strategy.loss needs" in sentence
