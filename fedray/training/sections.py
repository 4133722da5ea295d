"""The spec sections of local training and of evaluation."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from fedray.section import Section
from fedray.training.schedules import AnySchedule, ConstantSchedule
from fedray.types import MemoryFormat, Precision

MomentState = Literal["reset", "kept"]


class SGD(Section):
    """SGD with momentum: v = momentum · v + g + weight_decay · w; w -= lr · v."""

    name: Literal["sgd"] = "sgd"
    lr: float = Field(0.01, gt=0)
    """Learning rate of the clients; `training.schedule` scales it."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum."""
    state: MomentState = "reset"
    """Momentum at the start of a round: `reset` to zero, or `kept` from the client's last round."""
    nesterov: bool = False
    """Nesterov's momentum: w -= lr · (g + weight_decay · w + momentum · v)."""
    weight_decay: float = Field(5e-4, ge=0)
    """L2 penalty, added to the gradient as weight_decay · weight."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> "SGD":
        if self.nesterov and not self.momentum:
            raise ValueError("must have momentum above 0 with nesterov: true")
        return self

    def gradient_weight(self, steps: int) -> float:
        """Return Σ aₛ, where aₛ is the weight of the gradient of step s in the change of a parameter, -lr · Σ aₛgₛ.

        This is FedNova's ‖a‖₁ (Wang et al., arXiv 2007.07481); without momentum it equals `steps`.
        """
        rho = self.momentum
        total = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
        return steps + rho * total if self.nesterov else total


Beta = Annotated[float, Field(ge=0, lt=1)]


class MomentOptimizer(Section):
    """The parameters that Adam and AdamW share."""

    model_config = ConfigDict(json_schema_extra={"required": ["name"]})
    name: str
    lr: float = Field(0.001, gt=0)
    """Learning rate of the clients; `training.schedule` scales it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of the mean of the gradient, and of the mean of its square."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the mean square."""
    state: MomentState = "reset"
    """Moments and count of steps at the start of a round: `reset` to zero, or `kept` from the client's last round."""


class Adam(MomentOptimizer):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    name: Literal["adam"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty, added to the gradient as weight_decay · weight."""


class AdamW(MomentOptimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: float = Field(0.01, ge=0)
    """Decay of the weights: each step first multiplies them by 1 - lr · weight_decay."""


AnyOptimizer = Annotated[SGD | Adam | AdamW, Field(discriminator="name")]


class Training(Section):
    """Rounds, and the training on each client."""

    rounds: int = Field(10, ge=1)
    """Number of rounds."""
    local_epochs: int | None = Field(1, ge=1)
    """Epochs that each client of the cohort trains per round; null with `local_steps`."""
    local_steps: int | None = Field(None, ge=1)
    """Steps that each client trains per round, in place of `local_epochs`. A client passes through its examples as
    often as needed, and its last epoch may end early."""
    batch_size: int = Field(64, ge=1)
    """Examples per step. A last batch of a single example is merged into the batch before it."""
    optimizer: AnyOptimizer = SGD()
    """The optimizer of the clients; `sgd` if it has no name."""
    schedule: AnySchedule = ConstantSchedule()
    """The learning rate of each round."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of a model's gradient over all its parameters; larger gradients are scaled down to it. null for
    no limit."""
    participation: float = Field(1.0, gt=0, le=1)
    """Share of the clients in each round's cohort; at least one client takes part."""
    memory_format: MemoryFormat = "channels_last"
    """Memory layout of images and weights: `channels_last` (NHWC) or `contiguous` (NCHW). The first is faster; results
    differ by rounding."""
    precision: Precision = "float32"
    """`bfloat16`: convolutions and matrix products run in bfloat16, about twice as fast on processors with bfloat16
    instructions and far slower on others. Weights, losses and the optimizer stay float32."""
    fast_layers: bool = True
    """Use faster layers for convolutions onto one pixel, depthwise convolutions and 2x2 max-pooling, as accurate as
    torch's. `false` uses torch's own layers everywhere."""
    failures: Literal["abort", "drop"] = "abort"
    """If a client fails: `abort` the run, or `drop` its update and continue."""
    min_cohort: int = Field(1, ge=1)
    """With `failures: drop`, the smallest number of updates with which a round may end."""
    deadline: float | None = Field(None, gt=0)
    """Seconds that a round's clients may train; null for no limit."""
    late: Literal["wait", "drop"] = "wait"
    """If a client misses the deadline: `wait` for its update and report it, or `drop` the update and continue.
    With `drop` results depend on the machine's speed: the same spec need not give the same bits."""

    @model_validator(mode="before")
    @classmethod
    def _epochs_or_steps(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            return data
        steps = data.get("local_steps")
        epochs = data.get("local_epochs", 1 if steps is None else None)
        if (epochs is None) == (steps is None):
            raise ValueError("must have either local_epochs or local_steps; set the other one to null")
        return data if steps is None else {**data, "local_epochs": None}

    @field_validator("optimizer", mode="before")
    @classmethod
    def _sgd_by_default(cls, optimizer: object) -> object:
        return {"name": "sgd", **optimizer} if isinstance(optimizer, Mapping) else optimizer

    @field_validator("schedule")
    @classmethod
    def _warm_up_ends(cls, schedule: AnySchedule, info: ValidationInfo) -> AnySchedule:
        if schedule.warm_up >= info.data.get("rounds", schedule.warm_up + 1):
            raise ValueError(f"warm_up must be below training.rounds, which is {info.data['rounds']}")
        return schedule

    def cohort_size(self, clients: int) -> int:
        """Return the number of clients in a round's cohort: the nearest whole number, at least one."""
        return max(1, round(self.participation * clients))

    def learning_rate(self, number: int) -> float:
        """Return the learning rate of a round, numbered from 1."""
        return self.optimizer.lr * self.schedule.factor(number, self.rounds)

    def steps_per_epoch(self, examples: int) -> int:
        """Return the number of batches of an epoch."""
        full, rest = divmod(examples, self.batch_size)
        is_merged = rest == 1 and full > 0  # see `split_batches`
        return full + (rest > 0 and not is_merged)

    def steps(self, examples: int) -> int:
        """Return the steps that a client trains per round."""
        return self.local_steps or self.steps_per_epoch(examples) * (self.local_epochs or 1)

    def epoch_count(self, examples: int) -> int:
        """Return the number of epochs of a client's round; the last may end early."""
        return self.local_epochs or -(-self.steps(examples) // self.steps_per_epoch(examples))

    def epochs(self, number: int, examples: int) -> range:
        """Return the epochs of a client's round, counted over all rounds, from 0. The last may end early."""
        count = self.epoch_count(examples)
        return range((number - 1) * count, number * count)

    def trained_examples(self, examples: int) -> int:
        """Return how many examples the steps of a client's round have in total."""
        full, rest = divmod(self.steps(examples), self.steps_per_epoch(examples))
        return full * examples + rest * self.batch_size


class Evaluation(Section):
    """Evaluation of the global proxy on the test set."""

    every: int = Field(1, ge=1)
    """Rounds from one evaluation to the next. The last round is always evaluated."""
    batch_size: int = Field(500, ge=1)
    """Images per forward pass."""
