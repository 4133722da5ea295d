"""The base of every section of a spec: unknown keys are refused, values are fixed once read."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of an experiment's YAML. Frozen; unknown keys and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
