import math
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from helpers.studies import PARTITION, write_classes, write_run, write_study, write_trials

from analysis.records import Records, load
from fedray.errors import SpecError
from fedray.results.specs import varying_fields

LPFM = {"name": "fedlpfm", "lam": 0.5}


def damaged(tmp_path: Path, name: str, content: bytes | None) -> tuple[Records, Path]:
    """Return the records of an intact run `a` and a run `b` with one damaged file, and the path of that file."""
    write_run(tmp_path / "s" / "a")
    path = write_run(tmp_path / "s" / "b", seed=1) / name
    path.unlink() if content is None else path.write_bytes(content)
    return load(tmp_path / "s"), path


def test_client_flops_include_private_models(tmp_path: Path) -> None:
    run = write_run(tmp_path / "s" / "a", strategy={"name": "fml"})
    (run / "costs.json").write_text('{"proxy": {"flops": 10}, "private": {"flops": 5}}')
    assert load(tmp_path / "s").runs["client_flops"].tolist() == [15]


def test_records_hold_every_table_of_a_run(tmp_path: Path) -> None:
    write_run(
        tmp_path / "s" / "a", strategy=LPFM, seed=7, alpha=0.3, accuracy=[0.25, None, 0.5], teacher_accuracy=0.875
    )
    records = load(tmp_path / "s")
    assert records.problems == []
    assert records.runs.index.tolist() == ["a"]
    row = records.runs.loc["a"]
    assert (row["seed"], row["strategy.lam"], row["partition.alpha"], row["training.rounds"]) == (7, 0.5, 0.3, 3)
    assert (row["study"], row["commit"], row["teacher_accuracy"]) == ("s", "abc1234", 0.875)
    assert row["client_flops"] == 1000 * 300 * 3
    assert records.rounds["run"].tolist() == ["a"] * 3
    assert records.rounds["test_accuracy"].tolist() == pytest.approx([0.25, math.nan, 0.5], nan_ok=True)
    classes, clients = records.classes(["a"]), records.clients(["a"])
    assert classes[["round", "class", "class_name", "examples", "test_accuracy"]].to_numpy().tolist() == [
        [3, 0, "cat", 10, 0.9], [3, 1, "dog", 10, 0.5], [3, 2, "ship", 10, 0.1],
    ]  # fmt: skip
    assert clients[["round", "client", "examples", "train_accuracy"]].to_numpy().tolist() == [
        [3, 0, 80, 0.8], [3, 1, 40, 0.7], [3, 2, 100, 0.6], [3, 3, 80, 0.5],
    ]  # fmt: skip
    partition = records.partition(["a"])
    assert len(partition) == sum(count > 0 for held in PARTITION for count in held)
    assert partition["examples"].sum() == 300
    proxy = records.confusion(["a"], "proxy")
    assert proxy[["class", "predicted_class", "examples"]].to_numpy().tolist() == [
        [0, 0, 9], [0, 1, 1], [1, 1, 5], [1, 2, 5], [2, 2, 1], [2, 0, 9],
    ]  # fmt: skip
    assert len(records.confusion(["a"], "teacher")) == 6


def test_tables_have_a_run_column(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", accuracy=[0.25, 0.5])
    write_run(tmp_path / "s" / "b", accuracy=[0.75, 0.5, 0.25])
    write_run(tmp_path / "s" / "c", accuracy=[])
    records = load(tmp_path / "s")
    curves = {str(run): own["test_accuracy"].tolist() for run, own in records.rounds.groupby("run", observed=True)}
    assert curves == {"a": [0.25, 0.5], "b": [0.75, 0.5, 0.25]}
    assert records.clients(["b", "c"])["run"].tolist() == ["b"] * 4


def test_the_command_repeats_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "o'brien's studies" / "λ=0.5, α=1")
    (command,) = load(tmp_path / "o'brien's studies").runs["command"]
    assert shlex.split(command) == ["fedray", "run", str(folder / "spec.yaml"), "--results", "again"]


