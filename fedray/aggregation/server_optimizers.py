"""Server optimizers: the section `server` of a spec, and how the global model moves towards a round's target."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedray.aggregation.exact_mean import cast_like
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


class ServerAdam(ServerOptimizer):
    """FedAdam (Reddi et al., arXiv 2003.00295): m ← β₁m + (1 - β₁)Δ, v ← β₂v + (1 - β₂)Δ², w ← w + lr · m / (√v + τ).

    Δ is target - w. As in the paper there is no bias correction; m and v start at 0.
    """

    label: ClassVar[str] = "Adam"
    name: Literal["adam"] = "adam"
    lr: float = Field(0.01, gt=0)
    """Server learning rate."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay β₁ of the first moment."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Decay β₂ of the second moment."""
    tau: float = Field(1e-3, gt=0)
    """Degree of adaptivity τ, added to √v."""

    def update(self, delta: Weights, moments: ArrayGroups) -> tuple[Weights, ArrayGroups]:
        """Return lr · m / (√v + τ)."""
        zeros = {name: np.zeros_like(array) for name, array in delta.items()}
        first, second = moments.get("first", zeros), moments.get("second", zeros)
        first = {name: self.beta1 * first[name] + (1 - self.beta1) * d for name, d in delta.items()}
        second = {name: self.beta2 * second[name] + (1 - self.beta2) * d**2 for name, d in delta.items()}
        change = {name: self.lr * first[name] / (np.sqrt(second[name]) + self.tau) for name in delta}
        return change, {"first": first, "second": second}


SERVER_OPTIMIZERS: Registry[ServerOptimizer] = Registry(
    ServerOptimizer, "fedray.server_optimizers", (ServerSGD, ServerAdam)
)
"""The built-in server optimizers by name, and those of other packages."""

AnyServerOptimizer = Annotated[ServerOptimizer, SERVER_OPTIMIZERS]
