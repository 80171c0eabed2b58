"""Keeps the outbox: notices to tenants, until they are delivered."""

import time
from dataclasses import dataclass
from typing import Any

import pydantic_core
from sqlalchemy import Connection, delete, exists, func, insert, or_, select, text, update

from enginehouse.contracts.cloud_event import GATEWAY_SOURCE, cloud_event
from enginehouse.contracts.events import JOB_COMPLETED, JOB_STARTED
from enginehouse.contracts.job import Status
from enginehouse.contracts.moments import moment_of
from enginehouse.contracts.names import new_job_id
from enginehouse.contracts.text import storable
from enginehouse.gateway.ledger.rows import Channel, FinishedEvent, JobRow, NoticeRow, NoticeState, to_columns
from enginehouse.gateway.ledger.schema import notices


def _notice(notice_id: str, job_id: str, tenant: str, event: str, body: bytes, target: str | None = None) -> NoticeRow:
    now = time.time()
    return NoticeRow(
        id=notice_id,
        job_id=job_id,
        tenant=tenant,
        channel=Channel.EVENT if target is None else Channel.WEBHOOK,
        event=event,
        target=target,
        body=body.decode(),
        state=NoticeState.PENDING,
        last_error=None,
        attempts=0,
        due_at=now,
        created_at=now,
    )


def event_notice(tenant: str, kind: str, data: dict[str, Any], job_id: str, correlation_id: str | None) -> NoticeRow:
    """Make a notice that becomes an event on finished.<tenant>; `job_id` is empty if it is about an engine."""
    notice_id = new_job_id()
    body = cloud_event(
        event_id=notice_id,
        kind=kind,
        source=GATEWAY_SOURCE,
        subject=job_id or None,
        data=data,
        extensions={"tenantid": tenant, "correlationid": correlation_id},
    )
    return _notice(notice_id, job_id, tenant, kind, body)


def finished_data(row: JobRow, asked: FinishedEvent) -> dict[str, Any]:
    """Describe an ended job for its event: enough that its receiver need not ask.

    It repeats what names the event that asked for the job, because many SDKs give their users the data only.
    """
    return {
        "id": row.id,
        "engine": row.engine,
        "version": row.version,
        "status": row.status,
        "output": pydantic_core.from_json(row.output) if row.output else None,
        "error": row.error,
        "attempts": row.attempts,
        "urls": {"get": f"/v1/jobs/{row.id}"},
        "event": asked.event and asked.event.model_dump(),
        "correlationid": asked.correlation_id,
    }


def start_notice(row: JobRow, target: str) -> NoticeRow:
    """Make the webhook of a job's start. The job may have ended since: its status is that of the start."""
    data = {"id": row.id, "engine": row.engine, "status": Status.RUNNING, "error": None}
    return owner_notice(row.tenant, JOB_STARTED, data, target, row.id, at=row.started_at)


def completed_notice(row: JobRow, target: str) -> NoticeRow:
    """Make the webhook of a job's end. Its body is small: the receiver then reads the job."""
    data = {"id": row.id, "engine": row.engine, "status": row.status, "error": row.error}
    return owner_notice(row.tenant, JOB_COMPLETED, data, target, row.id)


def owner_notice(
    tenant: str, kind: str, data: dict[str, Any], target: str, job_id: str = "", at: float | None = None
) -> NoticeRow:
    """Make a notice that becomes a webhook to a tenant's address; `job_id` is empty if it is about an engine.

    `at` is the moment of what it is about, if that is not now.
    """
    body = {"type": kind, "timestamp": moment_of(at or time.time()), "data": data}
    return _notice(new_job_id(), job_id, tenant, kind, pydantic_core.to_json(body), target)


@dataclass(frozen=True, slots=True)
class Lease:
    """A request for due notices of a channel. After `lease_seconds`, another gateway may take them."""

    now: float
    channel: Channel
    limit: int
    lease_seconds: float
    of_one_tenant: int | None = None
    """Most notices of each tenant; None sets no limit."""
    without: frozenset[str] = frozenset()
    """Tenants to leave out, because enough of their notices are on their way."""


@dataclass(frozen=True, slots=True)
class NoticeOutcome:
    """The outcome of delivering a notice: delivered, failed for good, or pending until `due_at`."""

    notice_id: str
    state: NoticeState
    error: str | None = None
    due_at: float = 0


_start = notices.alias("start")
# A webhook of an end waits for the first try of its job's start, and no longer: a receiver may refuse starts for ever.
_START_UNTRIED = exists().where(
    _start.c.job_id == notices.c.job_id,
    _start.c.event == JOB_STARTED,
    _start.c.state == text("'pending'"),
    _start.c.last_error.is_(None),
)


def lease_notices(connection: Connection, items: list[Lease]) -> list[list[NoticeRow]]:
    """Take the due notices that each item asks for, the longest due first."""
    return [_lease(connection, item) for item in items]


def _lease(connection: Connection, item: Lease) -> list[NoticeRow]:
    due = [
        # The state is written as text, so that the database uses the index of pending notices.
        notices.c.state == text("'pending'"),
        notices.c.due_at <= item.now,
        notices.c.channel == item.channel.value,
        notices.c.tenant.not_in(item.without),
    ]
    if item.channel is Channel.WEBHOOK:
        due.append(or_(notices.c.event != JOB_COMPLETED, ~_START_UNTRIED))
    query = select(notices).where(*due)
    if item.of_one_tenant is not None:
        place = func.row_number().over(partition_by=notices.c.tenant, order_by=notices.c.due_at).label("place")
        ranked = select(notices.c.id, place).where(*due).subquery()
        query = query.where(notices.c.id.in_(select(ranked.c.id).where(ranked.c.place <= item.of_one_tenant)))
    query = query.order_by(notices.c.due_at).limit(item.limit).with_for_update(skip_locked=True)
    rows = [NoticeRow.from_row(row) for row in connection.execute(query)]
    if rows:
        connection.execute(
            update(notices)
            .where(notices.c.id.in_([row.id for row in rows]))
            .values(due_at=item.now + item.lease_seconds, attempts=notices.c.attempts + 1)
        )
    return rows


def add_notices(connection: Connection, rows: list[NoticeRow]) -> list[None]:
    """Put notices into the outbox."""
    connection.execute(insert(notices), [to_columns(row) for row in rows])
    return [None] * len(rows)


def record_outcomes(connection: Connection, items: list[NoticeOutcome]) -> list[None]:
    """Write outcomes of notices. A delivered notice is deleted, but a job's webhook stays as long as its job."""
    for item in items:
        if item.state is NoticeState.DELIVERED:
            not_kept = or_(notices.c.channel == Channel.EVENT.value, notices.c.job_id == "")
            connection.execute(delete(notices).where(notices.c.id == item.notice_id, not_kept))
        values: dict[str, Any] = {"state": item.state.value, "last_error": item.error and storable(item.error)}
        if item.state is NoticeState.PENDING:
            values["due_at"] = item.due_at
        connection.execute(update(notices).where(notices.c.id == item.notice_id).values(values))
    return [None] * len(items)


def webhooks_of(connection: Connection, job_id: str) -> list[NoticeRow]:
    """Return a job's webhooks, with the outcome of each."""
    query = select(notices).where(notices.c.job_id == job_id, notices.c.channel == Channel.WEBHOOK.value)
    return [NoticeRow.from_row(row) for row in connection.execute(query.order_by(notices.c.created_at, notices.c.id))]
