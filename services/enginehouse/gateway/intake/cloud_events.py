"""Turns upstream systems' CloudEvents into jobs, from HTTP and from the topics requests.<tenant>."""

import time
from collections.abc import Mapping

import structlog

from enginehouse.audit.calls import note_problem
from enginehouse.contracts.errors import EnginehouseError, InputTooLarge, ResultExpired
from enginehouse.contracts.events import JOB_COMPLETED, JOB_REFUSED, RequestingEvent
from enginehouse.gateway.intake.bodies import Bodies
from enginehouse.gateway.intake.event_jobs import cause_in, job_of_event
from enginehouse.gateway.intake.requested import RequestedJob
from enginehouse.gateway.intake.submission import AcceptedJob, Submission
from enginehouse.gateway.intake.submit import Submitter
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.accept import IdempotencyScope
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import finished_data
from enginehouse.gateway.ledger.rows import FinishedEvent
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.tenants.tenants import Caller, Tenants
from enginehouse.sidecar.delivery import raw_payload

log = structlog.get_logger()


class EventIntake:
    """Takes upstream systems' events."""

    def __init__(
        self, bodies: Bodies, submitter: Submitter, tenants: Tenants, notifier: Notifier, ledger: Ledger
    ) -> None:
        self._bodies = bodies
        self._ledger = ledger
        self._submitter = submitter
        self._tenants = tenants
        self._notifier = notifier

    async def accept(self, caller: Caller, job: RequestedJob) -> AcceptedJob:
        """Accept the job of one event."""
        return await self._submitter.submit(
            Submission(
                caller,
                job.engine or caller.tenant.default_engine,
                job.request,
                idempotency_key=job.event_identity,
                idempotency_scope=IdempotencyScope.EVENT,
                traceparent=job.traceparent,
                correlation_id=job.correlation_id,
                event=job.event,
                input_json=job.input_json,
            )
        )

    async def deliver(self, body: bytes, tenant: str, dropped: Mapping[str, str] | None = None) -> bool:
        """Take a delivery of requests.<tenant>. Only the topic proves the tenant: `source` can be forged.

        `dropped` are attributes that the event's publisher gave and that its sidecar left out.
        """
        raw = raw_payload(body)
        caller = self._tenants.as_caller(tenant)
        if caller is None:
            return self._without_tenant(tenant)
        try:
            job = await self._bodies.read(tenant, job_of_event, raw, dropped)
            accepted = await self.accept(caller, job)
            if accepted.existing:
                await self._answer_again(caller, accepted.id, job)
        except EnginehouseError as error:
            note_problem(error.code)
            return False if error.retryable else await self._refuse(caller, raw, error)
        return True

    async def _answer_again(self, caller: Caller, job_id: str, job: RequestedJob) -> None:
        """Answer a repeated event: its sender may have missed the first answer. A job that goes on answers at its end."""
        row = await self._ledger.read(read.job, job_id)
        if row is None or row.is_expired(time.time()):
            raise ResultExpired(f"The event came before and became job {job_id}, whose result has been deleted")
        if row.status.is_final:
            asked = FinishedEvent(correlation_id=job.correlation_id, event=job.event)
            await self._notifier.send_event(
                caller.name, JOB_COMPLETED, finished_data(row, asked), job_id=row.id, correlation_id=job.correlation_id
            )

    def _without_tenant(self, tenant: str) -> bool:
        if self._tenants.may_exist(tenant):
            # Its file may be unreadable for a moment, so the event is to be delivered again.
            log.warning(
                f"An event of {tenant} will be delivered again, because the tenant's file cannot be read",
                action="event_without_tenant",
                tenant=tenant,
            )
            return False
        log.warning(
            f"An event on the topic of {tenant} is dropped, because there is no such tenant",
            action="event_of_nobody",
            tenant=tenant,
        )
        return True

    async def _cause(self, caller: Caller, raw: bytes) -> tuple[RequestingEvent, str | None]:
        try:
            return await self._bodies.read(caller.name, cause_in, raw)
        except InputTooLarge:
            return RequestingEvent(), None

    async def _refuse(self, caller: Caller, raw: bytes, error: EnginehouseError) -> bool:
        """Put the reason why an event became no job into the tenant's outbox.

        Return False if that failed: the event is then delivered again.
        """
        try:
            event, correlation_id = await self._cause(caller, raw)
            refusal = {"code": error.code, "detail": str(error), "advice": error.advice}
            named = {"event": event.model_dump(), "correlationid": correlation_id}
            await self._notifier.send_event(
                caller.name, JOB_REFUSED, {**refusal, **named}, correlation_id=correlation_id
            )
        except EnginehouseError:
            return False
        return True
