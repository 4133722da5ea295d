"""The data of an experiment, for tests."""

from fedray.config.experiment import Experiment
from fedray.data import federated
from fedray.data.federated import FederatedDataset


def load(experiment: Experiment) -> FederatedDataset:
    """Load the data of a whole experiment, divided among its clients."""
    return federated.load(experiment.data, experiment.partition, experiment.seed)
