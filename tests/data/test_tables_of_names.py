"""A run's tables hold the names of classes and clients as the text that they are, and a run reports its warnings."""

import pandas as pd
import pytest
from helpers.images import write_folder

from fedray.config.experiment import Experiment
from fedray.results.loader import Results, load_results
from fedray.study.session import rounds as run
from fedray.types import RoundResult

NAMES = ["NA", "None", "a,b", "client", "examples", "nan"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RoundResult], Results]:
    """A run of two clients, called `NA` and `user 7`, on classes with odd names and a junk folder."""
    root = tmp_path_factory.mktemp("names")
    write_folder(root / "train", [*NAMES, "only train"], per_class=2)
    write_folder(root / "test", NAMES, per_class=1)
    (root / "train" / ".ipynb_checkpoints").mkdir()
    pd.DataFrame({"index": range(14), "client": ["user 7", "NA"] * 7}).to_csv(root / "split.csv", index=False)
    experiment = Experiment.model_validate(
        {
            "data": {"train": f"folder:{root}/train", "test": f"folder:{root}/test"},
            "partition": {"kind": "file", "file": str(root / "split.csv")},
            "training": {"rounds": 2, "batch_size": 4},
            "resources": {"backend": "serial"},
        }
    )
    return [*run(experiment, root / "run")], load_results(root / "run")


def test_class_names_stay_text(finished: tuple[list[RoundResult], Results]) -> None:
    _, results = finished
    assert results.classes["class_name"].tolist() == [*NAMES, "only train"] * 2
    assert results.partition["class_name"].tolist() == [*NAMES, "only train"] * 2


def test_clients_are_numbered_and_keep_their_labels(finished: tuple[list[RoundResult], Results]) -> None:
    _, results = finished
    clients = results.partition[["client", "client_label"]].drop_duplicates().to_numpy().tolist()
    assert clients == [[0, "NA"], [1, "user 7"]]


def test_first_round_reports_what_was_left_out(finished: tuple[list[RoundResult], Results]) -> None:
    (first, second), _ = finished
    (warning,) = first.warnings
    assert "hidden or system folders: 1 (.ipynb_checkpoints)" in warning
    assert "the class 'only train' is only in data.train, not in data.test" in warning
    assert warning.endswith(".")
    assert "\n" not in warning
    assert second.warnings == ()
