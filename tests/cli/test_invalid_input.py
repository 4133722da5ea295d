"""Invalid input ends in one clear sentence and exit code 2, never in a traceback."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
from safetensors.torch import save_model

from fedray.cli.main import main
from fedray.results.run_folder import RunFolder

SPEC = """
data: {train: digits, test: digits, train_limit: 100, test_limit: 20}
partition: {kind: iid, clients: 2}
training: {rounds: 1}
resources: {backend: serial}
"""


@pytest.fixture
def wrong_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`wrong_command("schema", "spec.yaml")` runs fedray, checks that it fails, and returns its message."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert stopped.value.code == 2, output
        assert "Traceback" not in output.err
        (sentence,) = output.err.strip().splitlines()
        assert sentence.startswith("fedray: ")
        assert sentence.endswith((".", "?"))
        assert not re.search("pydantic|tuple|Tuple|union|<class", sentence), "the message names Python types"
        return sentence

    return run


@pytest.fixture
def wrong(wrong_command: Callable[..., str]) -> Callable[..., str]:
    """`wrong("training.lr=-1")` is `fedray run spec.yaml training.lr=-1`."""

    def run(*arguments: str) -> str:
        chosen = arguments if "spec.yaml" in arguments or "--" in arguments else ("spec.yaml", *arguments)
        return wrong_command("run", *(a for a in chosen if a != "--"))

    return run


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ("trainng.rounds=3", "unknown field 'trainng'; did you mean 'training'?"),
        ("training.round=3", "unknown field 'training.round'; did you mean 'rounds'?"),
        ("proxy.nme=cnn", "unknown field 'proxy.nme'; did you mean 'name'?"),
        ("proxy.name=resnet81", "proxy.name is 'resnet81', but must be one of cnn, resnet18"),
        ("proxy.name=timm:resnett18", "timm has no model 'resnett18'; did you mean 'resnet18'?"),
        ("proxy.stem=cifar", "the cnn has neither a stem nor pretrained weights"),
        ("proxy.init=file:nowhere.safetensors", "'nowhere.safetensors' does not hold this model's weights"),
        ("proxy.init=somehow", "proxy.init is 'somehow'"),
        ("strategy.name=fedlpmf", "but must be one of fedavg, fedprox, fml, fedlpfm; did you mean 'fedlpfm'?"),
        ("strategy.name=fedlpfm", "distils from a teacher and the spec has none"),
        ("strategy.name=fedlpfm strategy.lam=1.5", "strategy.lam is 1.5, but must be between 0 and 1"),
        ("strategy.name=fedprox strategy.mu=-1", "strategy.mu is -1, but must be at least 0"),
        (
            "partition.kind=dirichlet partition.alpha=0",
            "partition.alpha is 0, but must be at least 0.01 and at most 100",
        ),
        ("partition.clients=0", "partition.clients is 0, but must be at least 1"),
        ("partition.clients=1000", "partition.clients is 1000, but there are only 100 training examples"),
        ("partition.kind=class_split partition.classes_per_client=11", "11, but the training data has only 10 classes"),
        (
            "partition.kind=class_split partition.classes_per_client=2",
            "2 clients with 2 classes each cannot hold all 10",
        ),
        ("partition.kind=dirichlet partition.clients=50", "gave every client at least min_examples=10"),
        ("partition.kind=shards partition.shards_per_client=99", "198 shards, but there are only 100 examples"),
        ("partition.kind=file partition.file=nowhere.csv", "partition.file: there is no file 'nowhere.csv'"),
        ("training.lr=.nan", "training.lr is nan, but must be a finite number"),
        ("training.lr=fast", "training.lr is 'fast', but must be a valid number"),
        ("training.participation=1.5", "training.participation is 1.5, but must be above 0 and at most 1"),
        ("training.failures=ignore", "training.failures is 'ignore', but must be one of abort, drop"),
        (
            "training.precision=bf16",
            "training.precision is 'bf16', but must be one of float32, bfloat16; did you mean 'bfloat16'?",
        ),
        (
            "training.memory_format=nhwc",
            "training.memory_format is 'nhwc', but must be one of channels_last, contiguous",
        ),
        ("resources.clients_per_actor=none", "but must be auto or a valid integer"),
        ("resources.backend=dask", "must be one of ray, serial"),
        ("seed=-1", "seed is -1, but must be at least 0"),
        ("data=digits", "data is 'digits', but must be a section"),
        ("strategy=fedavg", "strategy is 'fedavg', but must be a section, such as {name: ...}"),
        ("data.train=digit", "unknown source 'digit'"),
        ("data.train_limit=100000", "data.train_limit is 100000, but there are only"),
        ("data.train=torchvision:CIFAR11", "torchvision has no data set 'CIFAR11'; did you mean 'CIFAR10'?"),
        ("data.train=parquet:nowhere/*.parquet", "no file matches 'parquet:nowhere/*.parquet'"),
        ("data.train=folder:nowhere", "'folder:nowhere' is not a folder"),
        ("data.normalize=imagenet", "data.normalize is 'imagenet', but the images have 1 channel"),
        ("data.size=12 data.test=folder:nowhere", "'folder:nowhere' is not a folder"),
        ("teacher.kind=supervised", "data.public_fraction must be above 0"),
        ("teacher.kind=oracle", "teacher is 'oracle', but must be one of supervised, zero_shot, classifier, adapted, "),
        ("teacher.kind=adaptd", "precomputed, ensemble; did you mean 'adapted'?"),
        ("teacher.kind=zero_shot teacher.prompts=[hello]", "must each have one {} for the class name"),
        ("teacher.file=x", "'teacher' must have a kind"),
        ("seed.x=1", "seed is {'x': 1}, but must be a valid integer"),
        ("rounds", "'rounds' is not an override; write section.key=value"),
    ],
)
def test_bad_values(wrong: Callable[..., str], overrides: str, expected: str) -> None:
    assert expected in wrong(*overrides.split())


ZERO_SHOT = "teacher={kind: zero_shot}"


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
    ],
)
def test_bad_losses(wrong: Callable[..., str], overrides: list[str], expected: str) -> None:
    assert expected in wrong(*overrides)


A, B = "{kind: zero_shot}", "{kind: zero_shot, model: RN50}"


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
        ("teacher={kind: zero_shot, prompts: [1]}", "teacher.prompts.0 is 1, but must be a valid string"),
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
def test_bad_teachers(wrong: Callable[..., str], teacher: str, expected: str) -> None:
    assert expected in wrong(teacher)


COSINE = "strategy={name: fedlpfm, loss: {name: cosine}}"


def test_features_of_an_ensemble(wrong: Callable[..., str]) -> None:
    expected = "features, and those of several teachers cannot be combined: assign one teacher to each client"
    assert expected in wrong(COSINE, ensemble(A, B))
    assert expected in wrong(COSINE, ensemble(A, B, assignment="[0, [0, 1]]"))


def test_assignment_must_have_an_entry_per_client(wrong: Callable[..., str]) -> None:
    sentence = wrong("strategy.name=fedlpfm", ensemble(A, B, assignment="[0, 1, 1]"))
    assert "teacher.assignment has 3 entries, but there are 2 clients" in sentence


def test_unknown_timm_model_as_teacher(wrong: Callable[..., str]) -> None:
    sentence = wrong("strategy.name=fedlpfm", "teacher={kind: classifier, model: resnett18}")
    assert "teacher.model: timm has no model 'resnett18'; did you mean 'resnet18'?" in sentence


@pytest.mark.parametrize(
    ("class_map", "expected"),
    [
        ("{zero: [1]}", "teacher.class_map: the data has no class 'zero'"),
        ("{'00': [1]}", "teacher.class_map: the data has no class '00'; did you mean '0'?"),
        ("{'0': [1]}", "teacher.class_map: '1' needs one or more of the model's outputs 0 to 999"),
        ("{'0': [1000]}", "teacher.class_map: '0' needs one or more of the model's outputs 0 to 999"),
    ],
)
def test_class_map_with_wrong_classes_or_outputs(wrong: Callable[..., str], class_map: str, expected: str) -> None:
    save_model(timm.create_model("test_resnet"), "weights.safetensors")
    teacher = "kind: classifier, model: test_resnet, pretrained: 'file:weights.safetensors'"
    assert expected in wrong("strategy.name=fedlpfm", f"teacher={{{teacher}, class_map: {class_map}}}")


def test_weights_of_another_teacher(wrong: Callable[..., str]) -> None:
    save_model(timm.create_model("test_resnet"), "weights.safetensors")
    teacher = "kind: classifier, model: test_vit, pretrained: 'file:weights.safetensors'"
    sentence = wrong("strategy.name=fedlpfm", f"teacher={{{teacher}, class_map: {{'0': [1]}}}}")
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
def test_bad_teacher_commands(wrong_command: Callable[..., str], arguments: list[str], expected: str) -> None:
    assert expected in wrong_command("teachers", *arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1\n- 2", "must hold sections"),
        ("", "must hold sections"),
        ("training: [", "is not valid YAML"),
        ("base: {}\nspaces: {}", "unknown key 'spaces'; a space has base, space, search; did you mean 'space'?"),
        ("base: {}\nspace: {seed: [1, 2]}", "the axis seed must be written {grid: [value, ...]}"),
        ("base: {}\nspace: {sed: {grid: [1, 2]}}", "unknown field 'sed'; did you mean 'seed'?"),
        ("base: [1]\nspace: {}", "base must hold sections, or name another file, not list"),
        ("base: nowhere.yaml\nspace: {}", "there is no spec 'nowhere.yaml'"),
    ],
)
def test_bad_files(wrong: Callable[..., str], text: str, expected: str) -> None:
    Path("spec.yaml").write_text(text)
    assert expected in wrong()


def test_override_inside_an_axis(wrong: Callable[..., str]) -> None:
    Path("spec.yaml").write_text("base: {}\nspace: {strategy: {grid: [{name: fedavg}, {name: fml}]}}")
    assert "'strategy.alpha' cannot be set: the space varies the whole of strategy" in wrong("strategy.alpha=0.1")


def test_message_names_the_run_of_a_space(wrong: Callable[..., str]) -> None:
    Path("spec.yaml").write_text(f"base: {{{SPEC.strip().replace(chr(10), ', ')}}}\nspace: {{seed: {{grid: [1, 2]}}}}")
    assert wrong("data.train=folder:nowhere").startswith("fedray: seed=1: data.train:")


def test_missing_spec(wrong: Callable[..., str]) -> None:
    assert "there is no spec 'spce.yaml'; did you mean 'spec.yaml'?" in wrong("--", "spce.yaml")


def test_truncated_parquet(wrong: Callable[..., str]) -> None:
    pq.write_table(pa.table({"label": [0, 1]}), "whole.parquet")
    Path("cut.parquet").write_bytes(Path("whole.parquet").read_bytes()[:-20])
    assert "'cut.parquet' cannot be read as parquet" in wrong("data.train=parquet:cut.parquet")
    assert "has no column img or image" in wrong("data.train=parquet:whole.parquet")


TEACHER = ("strategy.name=fedlpfm", "teacher.kind=precomputed", "teacher.file=logits.parquet")


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
    wrong: Callable[..., str], keys: dict[str, object], classes: int, expected: str
) -> None:
    logits(keys, classes)
    assert expected in wrong(*TEACHER)


def test_table_without_the_features_that_the_loss_reads(wrong: Callable[..., str]) -> None:
    logits({"index": range(3000)}, 10)
    sentence = wrong(COSINE, "teacher={kind: precomputed, file: logits.parquet}")
    assert "'logits.parquet' has no column features, which strategy.loss needs" in sentence


def test_results_of_another_spec(wrong: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fedray", "run", "spec.yaml", "--quiet"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code in (0, None)
    assert "holds results of another spec (seed is 0 there and 1 here); choose another --results" in wrong("seed=1")


def finished(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "argv", ["fedray", "run", "spec.yaml", "--quiet"])
    with pytest.raises(SystemExit):
        main()
    return Path("results/spec")


@pytest.mark.parametrize("damage", [b"", b"hello,world\n1,2\n", b"\xff\x00\xfe", None], ids=str)
def test_damaged_tables(wrong: Callable[..., str], monkeypatch: pytest.MonkeyPatch, damage: bytes | None) -> None:
    folder = finished(monkeypatch)
    (folder / "model.safetensors").unlink()
    (folder / "rounds.csv").unlink()
    if damage is not None:
        (folder / "rounds.csv").write_bytes(damage)
    assert "rounds.csv' does not hold the rounds before its checkpoint; delete" in wrong("--resume")


def test_damaged_tables_of_a_finished_run(wrong: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(monkeypatch)
    (folder / "rounds.csv").write_bytes(b"\xff\x00\xfe")
    assert "rounds.csv' is damaged" in wrong()
    (folder / "rounds.csv").unlink()
    assert "no rounds.csv is left" in wrong()


def test_results_without_a_spec(wrong: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    (finished(monkeypatch) / "spec.yaml").unlink()
    assert "holds a run, but no spec.yaml to know it by" in wrong()


def test_folder_locked_by_another_run(wrong: Callable[..., str]) -> None:
    Path("results/spec").mkdir(parents=True)
    with RunFolder(Path("results/spec")).lock():
        assert "'results/spec' is being written by another run" in wrong().replace(f"{Path.cwd()}/", "")


def test_results_name_that_is_too_long(wrong: Callable[..., str]) -> None:
    assert "cannot be written (File name too long)" in wrong("--results", "x" * 300)


def test_results_folder_below_a_file(wrong: Callable[..., str]) -> None:
    Path("taken").write_text("a file in place of the folder")
    assert "the results folder 'taken/spec' cannot be written (Not a directory)" in wrong("--results", "taken")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_results_folder_without_permission(wrong: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written (Permission denied)" in wrong("--results", "locked")
