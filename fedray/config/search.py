"""The `search` section of a space: which trials a study runs, which stop early, how many run at once."""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, ValidationInfo, field_validator

from fedray.config.space import MAX_TRIALS
from fedray.section import Section

Metric: TypeAlias = Literal[
    "test_accuracy", "last_k_accuracy", "test_loss", "worst_class_accuracy", "rare_class_accuracy"
]


class Search(Section):
    """Decides which trials a study runs and when they stop; never the result of a trial."""

    metric: Metric = "test_accuracy"
    """Metric by which trials are compared: a column of rounds.csv, or `last_k_accuracy`, the mean test accuracy of the
    last k evaluated rounds (k is a fifth of them, from 1 to 10)."""
    mode: Literal["max", "min"] | None = None
    """Whether to maximise or minimise the metric; null means `min` for loss, else `max`."""
    algorithm: Literal["grid", "random", "optuna"] = "grid"
    """`grid`: every combination, with random axes drawn `samples` times. `random`: `samples` points, all axes
    drawn. `optuna`: `samples` points that a TPE sampler proposes from earlier results."""
    samples: int = Field(1, ge=1, le=MAX_TRIALS)
    """Number of random draws."""
    scheduler: Literal["none", "asha", "median", "pbt"] = "none"
    """`asha`: successive halving. `median`: stops a trial that is worse than the median of the others. `pbt`:
    the worst quarter resumes from the best quarter's weights, with fields changed as in `mutations`."""
    grace: int = Field(5, ge=1)
    """Rounds before a scheduler may stop a trial; for `pbt`, rounds between two exchanges."""
    reduction: int = Field(3, ge=2)
    """For `asha`: one of this many trials passes each rung."""
    mutations: dict[str, Annotated[tuple[float, ...], Field(min_length=2)]] | None = Field(None, validate_default=True)
    """For `pbt`: values to choose from, by field, for fields that may change between rounds."""
    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Number of trials that run at once. `auto`: on CPUs one per `cpus_per_client` cores, on GPUs as many as leave
    each trial the GPUs for all clients of its cohort."""
    retries: int = Field(1, ge=0)
    """Number of times to retry a failed trial; a trial with an invalid spec is not retried."""
    log_to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Loggers to which Tune also writes the trials' metrics."""

    @field_validator("mutations")
    @classmethod
    def _belong_to_pbt(cls, value: Mapping[str, tuple[float, ...]] | None, info: ValidationInfo) -> object:
        if bool(value) != (info.data.get("scheduler") == "pbt"):
            raise ValueError(
                "must be set for pbt, such as {training.optimizer.lr: [0.1, 0.01]}, and for no other scheduler"
            )
        return value

    @property
    def direction(self) -> Literal["max", "min"]:
        """Direction in which the metric improves."""
        return self.mode or ("min" if self.metric == "test_loss" else "max")
