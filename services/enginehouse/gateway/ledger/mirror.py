"""Copies job records into the ledger. The record decides; the ledger never contradicts it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pydantic_core
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.sql import bindparam

from enginehouse.contracts.events import JOB_COMPLETED, JOB_STARTED
from enginehouse.contracts.job import JobError, JobErrorCode, JobRecord, Status, StatusReason
from enginehouse.contracts.moments import moment_of, seconds_of
from enginehouse.contracts.names import engine_of, is_output_key
from enginehouse.gateway.ledger.database import NOTIFIER_MARK, NOTIFY_CHANNEL
from enginehouse.gateway.ledger.outbox import completed_notice, event_notice, finished_data, start_notice
from enginehouse.gateway.ledger.rows import DeadLetterRow, JobRow, NoticeRow, start_of, to_column, to_columns
from enginehouse.gateway.ledger.schema import THESE_JOBS, dead_letters, engines, job_events, jobs, notices, upsert


@dataclass(frozen=True, slots=True)
class Mirror:
    """A job's record as it was just read, or brought along by an event."""

    job_id: str
    record: JobRecord
    now: float
    engine: str
    """The engine in whose store it is, or whose runner has proven it: it says nothing about another engine's job."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A job's row after its record was mirrored."""

    row: JobRow
    changed: bool
    has_notices: bool = False
    """Whether the outbox has a new notice about the job."""
    handed_over_at: float | None = None
    """The moment of the hand-over that led to this record."""


def _with_own_output(row: JobRow, record: JobRecord) -> JobRecord:
    """Return the record, or a failure where it names the object of another job as its output."""
    if record.output_ref is None or is_output_key(record.output_ref, row.tenant, row.id):
        return record
    error = JobError(code=JobErrorCode.MALFORMED_ANSWER, message="the worker named an output that is not this job's")
    return record.model_copy(update={"status": Status.FAILED, "output": None, "output_ref": None, "error": error})


def _ended(row: JobRow, record: JobRecord, now: float) -> JobRow:
    record = _with_own_output(row, record)
    finished_at = seconds_of(record.finished_at) or now
    return row._replace(
        status=record.status,
        status_reason=None,
        version=record.version or row.version,
        image=record.image or row.image,
        attempts=max(record.attempt, row.attempts),
        worker=record.worker or row.worker,
        handed_over_at=None,
        started_at=seconds_of(record.started_at) or row.started_at,
        finished_at=finished_at,
        predict_time=record.predict_time,
        output=pydantic_core.to_json(record.output).decode() if record.status is Status.SUCCEEDED else None,
        output_ref=record.output_ref,
        error=record.error,
        dead_lettered=record.dead_lettered,
        result_expires_at=finished_at + row.result_ttl_seconds,
    )


def record_of(row: JobRow) -> JobRecord:
    """Make again the record from which `_ended` made this row, for a store that lost it."""
    return JobRecord(
        status=row.status,
        attempt=row.attempts,
        worker=row.worker,
        version=row.version,
        image=row.image,
        started_at=moment_of(row.started_at),
        finished_at=moment_of(row.finished_at),
        predict_time=row.predict_time,
        output=pydantic_core.from_json(row.output) if row.output is not None else None,
        output_ref=row.output_ref,
        error=row.error,
        dead_lettered=row.dead_lettered,
    )


def _unfinished(row: JobRow, record: JobRecord) -> JobRow | None:
    """Apply an unfinished record; return None if the row already shows a later state."""
    retry = record.status is Status.QUEUED
    retry_at, started_at = seconds_of(record.retry_at), seconds_of(record.started_at)
    # A retry that was decided after the hand-over ends it, even if no attempt was counted (the worker was stopping).
    ends_hand_over = retry and row.handed_over_at is not None and (retry_at or 0) > row.handed_over_at
    if not ends_hand_over and record.attempt <= row.attempts:
        return None
    return row._replace(
        status=record.status,
        status_reason=StatusReason.RETRY_SCHEDULED if retry else None,
        version=record.version or row.version,
        image=record.image or row.image,
        attempts=record.attempt,
        worker=record.worker,
        available_at=retry_at or row.available_at,
        handed_over_at=None if retry else (row.handed_over_at or started_at),
        started_at=started_at or row.started_at,
        finished_at=None,
        predict_time=record.predict_time,
        output=None,
        output_ref=None,
        error=record.error,
        dead_lettered=False,
        result_expires_at=None,
    )


_MIRRORED_COLUMNS = (
    "status status_reason version image attempts worker available_at handed_over_at started_at finished_at "
    "predict_time output output_ref error dead_lettered result_expires_at"
).split()
_PARAMETERS = {name: f"new_{name}" for name in _MIRRORED_COLUMNS}
_UPDATE = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values({name: bindparam(parameter) for name, parameter in _PARAMETERS.items()})
)
# The order keeps gateways from waiting for each other in a circle. SQLite has one writer, and locks no rows.
_PRESENT = {dialect: these.order_by(jobs.c.id).with_for_update() for dialect, these in THESE_JOBS.items()}
_COUNT_ENDS = (
    update(engines)
    .where(engines.c.id == bindparam("engine"))
    .values(
        succeeded=engines.c.succeeded + bindparam("more_succeeded"), failed=engines.c.failed + bindparam("more_failed")
    )
)


_NOTIFY = text("SELECT pg_notify(:channel, :payload)")


