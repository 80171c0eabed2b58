"""The engine as the runner sees it, for every protocol: the calls it takes and the replies it may give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from enginehouse.runner.clock import Clock
from enginehouse.runner.outcome import Failed, HandedBack, Rejected, Succeeded
from enginehouse.runner.schema import Description


@dataclass(frozen=True, slots=True)
class Prediction:
    """One job, as it is sent to the engine."""

    job_id: str
    data: Any
    parameters: dict[str, Any] | None = None
    data_json: bytes | None = None
    """The input as JSON text, which is sent instead of `data`: for an input too large to be parsed."""
    output_max_bytes: int | None = None
    """Largest answer that this job can keep. None: as much as fits a record."""
    traceparent: str | None = None
    on_line: Callable[[dict[str, Any]], None] | None = None
    """Called with each line that the engine streams before its result."""
    clock: Clock | None = None
    """Runs while the call does. A client that lets the call wait for others holds it until the call goes out."""
    tenant: str = ""
    """Whose job it is: the costly answers of one tenant are read one after the other."""
    alone: bool = False
    """Whether this job must not share a call with others: it failed before, and might make them fail."""


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
"""`HandedBack`: the client did not let the call begin, or could not read the answer on a busy machine."""


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a health check."""

    ok: bool
    answered: bool = True
    """False if a connection was made and no answer came in time: the engine is busy or hangs. A refusal is an answer."""
    fault: str | None = None
    """What is wrong and what would be right, if it is not `ok`."""
    in_hand: int | None = None
    """Number of calls that the engine says it works on (`in_hand` of a JSON answer). None if it does not say."""
    abandoned: int = 0
    """Number of threads that the engine says still work on calls that were given up (`abandoned`)."""
    concurrency: int | None = None
    """Number of calls that the engine says it works on at once (`concurrency`). None if it does not say."""


class EngineClient(Protocol):
    """One engine replica. No call raises because of the engine. Cancelling a call closes its connection."""

    @property
    def address(self) -> str:
        """`host:port`, for logs and restarts."""

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in its own words; None if it says nothing."""

    async def predict(self, prediction: Prediction) -> Reply:
        """Run one job. The call has no deadline of its own: the caller keeps the execution clock.

        Once an answer has arrived, a client that takes long to read it holds the clock: the engine has done its part.
        """

    async def cancel(self, job_id: str) -> bool:
        """Tell the engine that nobody waits for this job any more; return whether it says that it stopped."""

    async def health(self) -> Health:
        """Ask whether the model is loaded."""

    async def describe(self) -> Description:
        """Return what the engine says of itself; raise Unavailable if it cannot be asked now."""

    async def close(self) -> None:
        """Close the connections."""


class BatchClient(EngineClient, Protocol):
    """One engine replica that may take several jobs in one call."""

    async def predict_batch(self, predictions: Sequence[Prediction]) -> Reply | list[Reply]:
        """Run several jobs, each with its input as JSON text, all with the same parameters.

        Return a reply for each job, in their order, or a single reply if the call as a whole failed.
        """
