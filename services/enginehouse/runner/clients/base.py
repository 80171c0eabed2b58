"""What the runner asks of an engine, whatever protocol it speaks, and what it may hear back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from enginehouse.runner.clock import Clock
from enginehouse.runner.outcome import Failed, HandedBack, Rejected, Succeeded


@dataclass(frozen=True, slots=True)
class Prediction:
    """One job as its engine is to see it."""

    job_id: str
    data: Any
    parameters: dict[str, Any] | None = None
    data_json: bytes | None = None
    """Instead of `data`: the input as JSON text, for an input too large to be taken apart."""
    output_max_bytes: int | None = None
    """Largest answer that this job can keep; None: as much as fits a record."""
    traceparent: str | None = None
    on_line: Callable[[dict[str, Any]], None] | None = None
    """Called with each line that the engine streams before its result."""
    clock: Clock | None = None
    """Runs while the call does; a client that lets it wait for others holds the clock meanwhile."""
    alone: bool = False
    """Never to share a call with other jobs: it failed before, and might take them along."""


@dataclass(frozen=True, slots=True)
class Busy:
    """The engine has no room at present and asks to be called again."""

    retry_after_seconds: float


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No connection could be made: the engine has not seen the job."""

    message: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection ended before the answer was complete: the engine may have died of the job."""

    message: str


Reply = Succeeded | Rejected | Failed | Busy | Unreachable | Closed | HandedBack
"""`HandedBack`: the client did not let the call begin."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a health check said."""

    ok: bool
    answered: bool = True
    """False: a connection was made, and then nothing came in time: busy or hung. A refusal counts as an answer."""
    in_hand: int | None = None
    """Calls that the engine says it works on, if it says (`in_hand` of a JSON answer)."""


class EngineClient(Protocol):
    """One engine replica. No call raises for what an engine does; cancelling a call closes its connection."""

    @property
    def address(self) -> str:
        """`host:port`, for logs and restarts."""

    async def predict(self, prediction: Prediction) -> Reply:
        """Run one job. Has no deadline of its own: the execution clock is the caller's."""

    async def cancel(self, job_id: str) -> bool:
        """Tell the engine that nobody waits for this job any more; whether it says that it stopped."""

    async def health(self) -> Health:
        """Whether the model is loaded."""

    async def openapi(self) -> Mapping[str, Any] | None:
        """The engine's own description, None if it has none. Unavailable when it cannot be asked at present."""

    async def close(self) -> None:
        """Let go of its connections."""


class BatchClient(EngineClient, Protocol):
    """One engine replica that may take several jobs in one call."""

    async def predict_batch(self, predictions: Sequence[Prediction]) -> Reply | list[Reply]:
        """Run several jobs, each with its input as JSON text, all with the same parameters.

        A reply for each, in their order; a single one where the call as a whole came to nothing.
        """
