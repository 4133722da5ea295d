"""fedray: federated learning with foundation-model distillation, on Ray.

finished = fedray.run(experiment, "results/mine")
print(finished.rounds, finished.weights)
fedray.sweep(fedray.Study(fedray.read("space.yaml"), "results"))
fedray.load_results("results/mine").rounds
"""

import importlib
from typing import TYPE_CHECKING

from fedray.import_path import move_job_folders_last

if TYPE_CHECKING:
    from fedray.aggregation.aggregators import Aggregator
    from fedray.aggregation.messages import Aggregate
    from fedray.aggregation.server_optimizers import ServerOptimizer
    from fedray.config.experiment import Checkpoint, Experiment, Resources
    from fedray.config.loader import load, read
    from fedray.data.dataset import Dataset
    from fedray.data.federated import FederatedDataset
    from fedray.data.partition import Partition
    from fedray.data.request import ReadRequest
    from fedray.data.sections import Data
    from fedray.errors import RunError, SpecError
    from fedray.losses.distillation import Distillation
    from fedray.losses.terms import LossInputs
    from fedray.models.proxies import Proxy
    from fedray.results.loader import load_results
    from fedray.strategies.base import RoundInfo, Strategy
    from fedray.study.finished_run import FinishedRun, run
    from fedray.study.session import rounds
    from fedray.study.study import Study
    from fedray.study.tune.sweep import sweep
    from fedray.teachers.sections import TeacherSection
    from fedray.teachers.teacher import Teacher
    from fedray.training.context import ClientContext, ClientResult, ClientStart
    from fedray.training.sections import SGD, Evaluation, Training
    from fedray.types import ImageShape, Indices, LossTerm, Message, ParameterInfo, RoundResult, ServerState

__all__ = [
    "SGD",
    "Aggregate",
    "Aggregator",
    "Checkpoint",
    "ClientContext",
    "ClientResult",
    "ClientStart",
    "Data",
    "Dataset",
    "Distillation",
    "Evaluation",
    "Experiment",
    "FederatedDataset",
    "FinishedRun",
    "ImageShape",
    "Indices",
    "LossInputs",
    "LossTerm",
    "Message",
    "ParameterInfo",
    "Partition",
    "Proxy",
    "ReadRequest",
    "Resources",
    "RoundInfo",
    "RoundResult",
    "RunError",
    "ServerOptimizer",
    "ServerState",
    "SpecError",
    "Strategy",
    "Study",
    "Teacher",
    "TeacherSection",
    "Training",
    "load",
    "load_results",
    "read",
    "rounds",
    "run",
    "sweep",
]

move_job_folders_last()

_MODULES = {
    "Aggregate": "fedray.aggregation.messages",
    "Aggregator": "fedray.aggregation.aggregators",
    "Checkpoint": "fedray.config.experiment",
    "ClientContext": "fedray.training.context",
    "ClientResult": "fedray.training.context",
    "ClientStart": "fedray.training.context",
    "Data": "fedray.data.sections",
    "Dataset": "fedray.data.dataset",
    "Distillation": "fedray.losses.distillation",
    "Evaluation": "fedray.training.sections",
    "Experiment": "fedray.config.experiment",
    "FederatedDataset": "fedray.data.federated",
    "FinishedRun": "fedray.study.finished_run",
    "ImageShape": "fedray.types",
    "Indices": "fedray.types",
    "LossInputs": "fedray.losses.terms",
    "LossTerm": "fedray.types",
    "Message": "fedray.types",
    "ParameterInfo": "fedray.types",
    "Partition": "fedray.data.partition",
    "Proxy": "fedray.models.proxies",
    "ReadRequest": "fedray.data.request",
    "Resources": "fedray.config.experiment",
    "RoundInfo": "fedray.strategies.base",
    "RoundResult": "fedray.types",
    "RunError": "fedray.errors",
    "SGD": "fedray.training.sections",
    "ServerOptimizer": "fedray.aggregation.server_optimizers",
    "ServerState": "fedray.types",
    "SpecError": "fedray.errors",
    "Strategy": "fedray.strategies.base",
    "Study": "fedray.study.study",
    "Teacher": "fedray.teachers.teacher",
    "TeacherSection": "fedray.teachers.sections",
    "Training": "fedray.training.sections",
    "load": "fedray.config.loader",
    "load_results": "fedray.results.loader",
    "read": "fedray.config.loader",
    "rounds": "fedray.study.session",
    "run": "fedray.study.finished_run",
    "sweep": "fedray.study.tune.sweep",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use, so that `fedray --help` and workers import only the modules they need."""
    if name not in _MODULES:
        raise AttributeError(f"module 'fedray' has no attribute '{name}'")
    return vars(importlib.import_module(_MODULES[name]))[name]
