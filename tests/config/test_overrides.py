"""Command-line overrides of fields and axes."""

from pathlib import Path

from helpers.specs import README_EXAMPLE, SPACE, write_spec

from fedray.config.loader import load


def test_override_sets_a_dotted_field_to_a_yaml_value(tmp_path: Path) -> None:
    (run,) = load(
        write_spec(tmp_path, README_EXAMPLE),
        ["strategy.lam=0.25", "seed=7", "training.lr=1e-3", "data.train_limit=null"],
    )
    assert (run.experiment.seed, run.experiment.training.lr) == (7, 0.001)
    assert run.experiment.strategy.model_dump()["lam"] == 0.25


def test_new_kind_drops_fields_that_it_lacks(tmp_path: Path) -> None:
    (run,) = load(
        write_spec(tmp_path, README_EXAMPLE), ["strategy.name=fedprox", "strategy.mu=0.5", "partition.kind=iid"]
    )
    assert run.experiment.strategy.model_dump() == {"name": "fedprox", "weighting": "examples", "mu": 0.5}
    assert run.experiment.partition.model_dump() == {"kind": "iid", "clients": 10}


def test_new_loss_drops_parameters_that_it_lacks(tmp_path: Path) -> None:
    text = "strategy: {name: fedlpfm, loss: {name: dkd, alpha: 2, beta: 3}}\nteacher: {kind: zero_shot}"
    (run,) = load(write_spec(tmp_path, text), ["strategy.loss.name=dist"])
    assert run.experiment.strategy.model_dump()["loss"] == {"name": "dist", "beta": 3.0, "gamma": 1.0}


def test_override_adds_a_missing_section(tmp_path: Path) -> None:
    (run,) = load(write_spec(tmp_path, "seed: 1"), ["training.rounds=3"])
    assert run.experiment.training.rounds == 3


def test_override_fixes_an_axis(tmp_path: Path) -> None:
    space = SPACE.replace("training:", "partition: {kind: dirichlet}, training:")
    runs = load(write_spec(tmp_path, space), ["partition.alpha=0.3"])
    assert [run.label for run in runs] == ["strategy=fedavg, alpha=0.3", "strategy=fedlpfm lam=0.5, alpha=0.3"]
