"""Turns upstream systems' CloudEvents into jobs, from HTTP and from the topics requests.<tenant>."""

import structlog

from enginehouse.contracts.errors import EnginehouseError, InputTooLarge
from enginehouse.contracts.events import JOB_REFUSED
from enginehouse.gateway.intake.bodies import Bodies
from enginehouse.gateway.intake.event_jobs import cause_in, job_of_event
from enginehouse.gateway.intake.requested import RequestedJob
from enginehouse.gateway.intake.submission import AcceptedJob, Submission
from enginehouse.gateway.intake.submit import Submitter
from enginehouse.gateway.ledger.accept import IdempotencyScope
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.tenants.tenants import Caller, Tenants
from enginehouse.sidecar.delivery import raw_payload

log = structlog.get_logger()


class EventIntake:
    """Takes upstream systems' events."""

    def __init__(self, bodies: Bodies, submitter: Submitter, tenants: Tenants, notifier: Notifier) -> None:
        self._bodies = bodies
        self._submitter = submitter
        self._tenants = tenants
        self._notifier = notifier

    async def accept(self, caller: Caller, job: RequestedJob) -> AcceptedJob:
        """Accept the job of one event."""
        return await self._submitter.submit(
            Submission(
                caller,
                job.engine,
                job.request,
                idempotency_key=job.event_identity,
                idempotency_scope=IdempotencyScope.EVENT,
                traceparent=job.traceparent,
                correlation_id=job.correlation_id,
                input_json=job.input_json,
            )
        )

    async def deliver(self, body: bytes, tenant: str) -> bool:
        """Take a delivery of requests.<tenant>. Only the topic proves the tenant: `source` can be forged."""
        raw = raw_payload(body)
        caller = self._tenants.as_caller(tenant)
        if caller is None:
            return self._without_tenant(tenant)
        try:
            await self.accept(caller, await self._bodies.read(tenant, job_of_event, raw))
        except EnginehouseError as error:
            return False if error.retryable else await self._refuse(caller, raw, error)
        return True

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

    async def _cause(self, caller: Caller, raw: bytes) -> dict[str, str | None]:
        try:
            return await self._bodies.read(caller.name, cause_in, raw)
        except InputTooLarge:
            return {}

    async def _refuse(self, caller: Caller, raw: bytes, error: EnginehouseError) -> bool:
        """Put the reason why an event became no job into the tenant's outbox.

        Return False if that failed: the event is then delivered again.
        """
        try:
            cause = await self._cause(caller, raw)
            await self._notifier.send_event(
                caller.name,
                JOB_REFUSED,
                {"code": error.code, "detail": str(error), "advice": error.advice, "event": cause},
                correlation_id=cause.get("id"),
            )
        except EnginehouseError:
            return False
        return True
