"""A damaged finished trial is reported by name; the commands continue with the others."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.records import load
from analysis.summary import over_seeds
from fedray.cli.main import main
from fedray.config.loader import read
from fedray.errors import SpecError
from fedray.results.loader import load_results
from fedray.server.driver import Driver
from fedray.study.estimate import compare_with_actual, save
from fedray.study.study import Study, Trial, last_metrics

SPACE = """
base:
  data: {train: digits, test: digits, train_limit: 60, test_limit: 20}
  partition: {kind: iid, clients: 2}
  training: {rounds: 2}
  resources: {backend: serial}
space:
  training.optimizer.lr: {grid: [0.1, 0.2]}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space and its two finished trials."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(SPACE)
    for trial in study(folder).trials():
        trial.start()
        for _ in Driver(trial.experiment, trial.folder.path).run():
            pass
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(finished, tmp_path / "copy")


def study(folder: Path) -> Study:
    return Study(read(folder / "study.yaml", ()), folder / "results")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Run a command; return its exit code and its output, which has no traceback."""
    monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    output = "".join(capsys.readouterr())
    assert "Traceback" not in output
    code = stopped.value.code
    return int(code) if isinstance(code, int) else 0, " ".join(output.split())


def to_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change_digit(file: Path) -> None:
    """Change the last digit 1 or 2 of a file."""
    content = bytearray(file.read_bytes())
    content[max(content.rfind(b"1"), content.rfind(b"2"))] ^= 3
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut": cut,
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 20),
    "nested": lambda file: file.write_text("[" * 100_000),
    "folder": to_folder,
    "digit": change_digit,
    "text cells": lambda file: file.write_text(file.read_text().replace("0.", "x.")),
}
FILES = [
    "rounds.csv", "clients.csv", "classes.csv", "partition.csv", "faults.csv", "costs.json", "spec.yaml",
    "environment.json", "assignment.json", "model.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_no_damage_of_one_trial_costs_another(folder: Path, name: str, kind: str) -> None:
    """The other trial is in the state of the study, in every table and in the records of a report."""
    damaged, whole = study(folder).trials()
    if kind == "text cells" and name == "model.safetensors":
        return  # it is no text
    DAMAGES[kind](damaged.folder.path / name)
    now = study(folder)
    states = [trial.state for trial in now.trials()]
    now.write_table(now.trials())
    assert states[1] == "finished"
    assert states[0] in ("finished", "damaged") or (name, kind) == ("model.safetensors", "deleted")
    found = load_results(folder / "results")
    assert whole.name in {Path(run).name for run in found.rounds["run"]}
    for table in (found.clients, found.classes, found.partition, found.costs, found.faults):
        assert name == "faults.csv" or table is found.faults or whole.name in {Path(run).name for run in table["run"]}
    runs = over_seeds(found)
    assert 100 * last_metrics(whole.history())["test_accuracy"] in [100 * value for value in runs["test_accuracy"]]
    records = load(folder / "results")
    assert whole.name in {Path(run).name for run in records.runs.index}
    assert whole.name in {Path(run).name for run in records.rounds["run"]}
    other = whole.folder.path / name
    is_text_without_decimals = kind == "text cells" and "0." not in other.read_text()
    if name not in ("assignment.json", "model.safetensors", "environment.json") and not is_text_without_decimals:
        assert any(damaged.name in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(("name", "kind"), [("rounds.csv", "folder"), ("spec.yaml", "cut"), ("clients.csv", "digit")])
def test_commands_go_on(
    folder: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged, whole = study(folder).trials()
    DAMAGES[kind](damaged.folder.path / name)
    place = str(folder / "results")
    code, output = run(capsys, monkeypatch, "sweep", str(folder / "study.yaml"), "--dry-run", "--results", place)
    assert code == 0
    assert "lr=0.2 finished 2/2 -" in output
    code, output = run(capsys, monkeypatch, "results", place)
    assert code == 0
    assert f"{100 * last_metrics(whole.history())['test_accuracy']:.1f}" in output
    assert damaged.name in output
    assert name in output
    code, output = run(capsys, monkeypatch, "run", str(folder / "study.yaml"), "--quiet", "--results", place)
    assert code == 1
    assert f"the finished run in '{damaged.folder.path}' is damaged: {name} " in output
    assert output.endswith("fedray: 1 of 2 runs have finished, but their files are damaged; see above.")
    assert f"{100 * last_metrics(whole.history())['test_accuracy']:.1f}" in output


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("rounds.csv", "cut", "rounds.csv does not have the rounds 1 to 2"),
        ("clients.csv", "deleted", "clients.csv is missing or empty"),
        ("environment.json", "cut", "environment.json is damaged"),
        ("model.safetensors", "cut", "model.safetensors is damaged"),
        ("clients.csv", "digit", "clients.csv differs from its checksum"),
        ("rounds.csv", "digit", "rounds.csv differs from its checksum"),
        ("spec.yaml", "digit", "spec.yaml differs from its checksum"),
    ],
)
def test_sweep_reports_the_trial_and_what_to_do(
    folder: Path,
    name: str,
    kind: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged, whole = study(folder).trials()
    DAMAGES[kind](damaged.folder.path / name)
    code, output = run(
        capsys, monkeypatch, "sweep", str(folder / "study.yaml"), "--quiet", "--results", str(folder / "results")
    )
    assert code == 1
    assert (
        f"the finished trial lr=0.1 is damaged: {reason}; delete '{damaged.folder.path}' to let the next sweep run it"
    ) in output
    assert output.endswith("fedray: 1 of 2 trials have finished, but their files are damaged; see above.")
    again = study(folder)
    rows = (again.folder / "trials.csv").read_text().splitlines()
    assert rows[1].startswith(f"{damaged.name},0.1,damaged,2,nan")
    assert rows[1].endswith(f"{reason},") or f",{reason}," in rows[1]
    assert rows[2].startswith(f"{whole.name},0.2,finished,2,0.")
    assert not (again.folder / "DONE").exists()
    shutil.rmtree(damaged.folder.path)
    assert [trial.state for trial in study(folder).trials()] == ["pending", "finished"]


def test_whole_trials_are_not_damaged(folder: Path) -> None:
    assert [(trial.state, trial.damage) for trial in study(folder).trials()] == [("finished", "")] * 2


def test_estimates_leave_a_damaged_trial_out(folder: Path) -> None:
    of = study(folder)
    first, second = of.trials()
    save(of, {first.name: 3.0, second.name: 5.0})
    cut(first.folder.path / "rounds.csv")
    count, planned, actual = compare_with_actual(of, study(folder).trials()) or (0, 0.0, 0.0)
    assert (count, planned) == (1, 5.0)
    assert actual == pytest.approx(sum(row["seconds"] for row in second.history()))
    for damage in ("[]", '{"seconds": 5}', '{"seconds": {"a": "b"}}', "{"):
        (of.folder / "plan.json").write_text(damage)
        assert compare_with_actual(of, of.trials()) is None


def test_damage_of_all_runs_is_one_sentence(folder: Path) -> None:
    for trial in study(folder).trials():
        (trial.folder.path / "spec.yaml").write_bytes(b"\xff{")
    with pytest.raises(SpecError, match=r"spec\.yaml"):
        load_results(folder / "results")


class TestLinks:
    """Trials that were moved to another disk and linked back."""

    def link(self, folder: Path) -> list[Trial]:
        trials = study(folder).trials()
        (folder / "scratch").mkdir()
        for trial in trials:
            target = folder / "scratch" / trial.name
            trial.folder.path.rename(target)
            trial.folder.path.symlink_to(target)
        return trials

    def test_every_reader_finds_them(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trials = self.link(folder)
        assert [trial.state for trial in study(folder).trials()] == ["finished"] * 2
        for place in (folder / "results", folder / "results" / "study"):
            found = load_results(place)
            assert sorted(Path(run).name for run in found.folders) == sorted(trial.name for trial in trials)
            assert found.problems == []
            records = load(place)
            assert len(records.runs) == 2
            assert records.problems == []
        code, output = run(capsys, monkeypatch, "results", str(folder / "results"))
        assert code == 0
        assert {"0.1", "0.2"} <= set(output.split())

    def test_loops_second_names_and_links_to_nothing(self, folder: Path) -> None:
        self.link(folder)
        top = folder / "results" / "study"
        (top / "again").symlink_to(top)
        second = top / "zz-second"
        second.symlink_to(folder / "scratch" / study(folder).trials()[0].name)
        (top / "zz-gone").symlink_to(folder / "gone")
        found = load_results(folder / "results")
        assert len(found.folders) == 2
        assert [problem.partition(" is ")[0] for problem in sorted(found.problems)] == [
            f"'{top / 'zz-gone'}'",
            f"'{second}'",
        ]
