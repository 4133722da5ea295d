"""The base class of all sections of a spec."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One section of an experiment's YAML. Instances are frozen; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
