"""The strategies, by name. To add one: a short file, and its class in `AnyStrategy`."""

from typing import Annotated

from pydantic import Field

from fedray.strategies.fedavg import FedAvg
from fedray.strategies.fedlpfm import FedLPFM
from fedray.strategies.fedprox import FedProx
from fedray.strategies.fml import FML

AnyStrategy = Annotated[FedAvg | FedProx | FML | FedLPFM, Field(discriminator="name")]
