"""The evaluation of each client's own model, against a plain computation from the checkpoint."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import algorithms, federated
from helpers.algorithms import NORM, SHAPE, Run

from fedray.config.experiment import Experiment
from fedray.models.proxies import build
from fedray.types import Weights


def spec(name: str, rounds: int = 2) -> Experiment:
    """Two rounds, after which client 5 has not trained."""
    return algorithms.experiment({"name": name}, proxy=NORM, data={"test_limit": 60}, training={"rounds": rounds})


def predictions(run: Run, weights: Weights) -> np.ndarray:
    """The predicted class of each test image."""
    data = federated.load(run.experiment)
    model = build(run.experiment.proxy, SHAPE).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    with torch.no_grad():
        return model((torch.from_numpy(data.test.images) / 255 - mean) / std).argmax(1).numpy()


@pytest.mark.parametrize("name", ["fedbn", "local", "fedavg", "centralized"])
def test_metrics_of_clients_equal_a_second_implementation(tmp_path: Path, name: str) -> None:
    run = algorithms.run(spec(name), tmp_path)
    data = federated.load(run.experiment)
    labels, own, whole, recalls = data.test.labels, [], [], []
    assert 5 not in run.state_rounds
    for client, shard in enumerate(data.shards):
        local = run.client_state(client)["local"] if client in run.state_rounds else {}
        correct = predictions(run, {**run.state.weights, **local}) == labels
        recalls.append([correct[labels == label].mean() for label in range(10)])
        whole.append(correct.mean())
        held = data.train.labels[shard].tolist()
        own.append(sum(recalls[-1][label] for label in held) / len(held))
    table = pd.read_csv(tmp_path / "client_accuracy.csv").query("round == 2")
    assert table["client"].tolist() == list(range(6))
    np.testing.assert_allclose(table["test_accuracy"], own, rtol=1e-12)
    row = pd.read_csv(tmp_path / "rounds.csv").iloc[-1]
    expected = {
        "client_accuracy": np.mean(own), "client_accuracy_std": np.std(own), "client_accuracy_worst_tenth": min(own),
        "test_accuracy": np.mean(whole), "worst_class_accuracy": np.min(np.mean(recalls, axis=0)),
    }  # fmt: skip
    assert row[list(expected)].to_dict() == pytest.approx(expected, rel=1e-12)
    is_personal = name in ("fedbn", "local")
    assert row["evaluated_model"] == ("client" if is_personal else "global")
    assert (len(set(whole)) > 1) == is_personal
    confusion = pd.read_csv(tmp_path / "confusion-proxy.csv")
    assert confusion["examples"].sum() == 60 * (6 if is_personal else 1)
    right = confusion.query("`class` == predicted_class")["examples"].sum()
    assert right / confusion["examples"].sum() == pytest.approx(row["test_accuracy"])


def test_rounds_without_evaluation_have_no_metrics_of_clients(tmp_path: Path) -> None:
    experiment = spec("local", rounds=3)
    experiment = Experiment.model_validate({**experiment.model_dump(), "evaluation": {"every": 2}})
    algorithms.run(experiment, tmp_path)
    rounds = pd.read_csv(tmp_path / "rounds.csv")
    for column in ("client_accuracy", "evaluated_model"):
        assert rounds[column].isna().tolist() == [True, False, False]
    assert pd.read_csv(tmp_path / "client_accuracy.csv")["round"].tolist() == [2] * 6 + [3] * 6
