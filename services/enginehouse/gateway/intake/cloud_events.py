"""Turns upstream systems' CloudEvents into jobs, from HTTP and from the topics requests.<tenant>."""

import base64
import hashlib
from typing import Any

import pydantic_core
import structlog
from cloudevents.core.base import BaseCloudEvent
from pydantic import ValidationError

from enginehouse.contracts.base import explain
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.errors import EnginehouseError, RequestError
from enginehouse.contracts.events import JOB_REFUSED, JOB_REQUESTED
from enginehouse.contracts.job import JobRequest, RoutedJobRequest
from enginehouse.contracts.names import DEFAULT_ENGINE
from enginehouse.gateway.intake.event_reader import read_structured
from enginehouse.gateway.intake.submission import AcceptedJob, Submission
from enginehouse.gateway.intake.submit import Submitter
from enginehouse.gateway.ledger.accept import IdempotencyScope
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.tenants.tenants import Caller, Tenants
from enginehouse.sidecar.delivery import raw_payload

log = structlog.get_logger()

_DAPR_DEFAULT_TYPE = "com.dapr.event.sent"
_BODY_TYPES = frozenset({JOB_REQUESTED, _DAPR_DEFAULT_TYPE})
"""Types of events whose data is the body of POST /v1/jobs. The data of all other events is the input itself."""


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def submission_of(caller: Caller, event: BaseCloudEvent) -> Submission:
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
        raise RequestError(f"data: {explain(error, RoutedJobRequest)}") from None
    # Source and id are joined as JSON, because a source may contain any separator.
    identity = hashlib.sha256(pydantic_core.to_json([event.get_source(), event.get_id()])).hexdigest()
    return Submission(
        caller,
        engine or DEFAULT_ENGINE,
        request,
        idempotency_key=identity,
        idempotency_scope=IdempotencyScope.EVENT,
        traceparent=valid_traceparent(attributes.get("traceparent")),
        correlation_id=_text(attributes.get("correlationid")) or event.get_id()[:255],
    )


class EventIntake:
    """Takes upstream systems' events."""

    def __init__(self, submitter: Submitter, tenants: Tenants, notifier: Notifier) -> None:
        self._submitter = submitter
        self._tenants = tenants
        self._notifier = notifier

    async def accept(self, caller: Caller, event: BaseCloudEvent) -> AcceptedJob:
        """Accept the job of one event."""
        return await self._submitter.submit(submission_of(caller, event))

    async def deliver(self, body: bytes, tenant: str) -> bool:
        """Take a delivery of requests.<tenant>. Only the topic proves the tenant: `source` can be forged."""
        raw = raw_payload(body)
        caller = self._tenants.as_caller(tenant)
        if caller is None:
            # The tenant's file may be unreadable for a moment, so the event is to be delivered again.
            log.warning(
                f"An event of {tenant} will be delivered again, because that tenant is not known",
                action="event_without_tenant",
                tenant=tenant,
            )
            return False
        try:
            await self.accept(caller, read_structured(raw))
        except EnginehouseError as error:
            return False if error.retryable else await self._refuse(caller, raw, error)
        return True

    async def _refuse(self, caller: Caller, raw: bytes, error: EnginehouseError) -> bool:
        """Put the reason why an event became no job into the tenant's outbox.

        Return False if that failed: the event is then delivered again.
        """
        try:
            envelope = pydantic_core.from_json(raw)
            cause = {name: _text(envelope.get(name)) for name in ("id", "source", "type")}
        except (ValueError, AttributeError):
            cause = {}
        try:
            await self._notifier.send_event(
                caller.name,
                JOB_REFUSED,
                {"code": error.code, "detail": str(error), "advice": error.advice, "event": cause},
                correlation_id=cause.get("id"),
            )
        except EnginehouseError:
            return False
        return True
