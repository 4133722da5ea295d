"""The models that a worker trains for one client after another."""

from functools import cached_property
from typing import TypeAlias

import torch
from torch import nn

from fedray.config.experiment import Experiment
from fedray.models import proxies
from fedray.models.fast_layers import use_fast_layers
from fedray.models.heads import keep_head_float32
from fedray.models.precision import memory_format
from fedray.models.projection import Projected
from fedray.models.weights import get_weights, set_weights
from fedray.seeding import torch_rng
from fedray.strategies.fml import FML
from fedray.teachers.targets import CachedTargets, OnlineTargets
from fedray.training.local_update import Trainer
from fedray.types import ImageShape, Weights

Targets: TypeAlias = CachedTargets | OnlineTargets | None


class ClientModels:
    """A proxy, and a private model or a projection if the strategy has one. Created once, loaded for each client."""

    def __init__(self, experiment: Experiment, shape: ImageShape, device: torch.device) -> None:
        self._experiment = experiment
        self._strategy = experiment.strategy
        self._shape = shape
        self._device = device
        self._models: dict[str, nn.Module] = {}
        self._trainers: dict[tuple[int, ...], Trainer] = {}

    def spec(self, name: str) -> proxies.Proxy:
        """Return the spec section of the model `proxy` or `private`."""
        if name == "private" and isinstance(self._strategy, FML) and self._strategy.private:
            return self._strategy.private
        return self._experiment.proxy

    def model(self, name: str) -> nn.Module:
        """Return the model `proxy` or `private`, with the weights that were loaded last."""
        if name not in self._models:
            spec = self.spec(name).model_copy(update={"init": "random"})  # weights are loaded before each use
            model = keep_head_float32(proxies.build(spec, self._shape).to(self._device), self._shape.classes)
            if self._experiment.training.fast_layers:
                use_fast_layers(model)
            self._models[name] = model.to(memory_format=memory_format(self._experiment.training.memory_format))
        return self._models[name]

    def load(self, client: int, weights: Weights, state: Weights | None, targets: Targets) -> Trainer:
        """Load the global weights and the client's private weights; return the trainer of its models.

        A client without `state` starts from initial private weights of its own. A projection is as wide as the
        features in `targets`.
        """
        set_weights(self.model("proxy"), weights)
        seed = self._experiment.seed
        if self._strategy.client_model == "private":
            set_weights(self.model("private"), state or self._initial_private_weights(client))
        if self._strategy.client_model != "projection":
            return self._trainer({name: self.model(name) for name in self._strategy.active_objectives()})
        assert targets is not None, "a projection is trained towards a teacher's features"
        projected = self._projected  # created before seeding, because its initialisation also draws random numbers
        with torch_rng(None, seed, "projection", client):
            projection = projected.reset(targets.width)
        if state:
            set_weights(projection, state)
        return self._trainer({"proxy": projected})

    def client_state(self) -> Weights | None:
        """Return the private weights that the client needs in its next round, if it has any."""
        if self._strategy.client_model is None:
            return None
        return get_weights(
            self.model("private") if self._strategy.client_model == "private" else self._projected.projection
        )

    def _trainer(self, models: dict[str, nn.Module]) -> Trainer:
        """The trainer of these parameters: a single one, unless projections differ in width."""
        parameters = tuple(id(parameter) for model in models.values() for parameter in model.parameters())
        if parameters not in self._trainers:
            objectives = self._strategy.active_objectives()
            self._trainers[parameters] = Trainer(models, objectives, self._experiment.training)
        return self._trainers[parameters]

    @cached_property
    def _projected(self) -> Projected:
        return Projected(self.model("proxy"), self._shape.classes)

    def _initial_private_weights(self, client: int) -> Weights:
        return get_weights(initial_model(self.spec("private"), self._shape, self._experiment.seed, "private", client))


def initial_model(proxy: proxies.Proxy, shape: ImageShape, seed: int, *purpose: str | int) -> nn.Module:
    """Return a new model, initialised from the random stream (seed, purpose)."""
    with torch_rng(None, seed, *purpose):
        return proxies.build(proxy, shape)
