"""The strategies, by name. To add one: a file with its class, and the class in `AnyStrategy`."""

from typing import Annotated

from pydantic import Field

from fedray.strategies.base import Strategy
from fedray.strategies.fedavg import FedAvg
from fedray.strategies.fedlpfm import FedLPFM
from fedray.strategies.fedprox import FedProx
from fedray.strategies.fml import FML

AnyStrategy = Annotated[FedAvg | FedProx | FML | FedLPFM, Field(discriminator="name")]

STRATEGIES: dict[str, type[Strategy]] = {
    strategy.model_fields["name"].default: strategy for strategy in (FedAvg, FedProx, FML, FedLPFM)
}
"""The built-in strategies by name, in the order in which tables list them."""
