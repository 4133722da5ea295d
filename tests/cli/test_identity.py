"""The same command continues a run; other specs, data, code and threads are not mixed in."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import fedray
from analysis import records
from fedray.cli.main import main
from fedray.code_hash import code_hash
from fedray.config.loader import load
from fedray.results.environment import read_environment, write_environment
from fedray.results.run_folder import RunFolder

Run = Callable[..., tuple[str, str]]
SPEC = """
data: {train: "folder:images", test: "folder:images"}
partition: {kind: iid, clients: 2}
training: {rounds: 3, batch_size: 8}
resources: {backend: serial}
"""


@pytest.fixture
def fedray_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`fedray_main("run", "spec.yaml")` runs fedray, checks that it succeeds, and returns its output and errors."""
    monkeypatch.chdir(tmp_path)
    Path("spec.yaml").write_text(SPEC)
    for number in range(40):
        folder = Path("images") / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 5 * number).save(folder / f"{number}.png")

    def run(*arguments: str, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["fedray", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        output = capsys.readouterr()
        assert (stopped.value.code or 0) == code, output
        return output.out, output.err

    return run


def start(*overrides: str) -> None:
    """Run the first round, as a command does that is killed."""
    (planned,) = load("spec.yaml", overrides)
    rounds = fedray.rounds(planned.experiment, "results/spec")
    next(rounds)
    rounds.close()


def rounds_in(folder: str) -> list[str]:
    return [line.split(",")[0] for line in (Path(folder) / "rounds.csv").read_text().splitlines()[1:]]


def record_other_code(folder: str) -> None:
    document = read_environment(Path(folder))
    write_environment(Path(folder), document | {"identity": document["identity"] | {"code": ["0123456789"]}})


@pytest.mark.parametrize("option", [(), ("--resume",)])
def test_the_same_command_continues_an_unfinished_run(fedray_main: Run, option: tuple[str, ...]) -> None:
    start()
    fedray_main("run", "spec.yaml", "--quiet", *option)
    assert rounds_in("results/spec") == ["1", "2", "3"]
    assert "interrupted" in Path("results/spec/faults.csv").read_text()


def test_no_resume_refuses_to(fedray_main: Run) -> None:
    start()
    _, error = fedray_main("run", "spec.yaml", "--no-resume", code=2)
    expected = "fedray: 'results/spec' holds an unfinished run of this spec; leave out --no-resume to continue it.\n"
    assert error == expected


def test_another_spec_gets_a_folder_of_its_own(fedray_main: Run) -> None:
    start()
    _, errors = fedray_main("run", "spec.yaml", "training.optimizer.lr=0.5", "--quiet")
    (other,) = Path("results").glob("spec-*")
    assert "'results/spec' has results of another spec (training.optimizer.lr is 0.01 there and 0.5 here)" in errors
    assert f"this run is in '{other}'." in errors
    assert rounds_in(str(other)) == ["1", "2", "3"]
    assert not RunFolder(Path("results/spec")).finished
    before = (other / "rounds.csv").stat().st_mtime_ns
    fedray_main("run", "spec.yaml", "training.optimizer.lr=0.5", "--quiet")
    assert (other / "rounds.csv").stat().st_mtime_ns == before
    fedray_main("run", "spec.yaml", "--quiet")
    assert rounds_in("results/spec") == ["1", "2", "3"]


def test_other_data_are_refused_before_and_after_the_last_round(fedray_main: Run) -> None:
    start()
    image = Path("images/dog/1.png").read_bytes()
    Image.new("L", (8, 8), 250).save("images/dog/1.png")
    _, error = fedray_main("run", "spec.yaml", code=2)
    assert error == (
        "fedray: the unfinished run in 'results/spec' was started with other contents of data.train; restore them, or "
        "choose another --results.\n"
    )
    Path("images/dog/1.png").write_bytes(image)
    fedray_main("run", "spec.yaml", "--quiet")
    Path("images/cat/0.png").unlink()
    _, error = fedray_main("run", "spec.yaml", code=2)
    assert error.startswith("fedray: the finished run in 'results/spec' has results of other contents of data.train;")


def test_other_code_needs_its_option(fedray_main: Run) -> None:
    start()
    record_other_code("results/spec")
    _, error = fedray_main("run", "spec.yaml", code=2)
    assert error.count("\n") == 1
    assert "was started with other code (01234567, now " in error
    _, errors = fedray_main("run", "spec.yaml", "--allow-code-change")
    assert "fedray: warning: the run is continued with other code (01234567, now " in errors
    assert rounds_in("results/spec") == ["1", "2", "3"]


def test_other_threads_are_refused(fedray_main: Run) -> None:
    start()
    _, error = fedray_main("run", "spec.yaml", "resources.cpus_per_client=2", code=2)
    assert "was started with 1 threads per client, and resources.cpus_per_client now gives 2" in error


def test_results_and_report_show_mixed_code(fedray_main: Run) -> None:
    fedray_main("run", "spec.yaml", "--quiet")
    fedray_main("run", "spec.yaml", "seed=1", "--quiet", "--results", "results/more")
    assert "differ in code" not in fedray_main("results", "results")[0]
    record_other_code("results/spec")
    output, _ = fedray_main("results", "results")
    assert "the runs differ in code: " in output
    assert "01234567 (1 run)" in output
    assert any(problem.startswith("the runs differ in code: ") for problem in records.load("results").problems)


def test_trials_csv_has_the_identity_of_each_trial(fedray_main: Run) -> None:
    Path("space.yaml").write_text("base: spec.yaml\nspace: {seed: {grid: [0]}}\n")
    fedray_main("run", "space.yaml", "--quiet")
    study = fedray.Study(fedray.read("space.yaml"), "results")
    study.write_table(study.trials())
    (row,) = csv.DictReader(Path("results/space/trials.csv").read_text().splitlines())
    identity = study.trials()[0].folder.identity
    assert identity is not None
    assert row["code"] == code_hash()[:8]
    digests = [identity.contents[name].digest[:8] for name in ("data.train", "data.test")]
    assert [row["data"], row["device"], row["threads"]] == ["+".join(digests), "cpu", "1"]


def test_a_sweep_refuses_a_finished_trial_of_other_data(fedray_main: Run) -> None:
    space = "base: spec.yaml\nspace: {seed: {grid: [0, 1]}}\n"
    Path("space.yaml").write_text(space)
    study = fedray.Study(fedray.read("space.yaml"), "results")
    trial = study.trials()[0]
    trial.start()
    list(fedray.rounds(trial.experiment, trial.folder.path))
    Path("images/cat/0.png").unlink()
    _, error = fedray_main("sweep", "space.yaml", code=2)
    assert error == (
        f"fedray: the finished run in '{trial.folder.path}' has results of other contents of data.train; restore them, "
        "or choose another --results.\n"
    )
