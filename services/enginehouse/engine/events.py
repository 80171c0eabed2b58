"""Events that a `predict` may yield before its result."""

from dataclasses import asdict, dataclass
from typing import Any

from enginehouse.contracts.text import storable


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the prediction is: a fraction from 0 to 1, a message, or both."""

    fraction: float | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """A part of the result, or an early version of it."""

    partial: Any


@dataclass(frozen=True, slots=True)
class Log:
    """A line of text for readers who follow the job."""

    text: str


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with a name."""

    name: str
    value: float


Event = Progress | Output | Log | Metric
EVENTS = (Progress, Output, Log, Metric)


def as_line(event: Event) -> dict[str, Any]:
    """Return the event as it is sent: an object with one key, the kind of the event."""
    match event:
        case Progress():
            return {"progress": {name: value for name, value in asdict(event).items() if value is not None}}
        case Output(partial):
            return {"output": partial}
        case Log(text):
            return {"log": storable(text)}
        case Metric():
            return {"metric": asdict(event)}
