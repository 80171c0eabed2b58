"""A job as its sender asks for it. Imports little, because processes that check bodies import it at their start."""

from typing import NamedTuple

from enginehouse.contracts.errors import InputTooLarge
from enginehouse.contracts.events import RequestingEvent
from enginehouse.contracts.job import PARAMETERS_MAX_BYTES, JobRequest
from enginehouse.contracts.json_text import wire_json


class RequestedJob(NamedTuple):
    """A job as a body or an event asks for it: a submission without its sender."""

    engine: str
    """The engine's name, with or without its tenant. Empty: the tenant's default engine."""
    request: JobRequest
    input_json: bytes | None = None
    """The input of a large body as checked JSON text. It then stands here instead of in the request."""
    event_identity: str | None = None
    """For events: what their source and id have become. The same identity of a tenant is the same job."""
    traceparent: str | None = None
    correlation_id: str | None = None
    event: RequestingEvent | None = None
    """For events: the names of the event, which its answer repeats."""


def check_parameters(request: JobRequest) -> None:
    """Raise RequestError if the parameters cannot travel in the message."""
    if request.parameters is None:
        return
    size = len(wire_json("parameters", request.parameters))
    if size > PARAMETERS_MAX_BYTES:
        raise InputTooLarge(
            f"parameters have {size} bytes as JSON; {PARAMETERS_MAX_BYTES} are allowed. What is larger is part of the input"
        )
