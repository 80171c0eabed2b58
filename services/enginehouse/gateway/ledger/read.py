"""Reads the ledger: its queries, as functions over a connection."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, Select, case, func, null, or_, select, text, tuple_

from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.rows import UNFINISHED, DeadLetterRow, EngineRow, JobEventRow, JobRow, ListedJob
from enginehouse.gateway.ledger.schema import (
    BACKLOG,
    dead_letters,
    engines,
    idempotency_keys,
    job_events,
    jobs,
    notices,
)


def _without(columns: Any, *left_out: str) -> "Select[Any]":
    """Select a table's columns in their order, with NULL in the places of the columns to leave out."""

    def shown(column: Column[Any]) -> Any:
        return null().label(column.name) if column.name in left_out else column

    return select(*(shown(column) for column in columns))


_WITHOUT_PAYLOAD = _without(jobs.c, "input", "output")
_WITHOUT_OPTIONS = _without(jobs.c, "input", "output", "options")
"""For queries that return many jobs and need no options."""
_LISTED = select(*(jobs.c[name] for name in ListedJob._fields))
_LETTERS_WITHOUT_EVENT = _without(dead_letters.c, "event")


def _jobs(connection: Connection, query: "Select[Any]") -> list[JobRow]:
    return [JobRow.from_row(row) for row in connection.execute(query)]


def answers(connection: Connection) -> bool:
    """Return True if the ledger answers."""
    return connection.execute(text("SELECT 1")).scalar() == 1


def job(connection: Connection, job_id: str) -> JobRow | None:
    """Return one job with all its columns."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    return None if row is None else JobRow.from_row(row)


def is_unfinished(connection: Connection, job_id: str) -> bool:
    """Say whether there is such a job and it has not ended."""
    query = select(jobs.c.id).where(jobs.c.id == job_id, jobs.c.status.in_(UNFINISHED))
    return connection.execute(query).first() is not None


def engines_of(connection: Connection, job_ids: list[str]) -> dict[str, str]:
    """Return the engine of each of these jobs that the ledger has."""
    return dict(connection.execute(select(jobs.c.id, jobs.c.engine).where(jobs.c.id.in_(job_ids))).all())


@dataclass(frozen=True, slots=True)
class Listing:
    """A request for a page of a tenant's jobs: newest first, after the job `cursor`."""

    tenant: str
    engine: str | None
    status: Status | None
    cursor: str | None
    limit: int


def list_jobs(connection: Connection, listing: Listing) -> list[ListedJob]:
    """Return a page of a tenant's jobs."""
    query = _LISTED.where(jobs.c.tenant == listing.tenant)
    if listing.engine:
        query = query.where(jobs.c.engine == listing.engine)
    if listing.status:
        query = query.where(jobs.c.status == listing.status.value)
    if listing.cursor:
        query = query.where(jobs.c.id < listing.cursor)
    found = connection.execute(query.order_by(jobs.c.id.desc()).limit(listing.limit))
    return [ListedJob._make(row) for row in found]


BACKLOGS = (
    select(jobs.c.engine, jobs.c.tenant, func.count()).where(text(BACKLOG)).group_by(jobs.c.engine, jobs.c.tenant)
)


def backlogs(connection: Connection) -> dict[tuple[str, str], int]:
    """Count, by engine and tenant, the jobs that wait in the ledger for room in their engine's window."""
    return {(engine, tenant): number for engine, tenant, number in connection.execute(BACKLOGS)}


def in_flight(connection: Connection) -> dict[str, int]:
    """Count the jobs of each tenant that were accepted and have not ended."""
    totals: dict[str, int] = {}
    for condition in (text(BACKLOG), jobs.c.handed_over_at.is_not(None)):
        counted = connection.execute(select(jobs.c.tenant, func.count()).where(condition).group_by(jobs.c.tenant))
        for tenant, number in counted:
            totals[tenant] = totals.get(tenant, 0) + number
    return totals


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Jobs of an engine: waiting and running now, ended since the ledger began."""

    queued: int
    running: int
    succeeded: int
    failed: int


def queue_counts(connection: Connection, engine: str) -> QueueCounts:
    """Count the jobs of an engine."""
    waiting = connection.execute(
        select(func.count()).where(
            jobs.c.engine == engine, jobs.c.status == Status.QUEUED.value, jobs.c.handed_over_at.is_(None)
        )
    ).scalar_one()

    def number_of(status: Status) -> Any:
        return func.coalesce(func.sum(case((jobs.c.status == status.value, 1), else_=0)), 0)

    in_window = connection.execute(
        select(number_of(Status.QUEUED), number_of(Status.RUNNING)).where(
            jobs.c.engine == engine, jobs.c.handed_over_at.is_not(None)
        )
    ).one()
    ends = connection.execute(select(engines.c.succeeded, engines.c.failed).where(engines.c.id == engine)).first()
    succeeded, failed = ends or (0, 0)
    return QueueCounts(waiting + in_window[0], in_window[1], succeeded, failed)


def past_queue_deadline(connection: Connection, now: float, limit: int, but_of: tuple[str, ...] = ()) -> list[JobRow]:
    """Return queued jobs whose time in the queue is over, without those of the engines `but_of`."""
    query = _WITHOUT_OPTIONS.where(
        jobs.c.status == Status.QUEUED.value, jobs.c.queue_deadline <= now, jobs.c.engine.not_in(but_of)
    )
    return _jobs(connection, query.limit(limit))


def handed_over(connection: Connection, before: float) -> list[JobRow]:
    """Return unfinished jobs that were handed over before that moment: at most a window of each engine."""
    query = _WITHOUT_PAYLOAD.where(jobs.c.handed_over_at.is_not(None), jobs.c.handed_over_at < before)
    return _jobs(connection, query.order_by(jobs.c.engine, jobs.c.handed_over_at))


def waiting(connection: Connection, engine: str, limit: int) -> list[JobRow]:
    """Return queued jobs of an engine, the oldest first."""
    query = _WITHOUT_OPTIONS.where(jobs.c.engine == engine, jobs.c.status == Status.QUEUED.value)
    return _jobs(connection, query.order_by(jobs.c.id).limit(limit))


def unfinished_of(connection: Connection, engines: list[str], limit: int) -> list[JobRow]:
    """Return jobs of these engines that have not ended."""
    query = _WITHOUT_OPTIONS.where(jobs.c.engine.in_(engines), jobs.c.status.in_(UNFINISHED))
    return _jobs(connection, query.limit(limit))


def unfinished_of_tenant(connection: Connection, tenant: str, limit: int) -> list[JobRow]:
    """Return jobs of a tenant that have not ended."""
    query = _WITHOUT_OPTIONS.where(jobs.c.tenant == tenant, jobs.c.status.in_(UNFINISHED))
    return _jobs(connection, query.limit(limit))


def of_tenant(connection: Connection, tenant: str, limit: int) -> list[JobRow]:
    """Return jobs of a tenant, the oldest first."""
    return _jobs(connection, _WITHOUT_PAYLOAD.where(jobs.c.tenant == tenant).order_by(jobs.c.id).limit(limit))


def rows_of_tenant(connection: Connection, tenant: str) -> int:
    """Return how many rows of all tables are about a tenant, its engines included."""
    owned = [table.c.tenant == tenant for table in (jobs, idempotency_keys, dead_letters, notices)]
    owned.append(engines.c.id.startswith(f"{tenant}--", autoescape=True))
    return sum(connection.execute(select(func.count()).where(mine)).scalar_one() for mine in owned)


def last_ended(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Return ids and engines of ended jobs that still have their result: those accepted last, the newest first."""
    query = select(jobs.c.id, jobs.c.engine).where(jobs.c.finished_at.is_not(None), jobs.c.purged.is_(False))
    return [(row.id, row.engine) for row in connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))]


