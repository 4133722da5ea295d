"""Command-line overrides of fields and axes."""

from pathlib import Path

import pytest
from helpers.specs import README_EXAMPLE, SPACE, write_spec

from fedray.config.loader import load
from fedray.errors import SpecError


def test_override_sets_a_dotted_field_to_a_yaml_value(tmp_path: Path) -> None:
    (run,) = load(
        write_spec(tmp_path, README_EXAMPLE),
        ["strategy.lam=0.25", "seed=7", "training.optimizer.lr=1e-3", "data.train_limit=null"],
    )
    assert (run.experiment.seed, run.experiment.training.optimizer.lr) == (7, 0.001)
    assert run.experiment.strategy.model_dump()["lam"] == 0.25


def test_new_kind_drops_fields_that_it_lacks(tmp_path: Path) -> None:
    (run,) = load(
        write_spec(tmp_path, README_EXAMPLE), ["strategy.name=fedprox", "strategy.mu=0.5", "partition.kind=iid"]
    )
    assert run.experiment.strategy.model_dump() == {
        "name": "fedprox",
        "weighting": "examples",
        "distillation": None,
        "mu": 0.5,
    }
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


def test_overrides_do_not_depend_on_their_order(tmp_path: Path) -> None:
    """Setting `strategy` or its name after a field of it used to drop the field."""
    for overrides in (
        ["strategy.mu=0.1", "strategy={name: fedprox}"],
        ["strategy.mu=0.1", "strategy.name=fedprox"],
        ["strategy.name=fedprox", "strategy.mu=1e-1"],
    ):
        (run,) = load(write_spec(tmp_path, "seed: 1"), overrides)
        assert run.experiment.strategy.model_dump() == {
            "name": "fedprox",
            "weighting": "examples",
            "distillation": None,
            "mu": 0.1,
        }
    with pytest.raises(SpecError, match=r"unknown field 'strategy\.lam'"):
        load(write_spec(tmp_path, "seed: 1"), ["strategy.lam=0.5", "strategy.name=fedavg"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=" + "[" * 100_000, "it has more than 50 levels"),
        ("seed=!!int abc", "'abc' is not a valid int"),
        ("seed=" + "7" * 5_000, "more than 300 digits"),
        ("training={optimizer: {lr: 1, lr: 2}}", "the key 'lr' is given twice"),
        ("seed=&a [*a]", "an alias stands inside its own anchor"),
    ],
    ids=lambda text: text[:12],
)
def test_invalid_override_is_one_sentence(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(write_spec(tmp_path, "seed: 1"), [override])
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 250


def test_field_set_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"'seed' is set twice, to 1 and to 2\."):
        load(write_spec(tmp_path, "seed: 1"), ["seed=1", "seed=2"])
