"""The two kinds of data that cross a boundary, by who writes them."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Written by people: an unknown field is refused, since it is most likely a misspelt one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WireModel(BaseModel):
    """Written by one part and read by another, perhaps of another version: unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
