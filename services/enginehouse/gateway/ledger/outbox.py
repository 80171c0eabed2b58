"""The outbox: what must still be told, kept until it is."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic_core
from sqlalchemy import Connection, Row, delete, func, insert, or_, select, text, update

from enginehouse.contracts.cloud_event import GATEWAY_SOURCE, cloud_event
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.ledger.schema import notices

EVENT, WEBHOOK = "event", "webhook"
PENDING, DELIVERED, FAILED = "pending", "delivered", "failed"


def event_notice(
    tenant: str, kind: str, data: dict[str, Any], job_id: str, correlation_id: str | None
) -> dict[str, Any]:
    """A row of the outbox that becomes an event on finished.<tenant>."""
    now, notice_id = time.time(), new_job_id()
    body = cloud_event(
        event_id=notice_id,
        kind=kind,
        source=GATEWAY_SOURCE,
        subject=job_id or None,
        data=data,
        extensions={"tenantid": tenant, "correlationid": correlation_id},
    )
    return {
        "id": notice_id,
        "job_id": job_id,
        "tenant": tenant,
        "channel": EVENT,
        "event": kind,
        "target": None,
        "body": body.decode(),
        "state": PENDING,
        "attempts": 0,
        "due_at": now,
        "created_at": now,
    }


def finished_data(row: dict[str, Any]) -> dict[str, Any]:
    """What an event says of an ended job: enough that its receiver need not ask."""
    return {
        "id": row["id"],
        "engine": row["engine"],
        "version": row["version"],
        "status": row["status"],
        "output": pydantic_core.from_json(row["output"]) if row["output"] else None,
        "error": pydantic_core.from_json(row["error"]) if row["error"] else None,
        "attempts": row["attempts"],
        "urls": {"get": f"/v1/jobs/{row['id']}"},
    }


def webhook_notice(row: dict[str, Any], kind: str, target: str) -> dict[str, Any]:
    """A row of the outbox that becomes a webhook: a thin body, after which the receiver reads the job."""
    error = pydantic_core.from_json(row["error"]) if row["error"] else None
    data = {"id": row["id"], "engine": row["engine"], "status": row["status"], "error": error}
    return owner_notice(row["tenant"], kind, data, target, row["id"])


def owner_notice(tenant: str, kind: str, data: dict[str, Any], target: str, job_id: str = "") -> dict[str, Any]:
    """A row of the outbox that becomes a webhook of a tenant."""
    now = time.time()
    body = {"type": kind, "timestamp": datetime.fromtimestamp(now, UTC), "data": data}
    return {
        "id": new_job_id(),
        "job_id": job_id,
        "tenant": tenant,
        "channel": WEBHOOK,
        "event": kind,
        "target": target,
        "body": pydantic_core.to_json(body).decode(),
        "state": PENDING,
        "attempts": 0,
        "due_at": now,
        "created_at": now,
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """Take what is due in a channel, for `lease_seconds`: after that, another gateway may take it."""

    now: float
    channel: str
    limit: int
    lease_seconds: float
    of_one_tenant: int | None = None
    """At most so many of each tenant."""
    without: frozenset[str] = frozenset()
    """Tenants that have enough in hand."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came of telling a notice: delivered, failed for good, or to be tried again at `due_at`."""

    notice_id: str
    state: str
    error: str | None = None
    due_at: float = 0


def claim_notices(connection: Connection, items: list[Claim]) -> list[list[Row[Any]]]:
    """Notices whose time has come, the longest due first."""
    return [_claim(connection, item) for item in items]


def _claim(connection: Connection, item: Claim) -> list[Row[Any]]:
    due = [
        notices.c.state == text("'pending'"),
        notices.c.due_at <= item.now,
        notices.c.channel == item.channel,
        notices.c.tenant.not_in(item.without),
    ]
    query = select(notices).where(*due)
    if item.of_one_tenant is not None:
        place = func.row_number().over(partition_by=notices.c.tenant, order_by=notices.c.due_at).label("place")
        ranked = select(notices.c.id, place).where(*due).subquery()
        query = query.where(notices.c.id.in_(select(ranked.c.id).where(ranked.c.place <= item.of_one_tenant)))
    query = query.order_by(notices.c.due_at).limit(item.limit).with_for_update(skip_locked=True)
    rows = list(connection.execute(query))
    if rows:
        connection.execute(
            update(notices)
            .where(notices.c.id.in_([row.id for row in rows]))
            .values(due_at=item.now + item.lease_seconds, attempts=notices.c.attempts + 1)
        )
    return rows


def add_notices(connection: Connection, rows: list[dict[str, Any]]) -> list[None]:
    """Put into the outbox."""
    connection.execute(insert(notices), rows)
    return [None] * len(rows)


def settle_notices(connection: Connection, items: list[Told]) -> list[None]:
    """Write down what came of telling. What was told is forgotten; but a webhook's end stays with its job."""
    for item in items:
        if item.state == DELIVERED:
            of_no_job = or_(notices.c.channel == EVENT, notices.c.job_id == "")
            connection.execute(delete(notices).where(notices.c.id == item.notice_id, of_no_job))
        values: dict[str, Any] = {"state": item.state, "last_error": item.error}
        if item.state == PENDING:
            values["due_at"] = item.due_at
        connection.execute(update(notices).where(notices.c.id == item.notice_id).values(values))
    return [None] * len(items)


def webhooks_of(connection: Connection, job_id: str) -> list[Row[Any]]:
    """A job's webhooks and what came of each."""
    query = select(notices.c.event, notices.c.state, notices.c.attempts, notices.c.last_error)
    query = query.where(notices.c.job_id == job_id, notices.c.channel == WEBHOOK)
    return list(connection.execute(query.order_by(notices.c.created_at)))
