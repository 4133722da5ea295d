"""Server optimizers: the section `server` of a spec, and how the global model moves towards a round's target."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedray.aggregation.exact_mean import Floats, cast_like
from fedray.registry import Registry
from fedray.section import Section
from fedray.types import ArrayGroups, Weights


class ServerOptimizer(Section):
    """An optimizer whose gradient is w - target. It moves trained parameters only; buffers take the target's values."""

    label: ClassVar[str] = ""
    """Name in tables and figures; empty: the same as `name`."""
    name: str = ""
    lr: float = Field(1.0, gt=0)
    """Server learning rate."""

    @abstractmethod
    def update(self, delta: Weights, moments: ArrayGroups) -> tuple[Weights, ArrayGroups]:
        """Return the change of the trained parameters, and the new moments.

        `delta` is target - w in float64; `moments` are the groups that the last call returned, empty in round 1.
        """

    def step(
        self, weights: Weights, target: Weights, moments: ArrayGroups, trained: list[str]
    ) -> tuple[Weights, ArrayGroups]:
        """Return the new global model in the dtypes of `weights`, and the new moments.

        `target` is float64 and has the names of `weights`; `trained` are the names of the trained parameters.
        """
        change, moments = self.update({name: target[name] - weights[name] for name in trained}, moments)
        moved = {name: weights[name] + change[name] for name in trained}
        return cast_like({**target, **moved}, weights), moments


class ServerSGD(ServerOptimizer):
    """w ← w + lr · (target - w). With the default lr of 1 the global model is the target, as in FedAvg."""

    label: ClassVar[str] = "SGD"
    name: Literal["sgd"] = "sgd"

    def update(self, delta: Weights, moments: ArrayGroups) -> tuple[Weights, ArrayGroups]:
        """Return lr · delta."""
        return {name: self.lr * array for name, array in delta.items()}, moments

    def step(
        self, weights: Weights, target: Weights, moments: ArrayGroups, trained: list[str]
    ) -> tuple[Weights, ArrayGroups]:
        """Return the target itself if lr is 1, because w + (target - w) would be rounded twice."""
        if self.lr == 1:
            return cast_like(target, weights), moments
        return super().step(weights, target, moments, trained)


class AvgM(ServerOptimizer):
    """FedAvgM: server momentum, in the three forms that are published under this name.

    With Δ = target - w and v = 0 at first: `heavy_ball` v ← βv + Δ, w ← w + lr · v; `nesterov` (Hsu et al.,
    arXiv 1909.06335, and Flower) v ← βv + Δ, w ← w + lr · (Δ + βv); `ema` (FedDecorr) v ← βv + (1 - β)Δ,
    w ← w + lr · v.
    """

    label: ClassVar[str] = "AvgM"
    name: Literal["avgm"] = "avgm"
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum β."""
    form: Literal["heavy_ball", "nesterov", "ema"] = "heavy_ball"
    """Form of the momentum; each form is a different algorithm."""

    def update(self, delta: Weights, moments: ArrayGroups) -> tuple[Weights, ArrayGroups]:
        """Return lr · v, or lr · (Δ + βv) with Nesterov's form."""
        gain = 1 - self.momentum if self.form == "ema" else 1.0
        velocity = _decayed(moments.get("velocity"), self.momentum, delta, gain)
        step = _decayed(velocity, self.momentum, delta, 1.0) if self.form == "nesterov" else velocity
        return {name: self.lr * array for name, array in step.items()}, {"velocity": velocity}


class Adaptive(ServerOptimizer):
    """FedOpt (Reddi et al., arXiv 2003.00295): m ← β₁m + (1 - β₁)Δ, w ← w + lr · m / (√v + τ), with Δ = target - w.

    As in the paper there is no bias correction. m and v are 0 at first. Subclasses define the update of v from Δ².
    """

    lr: float = Field(0.01, gt=0)
    """Server learning rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay β₁ of the first moment m."""
    tau: float = Field(1e-3, gt=0)
    """Degree of adaptivity τ, added to √v."""

    @abstractmethod
    def second_moment(self, moment: Floats, square: Floats) -> Floats:
        """Return the new v from the old one and Δ²."""

    def update(self, delta: Weights, moments: ArrayGroups) -> tuple[Weights, ArrayGroups]:
        """Return lr · m / (√v + τ)."""
        old = moments.get("second") or {name: np.zeros_like(array) for name, array in delta.items()}
        first = _decayed(moments.get("first"), self.beta1, delta, 1 - self.beta1)
        second: Weights = {name: self.second_moment(old[name], np.square(d)) for name, d in delta.items()}
        change = {name: self.lr * first[name] / (np.sqrt(second[name]) + self.tau) for name in delta}
        return change, {"first": first, "second": second}


class ServerAdagrad(Adaptive):
    """FedAdagrad: v ← v + Δ²."""

    label: ClassVar[str] = "Adagrad"
    name: Literal["adagrad"] = "adagrad"
    beta1: float = Field(0.0, ge=0, lt=1)
    """Decay β₁ of the first moment m; 0 as in the paper."""

    def second_moment(self, moment: Floats, square: Floats) -> Floats:
        """Return v + Δ²."""
        return moment + square


class ServerAdam(Adaptive):
    """FedAdam: v ← β₂v + (1 - β₂)Δ²."""

    label: ClassVar[str] = "Adam"
    name: Literal["adam"] = "adam"
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay β₂ of the second moment v."""

    def second_moment(self, moment: Floats, square: Floats) -> Floats:
        """Return β₂v + (1 - β₂)Δ²."""
        return self.beta2 * moment + (1 - self.beta2) * square


class ServerYogi(Adaptive):
    """FedYogi: v ← v - (1 - β₂) · Δ² · sign(v - Δ²)."""

    label: ClassVar[str] = "Yogi"
    name: Literal["yogi"] = "yogi"
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay β₂ of the second moment v."""

    def second_moment(self, moment: Floats, square: Floats) -> Floats:
        """Return v - (1 - β₂) · Δ² · sign(v - Δ²)."""
        return moment - (1 - self.beta2) * square * np.sign(moment - square)


def _decayed(old: Weights | None, decay: float, delta: Weights, gain: float) -> Weights:
    """Return decay · old + gain · Δ; `old` is 0 if it is None."""
    return {name: gain * d + (decay * old[name] if old else 0.0) for name, d in delta.items()}


SERVER_OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    ServerOptimizer, "fedray.server_optimizers", (ServerSGD, AvgM, ServerAdagrad, ServerAdam, ServerYogi)
)
"""The built-in server optimizers by name, and those of other packages."""

AnyServerOptimizer = Annotated[ServerOptimizer, SERVER_OPTIMIZERS]
