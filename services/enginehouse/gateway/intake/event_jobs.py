"""Reads the jobs that upstream systems' CloudEvents ask for."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic_core
from cloudevents.core.base import BaseCloudEvent
from pydantic import ValidationError

from enginehouse.contracts.base import explain
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.events import JOB_REQUESTED, RequestingEvent
from enginehouse.contracts.job import JobRequest, RoutedJobRequest
from enginehouse.gateway.intake.bodies import BATCH_MAX, Jobs, each_job
from enginehouse.gateway.intake.event_reader import Header, binary_event, read_batch, read_structured
from enginehouse.gateway.intake.requested import RequestedJob

_NAMES_MAX_CHARS = 2_048
"""Of an event that is refused, maybe because its attributes are too long."""
_READ_EXTENSIONS = frozenset({"engineid", "correlationid"})
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
            if not isinstance(data, dict):
                raise RequestError(
                    f'data must be the body of POST /v1/jobs, a JSON object such as {{"engine": …, "input": …}}, published '
                    f"as application/json; here its type is {str(event.get_datacontenttype())[:100]}"
                )
            routed = RoutedJobRequest.model_validate(data)
            engine, request = _only_one(engine, routed.engine), routed
        else:
            engine, request = _named(engine, data, event.get_type()), JobRequest(input=data)
    except ValidationError as error:
        raise RequestError(f"data: {explain(error, RoutedJobRequest if hint else None)}") from None
    # Source and id are joined as JSON, because a source may contain any separator.
    identity = hashlib.sha256(pydantic_core.to_json([event.get_source(), event.get_id()])).hexdigest()
    return RequestedJob(
        engine or "",
        request,
        event_identity=identity,
        traceparent=valid_traceparent(attributes.get("traceparent")),
        correlation_id=_text(attributes.get("correlationid")) or event.get_id(),
        event=RequestingEvent(id=event.get_id(), source=event.get_source(), type=event.get_type()),
    )


def _only_one(attribute: str | None, inside: str | None) -> str | None:
    """Return the engine that an event names; raise RequestError if its attribute and its data name different ones."""
    if attribute and inside and attribute != inside:
        raise RequestError(f"engineid is {attribute[:80]!r}, and the data names {inside[:80]!r}: name one engine")
    return attribute or inside


def _named(attribute: str | None, data: Any, kind: str) -> str | None:
    """Return the engine of an event whose data is the input; raise RequestError if its data seems to name one."""
    if attribute is None and isinstance(data, dict) and "engine" in data and ("input" in data or "input_ref" in data):
        raise RequestError(
            f"The data names an engine, but in an event of type {kind[:100]!r} it is the input itself: put the engine's "
            f"name into the attribute engineid, or make the type {JOB_REQUESTED!r}"
        )
    return attribute


def job_of_event(body: bytes, dropped: Mapping[str, str] | None = None) -> RequestedJob:
    """Read the job that a structured event asks for; raise RequestError, naming the fault.

    `dropped` are attributes that its publisher gave and that its sidecar left out.
    """
    event = read_structured(body)
    job = requested_by(event)
    for name, meant in (dropped or {}).items():
        found = job.engine if name == "engineid" else _text(event.get_attributes().get(name))
        if name in _READ_EXTENSIONS and meant != found:
            # The job would run on another engine, or its sender would not recognise the answer.
            raise RequestError(
                f"cloudevent.{name} is {meant[:80]!r} in the metadata of the publish, from which Dapr takes no such "
                f"attribute: publish a whole CloudEvent with {name}, as application/cloudevents+json"
                + ("; or a body of POST /v1/jobs, which names its engine" if name == "engineid" else "")
            )
    return job


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


def cause_in(body: bytes) -> tuple[RequestingEvent, str | None]:
    """Return what names a refused event to its sender, and its correlation id, as far as these can be read."""
    try:
        envelope = pydantic_core.from_json(body)
        names = {name: _text(envelope.get(name)) for name in ("id", "source", "type", "correlationid")}
    except (ValueError, AttributeError):
        return RequestingEvent(), None
    cut = {name: value and value[:_NAMES_MAX_CHARS] for name, value in names.items()}
    correlation_id = cut.pop("correlationid") or cut["id"]
    return RequestingEvent.model_validate(cut), correlation_id