def test_load_a_single_run(tmp_path: Path) -> None:
    write_run(tmp_path / "alone")
    write_trials(tmp_path, [{"trial": "alone", "state": "finished"}])  # of the study that holds the run
    records = load(tmp_path / "alone")
    assert records.runs.index.tolist() == ["alone"]
    assert records.trials.empty
    assert records.folder("alone") == tmp_path / "alone"


def test_trials_hold_state_and_reason(tmp_path: Path) -> None:
    write_study(tmp_path / "all" / "s", [LPFM], alphas=[0.1], seeds=[0])
    write_study(tmp_path / "all" / "t", [LPFM], alphas=[0.1], seeds=[0])
    trials = [{"trial": "a", "state": "finished"}, {"trial": "b", "state": "failed", "reason": "no room, no hope"}]
    write_trials(tmp_path / "all" / "s", trials)
    trials = load(tmp_path / "all").trials
    assert trials[["trial", "state", "reason"]].to_numpy().tolist() == [
        ["a", "finished", ""], ["b", "failed", "no room, no hope"],
        ["name=fedlpfm,lam=0.5,alpha=0.1,seed=0", "finished", ""],
    ]  # fmt: skip
    (tmp_path / "all" / "s" / "trials.csv").write_text("trial,state\nx,pending\n")
    records = load(tmp_path / "all" / "s")
    assert records.trials[["trial", "state", "reason"]].to_numpy().tolist() == [["x", "pending", ""]]
    assert records.problems == [f"'{tmp_path / 'all' / 's' / 'trials.csv'}' has no column reason."]


def test_null_differs_from_a_missing_field(tmp_path: Path) -> None:
    """`norm: null` is a value; FedAvg has no field λ."""
    write_run(tmp_path / "s" / "a", proxy={"norm": None}, training={"rounds": 3, "deadline": None})
    write_run(tmp_path / "s" / "b", proxy={"norm": "group"}, training={"rounds": 3, "deadline": 2.5})
    write_run(tmp_path / "s" / "c", strategy=LPFM, proxy={"norm": "group"}, training={"rounds": 3, "deadline": 2.5})
    runs = load(tmp_path / "s").runs
    assert runs["proxy.norm"].tolist() == [None, "group", "group"]
    assert runs["training.deadline"].tolist() == [None, 2.5, 2.5]
    assert runs["strategy.lam"].dtype == float
    assert varying_fields(runs) == ["proxy.norm", "strategy.name", "training.deadline"]


@pytest.mark.parametrize(
    ("content", "problem_text"),
    [
        (None, ""),
        (b"{not json", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"", "is damaged"),
        (b"[1, 2]", "is damaged"),
        (b'{"format": 2, "teacher_accuracy": null, "commit": null, "proxy": 3}', ""),
    ],
)
@pytest.mark.parametrize("name", ["environment.json", "costs.json"])
def test_damaged_json_is_ignored_and_described(
    tmp_path: Path, name: str, content: bytes | None, problem_text: str
) -> None:
    records, path = damaged(tmp_path, name, content)
    assert records.runs.index.tolist() == ["a", "b"]
    assert records.runs[["teacher_accuracy", "client_flops"]].dtypes.tolist() == [float, float]
    column = {"environment.json": "commit", "costs.json": "client_flops"}[name]
    assert records.runs.at["a", column] == {"commit": "abc1234", "client_flops": 900_000}[column]
    assert not records.runs.at["b", column] or math.isnan(records.runs.at["b", column])
    assert [problem.partition(" (")[0] for problem in records.problems] == [f"'{path}' {problem_text}"] * bool(
        problem_text
    )


@pytest.mark.parametrize("value", ["7.5", '"high"', "-1", "true"])
def test_teacher_accuracy_out_of_range_is_described(tmp_path: Path, value: str) -> None:
    records, path = damaged(tmp_path, "environment.json", f'{{"format": 2, "teacher_accuracy": {value}}}'.encode())
    assert records.runs["teacher_accuracy"].isna().all()
    (problem,) = records.problems
    assert problem.startswith(f"'{path}': teacher_accuracy is ")


