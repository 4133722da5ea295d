"""The models that a worker trains for one client after another."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor, nn

from fedray.config.experiment import Experiment
from fedray.models import proxies
from fedray.models.fast_layers import use_fast_layers
from fedray.models.heads import FeatureTap, keep_head_float32
from fedray.models.precision import autocast, memory_format
from fedray.models.projection import Projected
from fedray.models.weights import get_weights, set_weights
from fedray.seeding import torch_rng
from fedray.strategies.fml import FML
from fedray.teachers.targets import CachedTargets, OnlineTargets
from fedray.training.context import ClientContext, ClientStart
from fedray.training.local_update import Trainer
from fedray.types import ImageShape, Weights

OPTIMIZER = "optimizer"
"""Group of a client's state with the moments of its optimizer."""

Targets: TypeAlias = CachedTargets | OnlineTargets | None


class ClientModels:
    """A proxy, and the other models that a strategy needs. Created once, loaded for each client.

    Others are a private model or a projection, which are trained, and frozen copies of the proxy.
    """

    def __init__(self, experiment: Experiment, shape: ImageShape, device: torch.device) -> None:
        self._experiment = experiment
        self._strategy = experiment.strategy
        self.shape = shape
        """Of the models' inputs. A proxy that reads features gets it with the first ones, before a model is built."""
        self._device = device
        self._models: dict[str, nn.Module] = {}
        self._trainers: dict[tuple[int, ...], Trainer] = {}

    def spec(self, name: str) -> proxies.Proxy:
        """Return the spec section of the model `proxy` or `private`, or of a frozen copy of the proxy."""
        if name == "private" and isinstance(self._strategy, FML) and self._strategy.private:
            return self._strategy.private
        return self._experiment.proxy

    def model(self, name: str) -> nn.Module:
        """Return the model `proxy` or `private`, or a frozen one, with the weights that were loaded last."""
        if name not in self._models:
            spec = self.spec(name).model_copy(update={"init": "random"})  # weights are loaded before each use
            model = keep_head_float32(proxies.build(spec, self.shape).to(self._device), self.shape.classes)
            if self._experiment.training.fast_layers:
                use_fast_layers(model)
            self._models[name] = model.to(memory_format=memory_format(self._experiment.training.memory_format))
        return self._models[name]

    def load(self, context: ClientContext, start: ClientStart, targets: Targets) -> list[Trainer]:
        """Load a client's weights and state, and its frozen models; return the trainer of each phase.

        A client without state starts from initial private weights of its own. A projection is as wide as the
        features in `targets`.
        """
        set_weights(self.model("proxy"), context.weights)
        for name in self._strategy.frozen_models:
            set_weights(self._frozen(name), start.frozen[name])
        client, state = context.client, context.state.get(self._strategy.client_model or "")
        if self._strategy.client_model == "private":
            set_weights(self.model("private"), state or self._initial_private_weights(client))
        models = self._trained_models(client, state, targets)
        trainers = [self._trainer(models, place) for place in range(len(self._strategy.phases()))]
        for place, trainer in enumerate(trainers):
            trainer.set_constants(start.constants)
            trainer.initial_moments = context.state.get(_moments_group(place), {})
        return trainers

    @contextmanager
    def freezing(self, names: Collection[str]) -> Iterator[None]:
        """Compute no gradients of these parameters of the proxy within the context."""
        parameters = self.model("proxy").named_parameters()
        frozen = [parameter for name, parameter in parameters if name in names and parameter.requires_grad]
        try:
            for parameter in frozen:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _trained_models(self, client: int, state: Weights | None, targets: Targets) -> dict[str, nn.Module]:
        """The models of the objectives, with the client's own projection if they need one."""
        if self._strategy.client_model != "projection":
            return {name: self.model(name) for name in self._strategy.active_objectives()}
        assert targets is not None, "a projection is trained towards a teacher's features"
        projected = self._projected  # created before seeding, because its initialisation also draws random numbers
        with torch_rng(None, self._experiment.seed, "projection", client):
            projection = projected.reset(targets.width)
        if state:
            set_weights(projection, state)
        return {"proxy": projected}

    def predictor(self, weights: Weights, normalize: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the proxy with these weights, in evaluation mode: logits [B, classes] of images uint8 [B, C, S, S]."""
        proxy, training = self.model("proxy").eval(), self._experiment.training
        set_weights(proxy, weights)
        layout = memory_format(training.memory_format)

        def predict(batch: Tensor) -> Tensor:
            with autocast(self._device, training.precision):
                logits: Tensor = proxy(normalize(batch).contiguous(memory_format=layout))
            return logits

        return predict

    def client_state(self, trainers: Sequence[Trainer]) -> dict[str, Weights]:
        """Return the groups that the client needs in its next round: the model that stays on it, kept moments."""
        kind, groups = self._strategy.client_model, dict[str, Weights]()
        if kind is not None:
            groups[kind] = get_weights(self.model("private") if kind == "private" else self._projected.projection)
        if self._experiment.training.optimizer.state == "kept":
            groups |= {_moments_group(place): trainer.moments() for place, trainer in enumerate(trainers)}
        return groups

    def _frozen(self, name: str) -> nn.Module:
        """Return a frozen copy of the proxy, in evaluation mode."""
        return self.model(f"frozen {name}").eval().requires_grad_(requires_grad=False)

    def _trainer(self, models: dict[str, nn.Module], place: int) -> Trainer:
        """The trainer of these parameters in a phase: a single one, unless projections differ in width."""
        parameters = place, *(id(parameter) for model in models.values() for parameter in model.parameters())
        if parameters not in self._trainers:
            phase = self._strategy.phases()[place]
            objectives = self._strategy.phase_objectives(phase)
            frozen = {name: self._frozen(name) for name in self._strategy.frozen_models}
            taps = self._taps if self._strategy.uses_features else {}
            self._trainers[parameters] = Trainer(
                {name: models[name] for name in objectives},
                objectives,
                phase.training(self._experiment.training),
                frozen=frozen,
                taps=taps,
            )
        return self._trainers[parameters]

    @cached_property
    def _taps(self) -> dict[str, FeatureTap]:
        """Taps of the features of the proxy and of the frozen models, by name."""
        models = {"proxy": self.model("proxy")} | {name: self._frozen(name) for name in self._strategy.frozen_models}
        return {name: FeatureTap(model, self.shape.classes) for name, model in models.items()}

    @cached_property
    def _projected(self) -> Projected:
        return Projected(self.model("proxy"), self.shape.classes)

    def _initial_private_weights(self, client: int) -> Weights:
        return get_weights(initial_model(self.spec("private"), self.shape, self._experiment.seed, "private", client))


def _moments_group(place: int) -> str:
    """The group of a client's state with the moments of a phase, numbered from 0."""
    return f"{OPTIMIZER} {place}" if place else OPTIMIZER


def initial_model(proxy: proxies.Proxy, shape: ImageShape, seed: int, *purpose: str | int) -> nn.Module:
    """Return a new model, initialised from the random stream (seed, purpose)."""
    with torch_rng(None, seed, *purpose):
        return proxies.build(proxy, shape)
