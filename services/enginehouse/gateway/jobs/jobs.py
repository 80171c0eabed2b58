"""Submits, reads, lists, cancels and retries jobs for callers: the functions behind the routes."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pydantic_core

from enginehouse.contracts.errors import (
    EnginehouseError,
    Forbidden,
    JobDoesNotExist,
    JobIsFinal,
    NotFinalYet,
    ResultExpired,
)
from enginehouse.contracts.job import JobRequest, Status
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.intake.submission import AcceptedJob, Submission
from enginehouse.gateway.intake.submit import Submitter
from enginehouse.gateway.jobs.view import JobView, WebhookView, job_view, listed_view
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import webhooks_of
from enginehouse.gateway.ledger.read import Listing
from enginehouse.gateway.ledger.rows import JobRow, ListedJob
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.records import Records
from enginehouse.gateway.outcome.waiters import Waiters, wait_for
from enginehouse.gateway.tenants.tenants import Caller

_SIGNED_SECONDS = 3_600
_SOON_SECONDS = 2.0
"""Most jobs begin sooner. Of a job that waits longer, its caller wants to know why: its engine's workers are asked."""


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first, without their inputs and outputs."""

    jobs: list[ListedJob]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Jobs:
    """Serves a caller's jobs, and no other tenant's."""

    ledger: Ledger
    catalogue: Catalogue
    submitter: Submitter
    records: Records
    waiters: Waiters
    objects: Objects | None
    _listing: dict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    """Held by a tenant while its page is read: each of several readers' threads would make the event loop wait."""

    async def owned(self, caller: Caller, job_id: str) -> JobRow:
        """Return a job of this caller; raise JobDoesNotExist if there is none, or if it is another tenant's."""
        return _owned(await self.ledger.read(read.job, job_id), caller, job_id)

    async def check_unfinished(self, job_id: str) -> None:
        """Raise Forbidden if the job has ended: what its workers were given for it is then worth nothing."""
        if not await self.ledger.read(read.is_unfinished, job_id):
            raise Forbidden("This URL was for the work on a job that has ended")

    async def submit(self, submission: Submission) -> AcceptedJob:
        """Accept a job."""
        return await self.submitter.submit(submission)

    async def submit_and_wait(self, submission: Submission, wait_seconds: float) -> JobView:
        """Accept a job and read it once it has ended, or when `wait_seconds` are over."""
        return await self._view(await self.submit_and_end(submission, wait_seconds), submission.caller)

    async def submit_and_end(
        self, submission: Submission, wait_seconds: float, note: Callable[[AcceptedJob], None] | None = None
    ) -> JobRow:
        """Accept a job, call `note`, and return the job's row once it has ended, or when `wait_seconds` are over."""
        accepted = await self.submitter.submit(submission)
        if note is not None:
            note(accepted)
        deadline = time.monotonic() + wait_seconds
        if not accepted.existing:
            # There is no await between the hand-over and this line. So the job's end cannot have been missed, and the
            # row need not be read.
            with self.waiters.waiting_for(accepted.id) as ending:
                row = await wait_for(ending, wait_seconds)
            if row is not None:
                return row
        row = await self._when_ended(submission.caller, accepted.id, deadline, told=True)
        refuse_expired(row)
        return row

    async def _view(self, row: JobRow, caller: Caller) -> JobView:
        engine = self.catalogue.get(row.engine)
        view = job_view(row, engine)
        if engine and row.status is Status.QUEUED:
            view["status_detail"] = await self._why_queued(row, engine, caller)
        if row.options.webhook:
            notices = await self.ledger.read(webhooks_of, row.id)
            view["webhooks"] = [
                WebhookView(
                    event=notice.event, state=notice.state, attempts=notice.attempts, last_error=notice.last_error
                )
                for notice in notices
            ]
        if self.objects:
            until = time.time() + _SIGNED_SECONDS
            if row.output_ref:
                view["output_url"] = await self.objects.sign("GET", row.output_ref, until)
            if row.input_ref:
                view["input_url"] = await self.objects.sign("GET", row.input_ref, until)
        return view

    async def _why_queued(self, row: JobRow, engine: KnownEngine, caller: Caller) -> str | None:
        if time.time() - row.created_at > _SOON_SECONDS:
            with contextlib.suppress(EnginehouseError):
                await self.catalogue.read_workers(engine)
        return engine.why_jobs_wait(caller)

    async def read(self, caller: Caller, job_id: str, wait_seconds: float = 0) -> JobView:
        """Show a job of the caller once it has ended or `wait_seconds` are over. Raise ResultExpired past its time."""
        row = await self._when_ended(caller, job_id, time.monotonic() + wait_seconds)
        refuse_expired(row)
        return await self._view(row, caller)

    async def _when_ended(self, caller: Caller, job_id: str, deadline: float, *, told: bool = False) -> JobRow:
        """Return the job's row once it has ended, or as it is at the deadline.

        `told`: the caller has waited already, and was told that the job has changed, often with many others at once.
        """
        while True:
            with self.waiters.waiting_for(job_id) as ending:
                row = (
                    _owned(await self.ledger.woken(job_id), caller, job_id)
                    if told
                    else await self.owned(caller, job_id)
                )
                told = True
                left = deadline - time.monotonic()
                if left <= 0 or row.status.is_final:
                    return row
                ended = await wait_for(ending, left)
            if ended is not None:
                return ended

    async def list(self, caller: Caller, listing: Listing) -> JobPage:
        """Show a page of the caller's jobs, newest first. Jobs stay listed when their engine is removed."""
        if listing.engine:
            listing = replace(listing, engine=self.catalogue.resolve_past(listing.engine, caller).id)
        async with self._listing[listing.tenant]:
            rows = await self.ledger.read(read.list_jobs, listing)
        return JobPage(rows, rows[-1].id if len(rows) == listing.limit else None)

    def listed_view(self, row: ListedJob) -> JobView:
        """Show a job of a page."""
        return listed_view(row, self.catalogue.get(row.engine))

    async def cancel(self, caller: Caller, job_id: str) -> JobView:
        """Cancel a job; raise JobIsFinal if it has ended, even if it ends during this call."""
        row = await self.owned(caller, job_id)
        if row.status.is_final:
            raise JobIsFinal(f"Job {job_id} is {row.status}")
        await self.ledger.request_cancel(job_id)
        record = await self.records.decide(row, decisions.cancel(f"tenant {caller.name}"))
        if record.status is not Status.CANCELED:
            raise JobIsFinal(f"Job {job_id} ended as {record.status} before it could be canceled")
        return await self.read(caller, job_id)

    async def retry(
        self,
        caller: Caller,
        job_id: str,
        *,
        traceparent: str | None,
        idempotency_key: str | None,
        redrives: str | None = None,
    ) -> AcceptedJob:
        """Accept a new job with the same input and options; the old one keeps its state.

        `redrives` names the dead letter that becomes the new job. Raise AlreadyRedriven if it became a job before.
        """
        row = await self.owned(caller, job_id)
        if not row.status.is_final:
            raise NotFinalYet(f"Job {job_id} is {row.status}")
        if row.is_expired(time.time()) or (row.input is None and row.input_ref is None):
            raise ResultExpired(f"The input of job {job_id} has been deleted")
        accepted = await self.submitter.submit(
            Submission(
                caller,
                row.engine,
                _same_request(row),
                idempotency_key,
                traceparent=traceparent,
                retry_of=job_id,
                redrives=redrives,
            )
        )
        await self.ledger.link_retry(job_id, accepted.id)
        return accepted


def _owned(row: JobRow | None, caller: Caller, job_id: str) -> JobRow:
    if row is None or row.tenant != caller.name:
        raise JobDoesNotExist(f"No job {job_id} of {caller.name}")
    return row


def refuse_expired(row: JobRow) -> None:
    """Raise ResultExpired if the job's result is past its time."""
    if row.is_expired(time.time()):
        raise ResultExpired(f"The result of job {row.id} was kept until its expires_at and has been deleted")


def _same_request(row: JobRow) -> JobRequest:
    options = row.options
    return JobRequest(
        input=None if row.input is None else pydantic_core.from_json(row.input),
        input_ref=row.input_ref,
        parameters=options.parameters,
        priority=row.priority,
        retry=options.retry,
        retry_on_timeout=options.retry_on_timeout,
        max_time_in_queue_seconds=max(1, round(row.queue_deadline - row.created_at)),
        execution_timeout_seconds=options.execution_timeout_seconds,
        result_ttl_seconds=row.result_ttl_seconds,
        webhook=options.webhook,
        **({"webhook_events_filter": options.webhook_events_filter} if options.webhook else {}),
    )