def ended_of(connection: Connection, engine: str, before: str | None, limit: int) -> list[str]:
    """Return ids of an engine's ended jobs that were accepted before the job `before`, the newest first."""
    query = select(jobs.c.id).where(jobs.c.engine == engine, jobs.c.finished_at.is_not(None), jobs.c.purged.is_(False))
    if before:
        query = query.where(jobs.c.id < before)
    return list(connection.execute(query.order_by(jobs.c.id.desc()).limit(limit)).scalars())


def answered_by(connection: Connection, engine: str, version: str | None, now: float, limit: int) -> list[str]:
    """Return ids of jobs that a version of an engine has answered and whose input is kept, those accepted last first."""
    query = select(jobs.c.id).where(
        jobs.c.engine == engine,
        jobs.c.version == version,
        jobs.c.status.in_([Status.SUCCEEDED.value, Status.FAILED.value, Status.TIMED_OUT.value]),
        jobs.c.purged.is_(False),
        jobs.c.result_expires_at > now,
        or_(jobs.c.input.is_not(None), jobs.c.input_ref.is_not(None)),
    )
    return list(connection.execute(query.order_by(jobs.c.id.desc()).limit(limit)).scalars())


def past_result(connection: Connection, now: float, limit: int) -> list[JobRow]:
    """Return ended jobs whose result has expired but is still kept."""
    query = _WITHOUT_OPTIONS.where(jobs.c.purged.is_(False), jobs.c.result_expires_at <= now)
    return _jobs(connection, query.limit(limit))


def list_dead_letters(
    connection: Connection, tenant: str | None, after: tuple[float, str] | None, limit: int
) -> list[DeadLetterRow]:
    """Return a page of a tenant's dead letters, newest first, after the letter of that moment and id.

    With `tenant` None, return the letters that nobody could parse.
    """
    query = _LETTERS_WITHOUT_EVENT.where(
        dead_letters.c.tenant.is_(None) if tenant is None else dead_letters.c.tenant == tenant
    )
    if after:
        query = query.where(tuple_(dead_letters.c.created_at, dead_letters.c.id) < tuple_(*after))
    query = query.order_by(dead_letters.c.created_at.desc(), dead_letters.c.id.desc()).limit(limit)
    return [DeadLetterRow.from_row(row) for row in connection.execute(query)]


def dead_letter(connection: Connection, letter_id: str) -> DeadLetterRow | None:
    """Return one dead letter, with its event if that was kept."""
    row = connection.execute(select(dead_letters).where(dead_letters.c.id == letter_id)).first()
    return None if row is None else DeadLetterRow.from_row(row)


def followed(connection: Connection, job_id: str, sequence: int, limit: int) -> tuple[JobRow | None, list[JobEventRow]]:
    """Return a job without its payload, and its engine's reports about it after the event `sequence`."""
    row = connection.execute(_WITHOUT_OPTIONS.where(jobs.c.id == job_id)).first()
    query = select(job_events).where(job_events.c.job_id == job_id, job_events.c.sequence > sequence)
    reported = connection.execute(query.order_by(job_events.c.sequence).limit(limit))
    return None if row is None else JobRow.from_row(row), [JobEventRow._make(event) for event in reported]


def known_engines(connection: Connection) -> list[EngineRow]:
    """Return the engines as they were last known."""
    return [EngineRow.from_row(row) for row in connection.execute(select(engines))]


_STATES = _without(engines.c, "card")


def engine_states(connection: Connection) -> list[EngineRow]:
    """Return the engines without their cards, because this is asked every second."""
    return [EngineRow.from_row(row) for row in connection.execute(_STATES)]
