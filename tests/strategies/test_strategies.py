"""Objectives and properties of the strategies, and values that they refuse."""

import pytest
from pydantic import TypeAdapter, ValidationError

from fedray.strategies import AnyStrategy
from fedray.strategies.base import Strategy
from fedray.types import LossTerm

ADAPTER: TypeAdapter[Strategy] = TypeAdapter(AnyStrategy)


def strategy(**fields: object) -> Strategy:
    return ADAPTER.validate_python(fields)


def test_fedavg_minimises_cross_entropy_weighted_by_examples() -> None:
    assert strategy(name="fedavg").objectives() == {"proxy": [LossTerm("cross_entropy", 1.0)]}
    assert strategy(name="fedavg").weighting == "examples"
    assert strategy(name="fedavg", weighting="uniform").weighting == "uniform"


def test_fedprox_adds_mu_times_the_proximal_term() -> None:
    assert strategy(name="fedprox", mu=0.3).objectives() == {
        "proxy": [LossTerm("cross_entropy"), LossTerm("proximal", 0.3)]
    }


def test_fml_has_the_published_defaults() -> None:
    fml = strategy(name="fml")
    half = [LossTerm("cross_entropy", 0.5), LossTerm("mutual", 0.5)]
    assert fml.objectives() == {"proxy": half, "private": half}
    assert fml.weighting == "uniform"


def test_fml_weights_proxy_by_beta_and_private_model_by_alpha() -> None:
    objectives = strategy(name="fml", alpha=0.25, beta=0.75).objectives()
    assert objectives["proxy"] == [LossTerm("cross_entropy", 0.75), LossTerm("mutual", 0.25)]
    assert objectives["private"] == [LossTerm("cross_entropy", 0.25), LossTerm("mutual", 0.75)]


@pytest.mark.parametrize(
    ("balance", "lam", "label_weight"),
    [("convex", 0.25, 0.75), ("convex", 1.0, 0.0), ("additive", 0.25, 1.0), ("additive", 3, 1)],
)
def test_fedlpfm_balances_cross_entropy_and_distillation(balance: str, lam: float, label_weight: float) -> None:
    terms = strategy(name="fedlpfm", balance=balance, lam=lam, temperature=2).objectives()["proxy"]
    assert list(terms) == [
        LossTerm("cross_entropy", label_weight),
        LossTerm("kd", lam, {"temperature": 2.0, "direction": "forward"}),
    ]


def test_fedlpfm_accepts_another_distillation_loss() -> None:
    fedlpfm = strategy(name="fedlpfm", temperature=4, loss={"name": "dkd", "beta": 2})
    assert fedlpfm.objectives()["proxy"][1] == LossTerm("dkd", 0.5, {"temperature": 4.0, "alpha": 1.0, "beta": 2.0})
    assert fedlpfm.needs_teacher


def test_terms_without_weight_are_not_computed() -> None:
    assert strategy(name="fedlpfm", lam=0.0).active_objectives() == strategy(name="fedavg").active_objectives()
    assert strategy(name="fedlpfm", lam=1.0).active_objectives()["proxy"] == [
        LossTerm("kd", 1.0, {"temperature": 1.0, "direction": "forward"})
    ]


def test_only_distillation_needs_a_teacher() -> None:
    names = [s for s in ("fedavg", "fedprox", "fml", "fedlpfm") if strategy(name=s).needs_teacher]
    assert names == ["fedlpfm"]
    assert not strategy(name="fedlpfm", lam=0.0).needs_teacher


MATCHING = {"name": "fedlpfm", "lam": 1, "loss": {"name": "function_matching"}}


@pytest.mark.parametrize(
    ("fields", "required_outputs", "client_model", "mixup", "proxy_view"),
    [
        ({"name": "fedavg"}, set(), None, 0, False),
        ({"name": "fedprox"}, set(), None, 0, False),
        ({"name": "fml"}, set(), "private", 0, False),
        ({"name": "fml", "alpha": 1, "beta": 1}, set(), "private", 0, False),
        ({"name": "fedlpfm"}, {"logits"}, None, 0, False),
        ({"name": "fedlpfm", "lam": 1}, {"logits"}, None, 0, False),
        ({"name": "fedlpfm", "lam": 0}, set(), None, 0, False),
        *(
            ({"name": "fedlpfm", "loss": {"name": loss}}, {"logits"}, None, 0, False)
            for loss in ("kd", "ls_kd", "dkd", "dist", "rld", "mse")
        ),
        ({"name": "fedlpfm", "loss": {"name": "cosine"}}, {"features"}, "projection", 0, False),
        ({"name": "fedlpfm", "loss": {"name": "feature_mse"}}, {"features"}, "projection", 0, False),
        ({"name": "fedlpfm", "lam": 0, "loss": {"name": "cosine"}}, set(), None, 0, False),
        ({"name": "fedlpfm", "balance": "additive", "loss": {"name": "cosine"}}, {"features"}, "projection", 0, False),
        (MATCHING, {"logits"}, None, 1, True),
        ({**MATCHING, "loss": {"name": "function_matching", "mixup": 0.2}}, {"logits"}, None, 0.2, True),
        ({**MATCHING, "loss": {"name": "function_matching", "mixup": 0}}, {"logits"}, None, 0, True),
    ],
    ids=str,
)
def test_properties_follow_from_the_active_objectives(
    fields: dict[str, object], required_outputs: set[str], client_model: str | None, mixup: float, proxy_view: bool
) -> None:
    found = strategy(**fields)
    assert found.required_outputs == required_outputs
    assert found.needs_teacher == bool(required_outputs)
    assert found.client_model == client_model
    assert found.mixup == mixup
    assert found.proxy_view == proxy_view


def test_function_matching_is_forward_kd_alone() -> None:
    assert strategy(**MATCHING, temperature=2).active_objectives() == {
        "proxy": [LossTerm("function_matching", 1.0, {"temperature": 2.0})]
    }


@pytest.mark.parametrize(
    "change", [{"lam": 0.5}, {"lam": 0}, {"balance": "additive"}, {"balance": "additive", "lam": 2}]
)
def test_function_matching_refuses_a_cross_entropy_term(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"uses no labels.* set strategy.lam: 1"):
        strategy(**{**MATCHING, **change})


def test_function_matching_refuses_the_default_lam() -> None:
    with pytest.raises(ValidationError, match="uses no labels"):
        strategy(name="fedlpfm", loss={"name": "function_matching"})


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "fedlpfm", "lam": 1.5},
        {"name": "fedlpfm", "lam": -0.1},
        {"name": "fedlpfm", "temperature": 0},
        {"name": "fedprox", "mu": -1},
        {"name": "fml", "alpha": 1.1},
        {"name": "fedavg", "lam": 0.5},
        {"name": "fedlpfm", "loss": {"name": "cosine", "mixup": 1}},
        {**MATCHING, "loss": {"name": "function_matching", "mixup": -1}},
    ],
)
def test_values_out_of_range_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        strategy(**fields)