@pytest.mark.parametrize(
    ("field", "value"),
    [("partition.alpha", "lots"), ("training.rounds", 0), ("seed", True), ("strategy.lam", float("nan"))],
)
def test_run_with_an_invalid_spec_field_is_left_out(tmp_path: Path, field: str, value: Any) -> None:
    sections: dict[str, Any] = {
        "seed": 0, "strategy": {"name": "fedlpfm", "lam": 1}, "partition": {"kind": "dirichlet", "alpha": 1},
        "training": {"rounds": 3},
    }  # fmt: skip
    section, _, name = field.rpartition(".")
    (sections[section] if section else sections)[name] = value
    records, path = damaged(tmp_path, "spec.yaml", yaml.safe_dump(sections).encode())
    (problem,) = records.problems
    assert problem.startswith(f"'{path}': {field} is ")
    assert records.runs.index.tolist() == ["a"]


def test_run_without_a_spec_is_left_out(tmp_path: Path) -> None:
    records, path = damaged(tmp_path, "spec.yaml", None)
    assert records.runs.index.tolist() == ["a"]
    assert records.problems == [f"'{path.parent}' has rounds.csv but no spec.yaml: it is left out."]


@pytest.mark.parametrize(
    ("content", "problem_text"),
    [
        (b"a: [", "is not valid YAML"),
        (b"\xff\xfe\xfd", "cannot be read"),
        (b"seed: 0\0", "is not valid YAML"),
        (b"", "must hold sections"),
        (b"- 1\n- 2\n", "must hold sections"),
        (b"seed: 0\n", ": training.rounds is missing, strategy.name is missing, partition.kind is missing; the run is"),
        (
            b"seed: many\nstrategy: {name: x}\npartition: {kind: iid}\ntraining: {rounds: 3}\n",
            ": seed is 'many'; the run is left out",
        ),
    ],
)
def test_run_with_an_unreadable_spec_is_left_out(tmp_path: Path, content: bytes, problem_text: str) -> None:
    records, path = damaged(tmp_path, "spec.yaml", content)
    assert records.runs.index.tolist() == ["a"]
    (problem,) = records.problems
    assert str(path) in problem
    assert problem_text in problem
    assert problem.endswith("the run is left out.")


