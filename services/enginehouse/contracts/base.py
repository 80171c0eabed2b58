"""Base classes of data that crosses a boundary: one for data that people write, one for data that parts write."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Data written by people. Refuses an unknown field, which is most likely a misspelt one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WireModel(BaseModel):
    """Data written by one part and read by another, perhaps of another version. Ignores unknown fields."""

    model_config = ConfigDict(frozen=True, extra="ignore")
