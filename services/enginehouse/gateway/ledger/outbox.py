"""The outbox: what must still be told, kept until it is."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic_core
from sqlalchemy import Connection, Row, delete, insert, select, update

from enginehouse.contracts.events import GATEWAY_SOURCE
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.ledger.schema import notices


def event_notice(
    tenant: str, kind: str, data: dict[str, Any], job_id: str, correlation_id: str | None
) -> dict[str, Any]:
    """A row of the outbox that becomes an event on finished.<tenant>."""
    now = time.time()
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": new_job_id(),
        "type": kind,
        "source": GATEWAY_SOURCE,
        "subject": job_id or None,
        "time": datetime.fromtimestamp(now, UTC),
        "datacontenttype": "application/json",
        "tenantid": tenant,
        "correlationid": correlation_id,
        "data": data,
    }
    return {
        "id": event["id"],
        "job_id": job_id,
        "tenant": tenant,
        "channel": "event",
        "event": kind,
        "target": None,
        "body": pydantic_core.to_json({k: v for k, v in event.items() if v is not None}).decode(),
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


@dataclass(frozen=True, slots=True)
class Postpone:
    """Telling failed: try again at `due_at`."""

    notice_id: str
    due_at: float


def due_notices(connection: Connection, now: float, limit: int) -> list[Row[Any]]:
    """Notices whose time has come, the longest due first."""
    return list(
        connection.execute(select(notices).where(notices.c.due_at <= now).order_by(notices.c.due_at).limit(limit))
    )


def add_notices(connection: Connection, rows: list[dict[str, Any]]) -> list[None]:
    """Put into the outbox."""
    connection.execute(insert(notices), rows)
    return [None] * len(rows)


def forget_notices(connection: Connection, groups: list[tuple[str, ...]]) -> list[None]:
    """Told: take them out."""
    for ids in groups:
        connection.execute(delete(notices).where(notices.c.id.in_(ids)))
    return [None] * len(groups)


def postpone_notices(connection: Connection, items: list[Postpone]) -> list[None]:
    """Not told: they stay."""
    for item in items:
        connection.execute(
            update(notices)
            .where(notices.c.id == item.notice_id)
            .values(attempts=notices.c.attempts + 1, due_at=item.due_at)
        )
    return [None] * len(items)
