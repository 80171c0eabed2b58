"""Copies what the job records decided into the ledger. The record decides; the ledger never contradicts it."""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pydantic_core
from sqlalchemy import Connection, Row, case, func, insert, select, text, update
from sqlalchemy.sql import bindparam

from enginehouse.contracts.events import JOB_COMPLETED, JOB_STARTED
from enginehouse.contracts.job import JobError, JobRecord, Status, StatusReason
from enginehouse.gateway.ledger.database import NOTIFY_CHANNEL
from enginehouse.gateway.ledger.outbox import event_notice, finished_data, webhook_notice
from enginehouse.gateway.ledger.queue import upsert
from enginehouse.gateway.ledger.schema import dead_letters, engines, jobs, notices


@dataclass(frozen=True, slots=True)
class Mirror:
    """A job's record as it was just read."""

    job_id: str
    record: JobRecord
    now: float


@dataclass(frozen=True, slots=True)
class Mirrored:
    """The job's row as it is now."""

    row: dict[str, Any]
    changed: bool
    notices: bool = False
    """Whether the outbox has something new about it."""
    handed_over_at: float | None = None
    """When it was handed over for the attempt that this told of."""


def _timestamp(moment: Any) -> float | None:
    return moment.timestamp() if moment is not None else None


def _final(row: dict[str, Any], record: JobRecord, now: float) -> dict[str, Any]:
    finished_at = _timestamp(record.finished_at) or now
    return {
        "status": record.status.value,
        "status_reason": None,
        "version": record.version or row["version"],
        "attempts": max(record.attempt, row["attempts"]),
        "worker": record.worker,
        "available_at": row["available_at"],
        "handed_over_at": None,
        "started_at": _timestamp(record.started_at) or row["started_at"],
        "finished_at": finished_at,
        "predict_time": record.predict_time,
        "output": pydantic_core.to_json(record.output).decode() if record.status is Status.SUCCEEDED else None,
        "output_ref": record.output_ref,
        "error": record.error.model_dump_json() if record.error else None,
        "dead_lettered": record.dead_lettered,
        "result_expires_at": finished_at + row["result_ttl_seconds"],
    }


def record_of(row: Row[Any]) -> JobRecord:
    """The record that `_final` made the row of an ended job from, for a store that lost it."""

    def moment(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return JobRecord(
        status=Status(row.status),
        attempt=row.attempts,
        worker=row.worker,
        version=row.version,
        started_at=moment(row.started_at),
        finished_at=moment(row.finished_at),
        predict_time=row.predict_time,
        output=pydantic_core.from_json(row.output) if row.output is not None else None,
        output_ref=row.output_ref,
        error=JobError.model_validate_json(row.error) if row.error else None,
        dead_lettered=row.dead_lettered,
    )


def _unfinished(row: dict[str, Any], record: JobRecord) -> dict[str, Any] | None:
    """What an unfinished record changes; None where the ledger already knows of something later."""
    retry = record.status is Status.QUEUED
    # Decided after this hand-over: its end, also where it counts no attempt (the worker was stopping).
    ends_hand_over = (
        retry and row["handed_over_at"] is not None and (_timestamp(record.retry_at) or 0) > row["handed_over_at"]
    )
    if not ends_hand_over and record.attempt <= row["attempts"]:
        return None
    return {
        "status": record.status.value,
        "status_reason": StatusReason.RETRY_SCHEDULED.value if retry else None,
        "version": record.version or row["version"],
        "attempts": record.attempt,
        "worker": record.worker,
        "available_at": _timestamp(record.retry_at) or row["available_at"],
        "handed_over_at": None if retry else (row["handed_over_at"] or _timestamp(record.started_at)),
        "started_at": _timestamp(record.started_at) or row["started_at"],
        "finished_at": None,
        "predict_time": record.predict_time,
        "output": None,
        "output_ref": None,
        "error": record.error.model_dump_json() if record.error else None,
        "dead_lettered": False,
        "result_expires_at": None,
    }


_UPDATE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(
        {
            name: bindparam(f"new_{name}")
            for name in (
                "status status_reason version attempts worker available_at handed_over_at started_at finished_at "
                "predict_time output output_ref error dead_lettered result_expires_at"
            ).split()
        }
    )
)


_PRESENT = select(jobs).where(jobs.c.id.in_(bindparam("ids", expanding=True)))
_PRESENT_LOCKED = _PRESENT.order_by(jobs.c.id).with_for_update()
_COUNT_ENDS = (
    update(engines)
    .where(engines.c.id == bindparam("engine"))
    .values(
        succeeded=engines.c.succeeded + bindparam("more_succeeded"), failed=engines.c.failed + bindparam("more_failed")
    )
)


