"""`check_strategy` on the built-in strategies, and on strategies that break a rule."""

from typing import ClassVar

import numpy as np
import pytest

from fedray.strategies import STRATEGIES
from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg
from fedray.strategies.scaffold import Scaffold
from fedray.testing import check_strategy
from fedray.training.context import ClientContext, ClientResult
from fedray.types import LossTerm


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_built_in_strategies_follow_the_rules(name: str) -> None:
    check_strategy(STRATEGIES[name]())


def test_scaffold_follows_the_rules() -> None:
    check_strategy(Scaffold())


class Forgetful(Scaffold):
    """Keeps its control variate in the process instead of the client's state."""

    variates: ClassVar[dict[int, object]] = {}

    def client_final(self, client: ClientContext) -> ClientResult:
        result = super().client_final(client)
        scale = 1 + len(self.variates)
        self.variates[len(self.variates)] = None
        arrays = {name: array / scale for name, array in result.state["control"].items()}
        return ClientResult(result.messages, {"control": arrays})


class Idle(FedAvg):
    """Sends the received weights back."""

    def client_final(self, client: ClientContext) -> ClientResult:
        return ClientResult({"weights": self.weights_message(client, client.received)})


class Headless(Strategy):
    """Has no objective for the proxy."""

    def objectives(self) -> dict[str, list[LossTerm]]:
        return {}


class Broken(FedAvg):
    """Sends a number that is not finite."""

    def client_final(self, client: ClientContext) -> ClientResult:
        arrays = {name: np.full_like(array, np.nan) for name, array in client.weights.items()}
        return ClientResult({"weights": self.weights_message(client, arrays)})


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [
        (Forgetful, "two runs of the same spec have different bits"),
        (Idle, "its weights do not change from round to round"),
        (Headless, "objectives.. has no loss terms for 'proxy'"),
    ],
)
def test_broken_rule_is_named(strategy: type[Strategy], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_strategy(strategy())


def test_errors_of_the_strategy_are_raised() -> None:
    with pytest.raises(Exception, match=r"its update was rejected: .* is not finite"):
        check_strategy(Broken())
