"""How a study goes through its space: which points, which trials end early, how many at once."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from fedray.section import Section

Metric: TypeAlias = Literal["accuracy", "last_ten", "loss", "worst_class_accuracy", "rare_class_accuracy"]


class Search(Section):
    """The `search` section of a space. It decides which trials there are, never what a trial does."""

    metric: Metric = "accuracy"
    """What trials are compared by: a column of rounds.csv, or `last_ten`, the mean accuracy of the last
    ten evaluated rounds."""
    mode: Literal["max", "min"] | None = None
    """None is the metric's own: `min` for loss, else `max`."""
    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """`grid`: every combination, and drawn axes drawn `samples` times. `random`: `samples` points, every
    axis drawn. `optuna`: `samples` points that a TPE sampler proposes from the results so far."""
    samples: int = Field(1, ge=1)
    scheduler: Literal["none", "asha", "median", "pbt"] = "none"
    """`asha`: successive halving. `median`: stop what is worse than the median of the others. `pbt`:
    the worst quarter goes on from the best quarter's weights, with `mutations` of its fields."""
    grace: int = Field(5, ge=1)
    """Rounds before a scheduler may stop a trial; between two exchanges of `pbt`."""
    reduction: int = Field(3, ge=2)
    """`asha` lets one trial in so many pass each rung."""
    mutations: dict[str, Annotated[tuple[float, ...], Field(min_length=2)]] | None = Field(None, validate_default=True)
    """For `pbt`: fields that may change between rounds, and the values they may take."""
    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Trials at once. `auto`: on CPUs one per core that a client takes, on GPUs as many as find room
    for an actor for each client of the cohort."""
    retries: int = Field(1, ge=0)
    """How often a failing trial is tried again. A spec that cannot be run is not tried again."""
    log_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where Tune also writes what trials report."""

    @field_validator("mutations")
    @classmethod
    def _are_for_pbt(cls, value: Mapping[str, tuple[float, ...]] | None, info: ValidationInfo) -> object:
        if bool(value) != (info.data.get("scheduler") == "pbt"):
            raise ValueError("must name what may change, such as {training.lr: [0.1, 0.01]}, and is for pbt alone")
        return value

    @property
    def better(self) -> Literal["max", "min"]:
        """Which way is better."""
        return self.mode or ("min" if self.metric == "loss" else "max")


class Searched(Section):
    """What of a space's file is not its base or its axes."""

    search: Search = Search()