def test_load_without_a_readable_spec_raises(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s" / "a")
    (folder / "spec.yaml").write_text("a: [")
    with pytest.raises(SpecError, match=r"^no run can be read: .*spec\.yaml cannot be used: it is not valid YAML"):
        load(tmp_path / "s")


@pytest.mark.parametrize("name", ["rounds.csv", "classes.csv", "clients.csv", "partition.csv"])
@pytest.mark.parametrize("content", [None, b"", b"\0" * 3000, b"\xff,\xfe\n1,2\n"])
def test_damaged_table_loses_its_own_rows_only(tmp_path: Path, name: str, content: bytes | None) -> None:
    records, path = damaged(tmp_path, name, content)
    runs = records.runs.index
    tables = {
        "rounds.csv": records.rounds, "classes.csv": records.classes(runs),
        "clients.csv": records.clients(runs), "partition.csv": records.partition(runs),
    }  # fmt: skip
    row_counts = {"rounds.csv": 3, "classes.csv": 3, "clients.csv": 4, "partition.csv": 9}
    for other, table in tables.items():
        counts = table["run"].value_counts()
        assert counts["a"] == row_counts[other]
        lost = other == name or (name == "rounds.csv" and other in ("classes.csv", "clients.csv"))
        assert counts.get("b", 0) == (0 if lost else row_counts[other])
    assert [problem.startswith(f"'{path}' ") for problem in records.problems] == [True]


def test_invalid_rows_are_left_out_and_described(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s" / "a", accuracy=[0.25, 1.7, 0.5])
    with (folder / "rounds.csv").open("a") as file:
        file.write("4,many" + "," * 16 + "\n-5,0.3" + "," * 16 + "\n6,0.")
    records = load(tmp_path / "s")
    assert records.rounds["round"].tolist() == [1, 3]
    assert records.problems == [
        f"'{folder / 'rounds.csv'}' has invalid values (round is -5, test_accuracy is 1.7, "
        "rare_class_accuracy is 1.275); 3 of 5 rows are left out."
    ]


def test_classes_are_of_the_last_round_in_rounds_csv(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "s" / "a", accuracy=[0.25, 0.5])
    write_classes(folder, [1, 2, 3], [0.7, 0.8, 0.9])
    classes = load(tmp_path / "s").classes(["a"])
    assert classes["round"].tolist() == [2, 2, 2]


def test_run_without_rounds_has_empty_tables(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", accuracy=[])
    records = load(tmp_path / "s")
    assert records.problems == []
    assert records.rounds.empty
    assert records.rounds["run"].dtype == "category"
    assert records.rounds["test_accuracy"].dtype == float
    assert records.classes(["a"]).empty
    assert records.confusion(["a"], "teacher").columns.tolist() == ["run", "class", "predicted_class", "examples"]


def test_load_without_results_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, message in {
        "nowhere": "does not exist",
        ".": "holds no results",
        "file": "is a file, not a folder",
    }.items():
        with pytest.raises(SpecError, match=message):
            load(tmp_path / place)
    with pytest.raises(SpecError, match="'' does not exist"):
        load("")


def test_load_names_runs_after_their_studies(tmp_path: Path) -> None:
    for name in ("x/study", "y/study"):
        write_run(tmp_path / name / "a")
    write_run(tmp_path / "z" / "run")
    records = load(tmp_path / "x/study", f"{tmp_path}/y/study/", tmp_path / "z" / "run")
    assert records.runs.index.tolist() == ["x/study/a", "y/study/a", "z/run"]
    assert records.runs["study"].tolist() == ["x/study", "y/study", "z/run"]
    assert load(tmp_path / "x/study", tmp_path / "z/run").runs.index.tolist() == ["study/a", "run"]


def test_load_of_a_folder_given_twice_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "s" / "t" / "a")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").symlink_to(tmp_path / "s")
    for again in ("s", f"{tmp_path}/s/", "./s", "s/../s", "s/t", "other"):
        with pytest.raises(SpecError, match="is given twice"):
            load("s", again)


def test_load_from_a_uri(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a", accuracy=[0.25, 0.5])
    write_run(tmp_path / "t" / "a", accuracy=[0.75, 0.5])
    uri = f"file://{tmp_path}/s"
    records = load(uri, tmp_path / "t")
    assert records.runs["study"].tolist() == ["s", "t"]
    assert records.rounds["test_accuracy"].tolist() == [0.25, 0.5, 0.75, 0.5]
    assert records.folder("s/a") != tmp_path / "s" / "a"  # a local copy
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(SpecError, match="holds no results"):
        load(uri)
    with pytest.raises(SpecError, match="is given twice"):
        load(f"file://{tmp_path}/t", f"file://{tmp_path}/t/")


def test_study_name_omits_the_query_of_a_uri(tmp_path: Path) -> None:
    """A query may contain a secret."""
    write_run(tmp_path / "s" / "a")
    (name,) = load(f"file://{tmp_path}/s?key=secret").runs["study"]
    assert name == "s"


def test_runs_have_lists_as_text_and_sections_by_dotted_name(tmp_path: Path) -> None:
    teachers = [{"kind": "zero_shot", "model": name} for name in ("RN50", "ViT-B-32")]
    several = {"kind": "ensemble", "teachers": teachers, "assignment": [0, 1, 0, 1]}
    write_run(tmp_path / "s" / "a", strategy=LPFM, teacher=several)
    write_run(tmp_path / "s" / "b", strategy=LPFM, teacher={"kind": "zero_shot", "prompts": ["a {}."]})
    runs = load(tmp_path / "s").runs
    assert runs.at["a", "teacher.teachers.1.model"] == "ViT-B-32"
    assert runs.at["a", "teacher.assignment"] == "[0, 1, 0, 1]"
    assert runs.at["b", "teacher.prompts"] == "['a {}.']"
    assert pd.isna(runs.at["b", "teacher.assignment"])