def mirror_records(connection: Connection, items: list[Mirror]) -> list[Mirrored | None]:
    """Bring the jobs' rows to what their records say; None for a job the ledger does not have."""
    query = _PRESENT_LOCKED if connection.dialect.name == "postgresql" else _PRESENT
    ids = {"ids": list({item.job_id for item in items})}
    present = {row["id"]: dict(row) for row in connection.execute(query, ids).mappings()}
    handed_over = {job_id: row["handed_over_at"] for job_id, row in present.items()}
    changes: dict[str, dict[str, Any]] = {}
    told: set[str] = set()
    for item in items:
        # As the records before it in this group have left it.
        row = present.get(item.job_id)
        if row is None or Status(row["status"]).is_final:
            continue
        record = item.record
        change = _final(row, record, item.now) if record.status.is_final else _unfinished(row, record)
        if change:
            changes[item.job_id] = change
            row |= change
    if changes:
        connection.execute(
            _UPDATE,
            [
                {"job_id": job_id} | {f"new_{name}": value for name, value in change.items()}
                for job_id, change in changes.items()
            ],
        )
        _count_ends(connection, [present[job_id] for job_id in changes])
        _keep_dead_letters(connection, [present[job_id] for job_id in changes])
        ended = [present[job_id] for job_id in changes if Status(present[job_id]["status"]).is_final]
        told = _put_in_outbox(connection, [present[job_id] for job_id in changes])
        notify_others(connection, [row["id"] for row in ended])
    return [
        Mirrored(present[item.job_id], item.job_id in changes, item.job_id in told, handed_over[item.job_id])
        if item.job_id in present
        else None
        for item in items
    ]


def _put_in_outbox(connection: Connection, changed: list[dict[str, Any]]) -> set[str]:
    """Notices about jobs that began or ended, in the transaction that makes it true; returns the ids of those with one."""
    rows = []
    for row in changed:
        ended, started = Status(row["status"]).is_final, row["status"] == Status.RUNNING.value
        if not (ended or started) or not ('"finished_event"' in row["options"] or '"webhook"' in row["options"]):
            continue
        options = pydantic_core.from_json(row["options"])
        if ended and options.get("finished_event"):
            correlation = options["finished_event"]["correlation_id"]
            rows.append(event_notice(row["tenant"], JOB_COMPLETED, finished_data(row), row["id"], correlation))
        wanted = "completed" if ended else "start"
        if options.get("webhook") and wanted in options["webhook_events_filter"]:
            kind = JOB_COMPLETED if ended else JOB_STARTED
            rows.append(webhook_notice(row, kind, options["webhook"]))
    if rows:
        connection.execute(insert(notices), rows)
    return {row["job_id"] for row in rows}


def _count_ends(connection: Connection, ended: list[dict[str, Any]]) -> None:
    succeeded = Counter(row["engine"] for row in ended if row["status"] == Status.SUCCEEDED.value)
    failed = Counter(row["engine"] for row in ended if row["status"] in (Status.FAILED.value, Status.TIMED_OUT.value))
    for engine in sorted(succeeded.keys() | failed.keys()):
        more = {"more_succeeded": succeeded[engine], "more_failed": failed[engine]}
        connection.execute(_COUNT_ENDS, {"engine": engine} | more)


def _keep_dead_letters(connection: Connection, ended: list[dict[str, Any]]) -> None:
    letters = [
        {
            "id": row["id"],
            "tenant": row["tenant"],
            "engine": row["engine"],
            "job_id": row["id"],
            "reason": pydantic_core.from_json(row["error"])["code"] if row["error"] else "FAILED",
            "attempts": row["attempts"],
            "error": row["error"],
            "created_at": row["finished_at"],
        }
        for row in ended
        if row["dead_lettered"]
    ]
    if letters:
        connection.execute(upsert(connection, dead_letters).on_conflict_do_nothing(), letters)


def notify_others(connection: Connection, ended: list[str]) -> None:
    """Tell the other gateways, whose callers may be waiting for one of these jobs."""
    if ended and connection.dialect.name == "postgresql":
        # A notification holds at most 8,000 bytes; an id takes 37.
        for start in range(0, len(ended), 200):
            connection.execute(
                text("SELECT pg_notify(:channel, :ids)"),
                {"channel": NOTIFY_CHANNEL, "ids": " ".join(ended[start : start + 200])},
            )


def queue_counts(connection: Connection, engine: str) -> dict[str, int]:
    """How many jobs of an engine are queued and running."""
    waiting = connection.execute(
        select(func.count()).where(jobs.c.engine == engine, jobs.c.status == "queued", jobs.c.handed_over_at.is_(None))
    ).scalar_one()
    handed = connection.execute(
        select(
            func.coalesce(func.sum(case((jobs.c.status == "queued", 1), else_=0)), 0),
            func.coalesce(func.sum(case((jobs.c.status == "running", 1), else_=0)), 0),
        ).where(jobs.c.engine == engine, jobs.c.handed_over_at.is_not(None))
    ).one()
    ends = connection.execute(select(engines.c.succeeded, engines.c.failed).where(engines.c.id == engine)).first()
    return {
        "queued": waiting + handed[0],
        "running": handed[1],
        "succeeded": ends.succeeded if ends else 0,
        "failed": ends.failed if ends else 0,
    }
