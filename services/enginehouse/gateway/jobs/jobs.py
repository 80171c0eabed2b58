"""What a caller can do with jobs: the functions behind the routes."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic_core
from sqlalchemy import Row

from enginehouse.contracts.errors import JobIsFinal, NotFinalYet, ResultExpired
from enginehouse.contracts.job import JobRequest, Status
from enginehouse.gateway.engines.catalogue import Engines
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.intake.submit import AcceptedJob, Submission, Submitter, owned_job, wait_for
from enginehouse.gateway.jobs.view import is_expired, job_view
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import webhooks_of
from enginehouse.gateway.ledger.read import Listing
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.completions import Completions
from enginehouse.gateway.outcome.waiters import Waiters
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords

_SIGNED_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Jobs:
    """Submit, read, wait, list, cancel, retry."""

    sidecar: Sidecar
    ledger: Ledger
    engines: Engines
    dispatcher: Dispatcher
    submitter: Submitter
    completions: Completions
    waiters: Waiters
    objects: Objects | None

    async def submit(self, submission: Submission) -> AcceptedJob:
        """Accept a job."""
        return await self.submitter.submit(submission)

    async def submit_and_wait(self, submission: Submission, wait_seconds: float) -> tuple[AcceptedJob, dict[str, Any]]:
        """Accept a job and read it once it has ended, or when `wait_seconds` are over."""
        accepted = await self.submitter.submit(submission)
        if accepted.existing:
            return accepted, await self.read(submission.caller, accepted.id, wait_seconds)
        # Nothing was awaited since the job was sent, so it cannot have ended unnoticed: no need to read it first.
        deadline = time.monotonic() + wait_seconds
        with self.waiters.waiting_for(accepted.id) as ended:
            row = await wait_for(ended, wait_seconds)
        if row is None:
            return accepted, await self.read(submission.caller, accepted.id, deadline - time.monotonic())
        return accepted, await self._view(row)

    async def _view(self, row: Mapping[str, Any]) -> dict[str, Any]:
        view = job_view(row, self.engines.get(row["engine"]))
        if '"webhook"' in row["options"]:
            told = await self.ledger.read(webhooks_of, row["id"])
            view["webhooks"] = [notice._asdict() for notice in told]
        if self.objects:
            for field in ("output", "input"):
                if row[f"{field}_ref"]:
                    until = time.time() + _SIGNED_SECONDS
                    view[f"{field}_url"] = await self.objects.sign("GET", row[f"{field}_ref"], until)
        return view

    async def read(self, caller: Caller, job_id: str, wait_seconds: float = 0) -> dict[str, Any]:
        """A job of the caller, once it has ended or `wait_seconds` are over."""
        row = await self._when_ended(caller, job_id, time.monotonic() + wait_seconds)
        if is_expired(row):
            raise ResultExpired(f"The result of job {job_id} was kept until its expires_at, and is gone")
        return await self._view(row)

    async def _when_ended(self, caller: Caller, job_id: str, deadline: float) -> Mapping[str, Any]:
        """The job's row once it has ended, or as it is at the deadline."""
        while True:
            with self.waiters.waiting_for(job_id) as ended:
                row: Mapping[str, Any] = (await owned_job(self.ledger, caller, job_id))._asdict()
                left = deadline - time.monotonic()
                if left <= 0 or Status(row["status"]).is_final:
                    return row
                woken_with = await wait_for(ended, left)
            if woken_with is not None:
                return woken_with

    async def list(self, listing: Listing) -> dict[str, Any]:
        """A page of the caller's jobs, newest first."""
        if listing.engine:
            engine = self.engines.resolve(listing.engine, listing.tenant)
            listing = Listing(listing.tenant, engine.id, listing.status, listing.cursor, listing.limit)
        rows = await self.ledger.read(read.list_jobs, listing)
        views = [job_view(row._asdict(), self.engines.get(row.engine), with_input=False) for row in rows]
        cursor = rows[-1].id if len(rows) == listing.limit else None
        return {"jobs": views, "next_cursor": cursor}

    async def cancel(self, caller: Caller, job_id: str) -> dict[str, Any]:
        """Cancel a job; JobIsFinal if it has ended, also if it ends in this very moment."""
        row = await owned_job(self.ledger, caller, job_id)
        if Status(row.status).is_final:
            raise JobIsFinal(f"Job {job_id} is {row.status}")
        await self.ledger.request_cancel(job_id)
        record = await JobRecords(self.sidecar, row.engine).change(
            job_id,
            self.dispatcher.record_ttl_seconds(row._asdict(), time.time()),
            decisions.cancel(f"tenant {caller.name}"),
        )
        await self.completions.apply(row.engine, {job_id: record})
        if record.status is not Status.CANCELED:
            raise JobIsFinal(f"Job {job_id} ended as {record.status} before it could be canceled")
        return await self.read(caller, job_id)

    async def retry(
        self,
        caller: Caller,
        job_id: str,
        traceparent: str | None,
        idempotency_key: str | None,
        redrives: str | None = None,
    ) -> AcceptedJob:
        """A new job with the same input and options; the old one keeps its state.

        AlreadyRedriven if it is what the dead letter `redrives` becomes, and that became a job before.
        """
        row = await owned_job(self.ledger, caller, job_id)
        if not Status(row.status).is_final:
            raise NotFinalYet(f"Job {job_id} is {row.status}")
        if is_expired(row._asdict()) or (row.input is None and row.input_ref is None):
            raise ResultExpired(f"The input of job {job_id} is gone")
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


def _same_request(row: Row[Any]) -> JobRequest:
    options = pydantic_core.from_json(row.options)
    return JobRequest(
        input=None if row.input is None else pydantic_core.from_json(row.input),
        input_ref=row.input_ref,
        priority=row.priority,
        max_time_in_queue_seconds=max(1, round(row.queue_deadline - row.created_at)),
        result_ttl_seconds=row.result_ttl_seconds,
        **{name: value for name, value in options.items() if name in JobRequest.model_fields},
    )
