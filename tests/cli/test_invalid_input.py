"""Invalid specs and data end in one sentence and exit code 2, never in a traceback."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


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
        ("strategy.name=fedlpmf", "; did you mean 'fedlpfm'?"),
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
        ("training.optimizer.lr=.nan", "training.optimizer.lr is nan, but must be a finite number"),
        ("training.optimizer.lr=fast", "training.optimizer.lr is 'fast', but must be a valid number"),
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
        ("training.rounds=true", "training.rounds is True, but must be a valid integer"),
        ("training.rounds=yes", "training.rounds is 'yes', but must be a valid integer"),
        ("training.rounds='3'", "training.rounds is '3', but must be a valid integer"),
        ("training.rounds=1e30", "training.rounds is 1e+30, but must be an integer below 9.22337e+18"),
        ("training.optimizer.lr=true", "training.optimizer.lr is True, but must be a valid number"),
        ("training.optimizer.lr=1e999", "training.optimizer.lr is inf, but must be a finite number"),
        ("training.fast_layers=1", "training.fast_layers is 1, but must be true or false"),
        ("training.fast_layers=yes", "training.fast_layers is 'yes', but must be true or false"),
        ("training.min_cohort=3", "min_cohort must be at most 2, the cohort's size"),
        ("training.min_cohort=1e9", "min_cohort must be at most 2, the cohort's size"),
        ("training.min_cohort=2 training.participation=0.5", "min_cohort must be at most 1, the cohort's size"),
        ("resources.cpus_per_client=3e9", "must be above 0 and at most 4096"),
        ("resources.clients_per_actor=true", "but must be auto or a valid integer"),
        ("seed=2020-99-99", "seed is '2020-99-99', but must be a valid integer"),
        ("data.train=2020-01-02", "unknown source '2020-01-02'"),
        ("data.train=3", "data.train is 3, but must be text"),
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
        (
            "strategy.name=scaffold training.optimizer.name=adam",
            "strategy.name is 'scaffold', but it computes its control variates from the steps of SGD, and "
            "training.optimizer.name is 'adam', whose steps are not sums of gradients; set it to sgd",
        ),
        (
            "strategy.name=fednova training.optimizer.name=adamw",
            "strategy.name is 'fednova', but it divides an update by the weights of its gradients, and "
            "training.optimizer.name is 'adamw', whose steps are not sums of gradients; set it to sgd",
        ),
        (
            "strategy.name=feddyn aggregation.name=median",
            "strategy.name is 'feddyn', but its server adds up the updates of all clients as they are, and "
            "aggregation.name is 'median', which leaves out or changes some; set it to mean",
        ),
        ("teacher.kind=supervised", "data.public_fraction must be above 0"),
        ("teacher.kind=oracle", "teacher is 'oracle', but must be one of supervised, zero_shot, classifier, adapted, "),
        ("teacher.kind=adaptd", "precomputed, ensemble; did you mean 'adapted'?"),
        ("teacher.kind=zero_shot teacher.prompts=[hello]", "must each have one {} for the class name"),
        ("teacher.file=x", "'teacher' must have a kind"),
        ("seed.x=1", "seed is {'x': 1}, but must be a valid integer"),
        ("rounds", "'rounds' is not an override; write section.key=value"),
    ],
)
def test_bad_values(run_error: Callable[..., str], overrides: str, expected: str) -> None:
    assert expected in run_error(*overrides.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- 1\n- 2", "must hold sections"),
        ("", "must hold sections"),
        ("1: 2", "must hold sections such as 'data:' and 'training:', not 1"),
        ("training: {1: 2}", "unknown field 'training.1'"),
        ("seed: 1\nseed: 2", "the key 'seed' is given twice (lines 1 and 2)"),
        ("[" * 100_000, "more than 50 levels"),
        ("training: [", "is not valid YAML"),
        ("base: {}\nspaces: {}", "unknown key 'spaces'; a space has base, space, search; did you mean 'space'?"),
        ("base: {}\nspace: {seed: [1, 2]}", "the axis seed must be written {grid: [value, ...]}"),
        ("base: {}\nspace: {sed: {grid: [1, 2]}}", "unknown field 'sed'; did you mean 'seed'?"),
        ("base: [1]\nspace: {}", "base must hold sections, or name another file, not list"),
        ("base: nowhere.yaml\nspace: {}", "there is no spec 'nowhere.yaml'"),
    ],
)
def test_bad_files(run_error: Callable[..., str], text: str, expected: str) -> None:
    Path("spec.yaml").write_text(text)
    assert expected in run_error()


def test_override_inside_an_axis(run_error: Callable[..., str]) -> None:
    Path("spec.yaml").write_text("base: {}\nspace: {strategy: {grid: [{name: fedavg}, {name: fml}]}}")
    assert "'strategy.alpha' cannot be set: the space varies the whole of strategy" in run_error("strategy.alpha=0.1")


def test_message_names_the_run_of_a_space(run_error: Callable[..., str]) -> None:
    base = Path("spec.yaml").read_text().strip().replace("\n", ", ")
    Path("spec.yaml").write_text(f"base: {{{base}}}\nspace: {{seed: {{grid: [1, 2]}}}}")
    assert run_error("data.train=folder:nowhere").startswith("fedray: seed=1: data.train:")


def test_missing_spec(run_error: Callable[..., str]) -> None:
    assert "there is no spec 'spce.yaml'; did you mean 'spec.yaml'?" in run_error("--", "spce.yaml")


def test_truncated_parquet(run_error: Callable[..., str]) -> None:
    pq.write_table(pa.table({"label": [0, 1]}), "whole.parquet")
    Path("cut.parquet").write_bytes(Path("whole.parquet").read_bytes()[:-20])
    assert "'cut.parquet' cannot be read as parquet" in run_error("data.train=parquet:cut.parquet")
    assert "has no column img or image" in run_error("data.train=parquet:whole.parquet")


@pytest.mark.parametrize("command", [["run", "spec.yaml"], ["sweep", "spec.yaml"], ["plan", "spec.yaml"], ["doctor"]])
@pytest.mark.parametrize("value", ["", " "])
def test_empty_results_option(command_error: Callable[..., str], command: list[str], value: str) -> None:
    assert "--results is an empty text" in command_error(*command, "--results", value)


def test_empty_results_folder(command_error: Callable[..., str]) -> None:
    assert "the folder of results is an empty text" in command_error("results", "")
