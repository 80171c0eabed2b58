"""Reads the jobs that upstream systems' CloudEvents ask for."""

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import pydantic_core
from cloudevents.core.base import BaseCloudEvent
from pydantic import ValidationError

from enginehouse.contracts.base import explain
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.events import JOB_REQUESTED
from enginehouse.contracts.job import JobRequest, RoutedJobRequest
from enginehouse.contracts.names import DEFAULT_ENGINE
from enginehouse.gateway.intake.bodies import BATCH_MAX, Jobs, each_job
from enginehouse.gateway.intake.event_reader import Header, binary_event, read_batch, read_structured
from enginehouse.gateway.intake.requested import RequestedJob

_ID_MAX_CHARS = 255
_DAPR_DEFAULT_TYPE = "com.dapr.event.sent"
_BODY_TYPES = frozenset({JOB_REQUESTED, _DAPR_DEFAULT_TYPE})
"""Types of events whose data is the body of POST /v1/jobs. The data of all other events is the input itself."""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def requested_by(event: BaseCloudEvent, *, hint: bool = True) -> RequestedJob:
    """Read the job that an event asks for. The same (source, id) of a tenant is the same job."""
    attributes = event.get_attributes()
    data = event.get_data()
    if isinstance(data, bytes | bytearray):
        data = base64.b64encode(data).decode()
    engine = attributes.get("engineid")
    if engine is not None and not _text(engine):
        # If this were ignored, the job would run on the default engine.
        raise RequestError("engineid must be non-empty text")
    request: JobRequest
    try:
        if event.get_type() in _BODY_TYPES:
            routed = RoutedJobRequest.model_validate(data)
            engine, request = engine or routed.engine, routed
        else:
            request = JobRequest(input=data)
    except ValidationError as error:
        raise RequestError(f"data: {explain(error, RoutedJobRequest if hint else None)}") from None
    # Source and id are joined as JSON, because a source may contain any separator.
    identity = hashlib.sha256(pydantic_core.to_json([event.get_source(), event.get_id()])).hexdigest()
    return RequestedJob(
        engine or DEFAULT_ENGINE,
        request,
        event_identity=identity,
        traceparent=valid_traceparent(attributes.get("traceparent")),
        correlation_id=_text(attributes.get("correlationid")) or event.get_id()[:_ID_MAX_CHARS],
    )


def job_of_event(body: bytes) -> RequestedJob:
    """Read the job that a structured event asks for; raise RequestError, naming the fault."""
    return requested_by(read_structured(body))


def job_of_binary_event(body: bytes, headers: Sequence[Header]) -> RequestedJob:
    """Read the job that an event asks for whose attributes are headers; raise RequestError, naming the fault."""
    return requested_by(binary_event(headers, body))


def jobs_of_events(body: bytes) -> Jobs:
    """Read the jobs that a batch of events asks for; raise RequestError if it is none."""

    def read(event: BaseCloudEvent | RequestError, hint: bool) -> RequestedJob:
        if isinstance(event, RequestError):
            raise event
        return requested_by(event, hint=hint)

    return each_job(read_batch(body, BATCH_MAX), read)


def cause_in(body: bytes) -> dict[str, str | None]:
    """Return what names a refused event to its sender, as far as it can be read."""
    try:
        envelope = pydantic_core.from_json(body)
        return {name: (_text(envelope.get(name)) or "")[:_ID_MAX_CHARS] or None for name in ("id", "source", "type")}
    except (ValueError, AttributeError):
        return {}