def mirror_records(connection: Connection, items: list[Mirror]) -> list[Mirrored | None]:
    """Copy records into their jobs' rows; return None for a job that the ledger does not have, or has of another engine."""
    found = connection.execute(_PRESENT[connection.dialect.name], {"ids": list({item.job_id for item in items})})
    present = {row.id: JobRow.from_row(row) for row in found}
    handed_over_at = {job_id: row.handed_over_at for job_id, row in present.items()}
    changed: dict[str, JobRow] = {}
    by: dict[str, int] = {}
    """For each changed job the place of the last record that changed it: it alone says so, so that what follows is done once."""
    for place, item in enumerate(items):
        # `present` already contains the changes by earlier records of this group.
        row = present.get(item.job_id)
        if row is None or row.status.is_final or engine_of(row.engine) != item.engine:
            continue
        new = _ended(row, item.record, item.now) if item.record.status.is_final else _unfinished(row, item.record)
        if new:
            present[item.job_id] = changed[item.job_id] = new
            by[item.job_id] = place
    with_notices = _write(connection, list(changed.values())) if changed else set()
    return [
        _mirrored(present[item.job_id], by.get(item.job_id) == place, with_notices, handed_over_at[item.job_id])
        if item.job_id in present and engine_of(present[item.job_id].engine) == item.engine
        else None
        for place, item in enumerate(items)
    ]


def _mirrored(row: JobRow, changed: bool, with_notices: set[str], handed_over_at: float | None) -> Mirrored:
    return Mirrored(row, changed, changed and row.id in with_notices, handed_over_at)


def _write(connection: Connection, changed: list[JobRow]) -> set[str]:
    """Write changed rows with their counts, dead letters and notices; return the ids of jobs with a notice."""
    connection.execute(_UPDATE, [_new_values(row) for row in changed])
    _count_ends(connection, changed)
    _keep_starts(connection, changed)
    _keep_dead_letters(connection, changed)
    with_notices = _put_in_outbox(connection, changed)
    notify_others(connection, [row.id for row in changed if row.status.is_final])
    return with_notices


def _new_values(row: JobRow) -> dict[str, Any]:
    values = {parameter: to_column(getattr(row, name)) for name, parameter in _PARAMETERS.items()}
    values["job_id"] = row.id
    return values


def _keep_starts(connection: Connection, changed: list[JobRow]) -> None:
    """Keep which worker began an attempt, for followers: the row of a job knows only the last one."""
    starts = [start_of(row.id, row.attempts, row.worker) for row in changed if row.attempts and not row.status.is_final]
    if starts:
        statement = upsert(connection, job_events).on_conflict_do_nothing()
        connection.execute(statement, [to_columns(start) for start in starts])


def _wants_start(row: JobRow) -> bool:
    """Whether a start is to be told of this job: it has begun, whether or not a record ever showed it as running."""
    return row.attempts > 0 and bool(row.options.webhook) and "start" in row.options.webhook_events_filter


def _told_starts(connection: Connection, job_ids: list[str]) -> set[str]:
    """Return those of the jobs whose start is in the outbox, delivered or not."""
    if not job_ids:
        return set()
    told = select(notices.c.job_id).where(notices.c.job_id.in_(job_ids), notices.c.event == JOB_STARTED)
    return set(connection.execute(told).scalars())


def _notices_of(row: JobRow, start_told: bool) -> Iterable[NoticeRow]:
    """Make the notices of a job's start and end that its request asked for and that are not in the outbox yet."""
    options = row.options
    if options.webhook and _wants_start(row) and not start_told:
        yield start_notice(row, options.webhook)
    if not row.status.is_final:
        return
    if asked := options.finished_event:
        yield event_notice(row.tenant, JOB_COMPLETED, finished_data(row, asked), row.id, asked.correlation_id)
    if options.webhook and "completed" in options.webhook_events_filter:
        yield completed_notice(row, options.webhook)


def _put_in_outbox(connection: Connection, changed: list[JobRow]) -> set[str]:
    """Add notices in the transaction in which the jobs begin or end; return the ids of these jobs."""
    told = _told_starts(connection, [row.id for row in changed if _wants_start(row)])
    rows = [notice for row in changed for notice in _notices_of(row, row.id in told)]
    if rows:
        connection.execute(insert(notices), [to_columns(row) for row in rows])
    return {row.job_id for row in rows}


def _count_ends(connection: Connection, changed: list[JobRow]) -> None:
    succeeded = Counter(row.engine for row in changed if row.status is Status.SUCCEEDED)
    failed = Counter(row.engine for row in changed if row.status in (Status.FAILED, Status.TIMED_OUT))
    for engine in sorted(succeeded.keys() | failed.keys()):
        more = {"more_succeeded": succeeded[engine], "more_failed": failed[engine]}
        connection.execute(_COUNT_ENDS, {"engine": engine} | more)


def _keep_dead_letters(connection: Connection, changed: list[JobRow]) -> None:
    letters = [
        DeadLetterRow(
            id=row.id,
            tenant=row.tenant,
            engine=row.engine,
            job_id=row.id,
            reason=row.error.code if row.error else "FAILED",
            attempts=row.attempts,
            error=row.error,
            event=None,
            created_at=row.finished_at or row.created_at,
            redriven_as=None,
        )
        for row in changed
        if row.dead_lettered
    ]
    if letters:
        statement = upsert(connection, dead_letters).on_conflict_do_nothing()
        connection.execute(statement, [to_columns(letter) for letter in letters])


def notify_others(connection: Connection, job_ids: list[str]) -> None:
    """Notify the other gateways, because their callers may be waiting for one of these jobs."""
    if connection.dialect.name != "postgresql":
        return
    notifier = connection.get_execution_options()["notifier"]
    # A notification holds at most 8,000 bytes; an id takes 37.
    for start in range(0, len(job_ids), 200):
        payload = f"{' '.join(job_ids[start : start + 200])} {NOTIFIER_MARK}{notifier}"
        connection.execute(_NOTIFY, {"channel": NOTIFY_CHANNEL, "payload": payload})
