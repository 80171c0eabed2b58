"""A replay: inputs that an engine has answered, run once more on its version on trial, and a report of what changed."""

from pydantic import BaseModel, ConfigDict, Field

REPLAYED_MAX = 1_000
"""Most jobs of one replay."""


class ReplayRequest(BaseModel):
    """Body of POST /v1/engines/{engine}/replay."""

    model_config = ConfigDict(extra="forbid")

    last: int = Field(100, ge=1, le=REPLAYED_MAX, description="How many jobs, from the last that was accepted back.")
    tolerance: float = Field(1e-6, ge=0, le=1, description="Relative difference at which two numbers are the same.")
    max_seconds: int = Field(600, ge=1, le=3_600, description="After this time, the report tells how far it came.")


class ReplayProgress(BaseModel):
    """How far a replay is."""

    done: int
    of: int


class Difference(BaseModel):
    """A place at which two outputs differ."""

    path: str = Field(description="Where, such as `scores[2].label`; empty: the whole output.")
    then: str | None = Field(description="JSON of the active version's value, cut at 200 characters. None: nothing.")
    now: str | None


class Example(BaseModel):
    """A job that the two versions answered differently."""

    job: str | None = Field(description="Id of the replayed job. None: it is another tenant's.")
    then: str = Field(description="`succeeded`, or the code of the error.")
    now: str
    differences: list[Difference] = []


class Times(BaseModel):
    """Seconds at the engine, over the jobs that both versions answered."""

    p50: float | None = None
    p95: float | None = None


class Side(BaseModel):
    """How one version did."""

    version: str | None
    succeeded: int = 0
    errors: dict[str, int] = Field(default_factory=dict, description="Failed jobs, by the code of the error.")
    predict_seconds: Times = Times()


class ReplayReport(BaseModel):
    """What changes if the version on trial is promoted, as far as the replayed jobs show it."""

    engine: str
    passed: bool = Field(description="Whether all were replayed and nothing differs for the worse.")
    wanted: int = Field(description="Number of jobs whose input is kept, of the last ones asked for.")
    replayed: int
    same: int
    outputs_differ: int
    newly_failed: int = Field(description="Failed now, and had succeeded or had failed with another code.")
    newly_succeeded: int
    stopped: str | None = Field(None, description="Why not all were replayed.")
    then: Side
    now: Side
    examples: list[Example]
