"""The strategies, by name. To add one: a file with its class, and the class in `STRATEGIES`."""

from typing import Annotated

from fedray.registry import Registry
from fedray.strategies.base import Strategy
from fedray.strategies.centralized import Centralized
from fedray.strategies.fedavg import FedAvg
from fedray.strategies.fedbn import FedBN
from fedray.strategies.feddf import FedDF
from fedray.strategies.feddyn import FedDyn
from fedray.strategies.fedlpfm import FedLPFM
from fedray.strategies.fednova import FedNova
from fedray.strategies.fedntd import FedNTD
from fedray.strategies.fedprox import FedProx
from fedray.strategies.fedrep import FedRep
from fedray.strategies.fml import FML
from fedray.strategies.global_teacher import GlobalTeacher
from fedray.strategies.local import Local
from fedray.strategies.moon import Moon
from fedray.strategies.scaffold import Scaffold

STRATEGIES: Registry[Strategy] = Registry(
    Strategy,
    "fedray.strategies",
    (
        *(FedAvg, FedProx, FML, FedLPFM, Scaffold, FedNova, FedDyn, Moon, FedNTD, GlobalTeacher, FedDF),
        *(FedRep, FedBN, Local, Centralized),
    ),
)
"""The built-in strategies by name, in the order in which tables list them, and those of other packages."""

AnyStrategy = Annotated[Strategy, STRATEGIES]
