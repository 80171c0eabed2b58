"""Questions to the ledger."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, text, tuple_

from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.schema import BACKLOG, dead_letters, job_events, jobs

_LISTED = [column for column in jobs.c if column.name not in ("input", "output", "options")]


def job(connection: Connection, job_id: str) -> Row[Any] | None:
    """One job, whole."""
    return connection.execute(select(jobs).where(jobs.c.id == job_id)).first()


def engines_of(connection: Connection, job_ids: list[str]) -> dict[str, str]:
    """The engine that the ledger names for each of these jobs it has."""
    return dict(connection.execute(select(jobs.c.id, jobs.c.engine).where(jobs.c.id.in_(job_ids))).all())


@dataclass(frozen=True, slots=True)
class Listing:
    """Which of a tenant's jobs to list: newest first, after the job `cursor`."""

    tenant: str
    engine: str | None
    status: Status | None
    cursor: str | None
    limit: int


def list_jobs(connection: Connection, listing: Listing) -> list[Row[Any]]:
    """A page of a tenant's jobs, without inputs and outputs."""
    query = select(*_LISTED).where(jobs.c.tenant == listing.tenant)
    if listing.engine:
        query = query.where(jobs.c.engine == listing.engine)
    if listing.status:
        query = query.where(jobs.c.status == listing.status.value)
    if listing.cursor:
        query = query.where(jobs.c.id < listing.cursor)
    return list(connection.execute(query.order_by(jobs.c.id.desc()).limit(listing.limit)))


def backlogs(connection: Connection) -> dict[str, int]:
    """How many jobs of each engine wait in the ledger for room."""
    return dict(
        connection.execute(select(jobs.c.engine, func.count()).where(text(BACKLOG)).group_by(jobs.c.engine)).all()
    )


def past_queue_deadline(connection: Connection, now: float, limit: int, but_of: tuple[str, ...] = ()) -> list[Row[Any]]:
    """Queued jobs whose queue clock is over, but not those of the engines `but_of`."""
    return list(
        connection.execute(
            select(
                jobs.c.id,
                jobs.c.engine,
                jobs.c.attempts,
                jobs.c.created_at,
                jobs.c.queue_deadline,
                jobs.c.result_ttl_seconds,
            )
            .where(jobs.c.status == "queued", jobs.c.queue_deadline <= now, jobs.c.engine.not_in(but_of))
            .limit(limit)
        )
    )


def handed_over(connection: Connection, before: float) -> list[Row[Any]]:
    """Unfinished jobs handed over before that moment: at most a window of each engine."""
    return list(
        connection.execute(
            select(
                jobs.c.id,
                jobs.c.engine,
                jobs.c.status,
                jobs.c.attempts,
                jobs.c.worker,
                jobs.c.handed_over_at,
                jobs.c.hand_overs,
                jobs.c.started_at,
                jobs.c.options,
                jobs.c.queue_deadline,
                jobs.c.result_ttl_seconds,
            )
            .where(jobs.c.handed_over_at.is_not(None), jobs.c.handed_over_at < before)
            .order_by(jobs.c.engine, jobs.c.handed_over_at)
        )
    )


def in_flight(connection: Connection) -> dict[str, int]:
    """How many jobs of each tenant have been accepted and not ended."""
    totals: dict[str, int] = {}
    for condition in (text(BACKLOG), jobs.c.handed_over_at.is_not(None)):
        counted = connection.execute(select(jobs.c.tenant, func.count()).where(condition).group_by(jobs.c.tenant))
        for tenant, number in counted:
            totals[tenant] = totals.get(tenant, 0) + number
    return totals


def waiting(connection: Connection, engine: str, limit: int) -> list[Row[Any]]:
    """Jobs of an engine that wait in the ledger, the oldest first."""
    return list(
        connection.execute(
            select(jobs.c.id, jobs.c.engine, jobs.c.queue_deadline, jobs.c.result_ttl_seconds)
            .where(jobs.c.engine == engine, jobs.c.status == "queued")
            .order_by(jobs.c.id)
            .limit(limit)
        )
    )


def unfinished_of(connection: Connection, engines: list[str], limit: int) -> list[Row[Any]]:
    """Jobs of these engines that have not ended."""
    return list(
        connection.execute(
            select(jobs.c.id, jobs.c.engine, jobs.c.attempts)
            .where(jobs.c.engine.in_(engines), jobs.c.status.in_(["queued", "running"]))
            .limit(limit)
        )
    )


def last_ended(connection: Connection, limit: int) -> list[Row[Any]]:
    """The last jobs accepted that have ended, and whose result is not past its time: the newest first."""
    query = select(jobs.c.id, jobs.c.engine).where(jobs.c.finished_at.is_not(None), jobs.c.purged.is_(False))
    return list(connection.execute(query.order_by(jobs.c.id.desc()).limit(limit)))


def ended_of(connection: Connection, engine: str, before: str | None, limit: int) -> list[str]:
    """Jobs of an engine that have ended, accepted before the job `before`: the newest first."""
    query = select(jobs.c.id).where(jobs.c.engine == engine, jobs.c.finished_at.is_not(None), jobs.c.purged.is_(False))
    if before:
        query = query.where(jobs.c.id < before)
    return list(connection.execute(query.order_by(jobs.c.id.desc()).limit(limit)).scalars())


def list_dead_letters(
    connection: Connection, tenant: str | None, after: tuple[float, str] | None, limit: int
) -> list[Row[Any]]:
    """A page of a tenant's dead letters, newest first, after the one made then with that id.

    `tenant` None: what nobody could parse.
    """
    query = select(*(column for column in dead_letters.c if column.name != "event"))
    query = query.where(dead_letters.c.tenant.is_(None) if tenant is None else dead_letters.c.tenant == tenant)
    if after:
        query = query.where(tuple_(dead_letters.c.created_at, dead_letters.c.id) < tuple_(*after))
    query = query.order_by(dead_letters.c.created_at.desc(), dead_letters.c.id.desc())
    return list(connection.execute(query.limit(limit)))


def dead_letter(connection: Connection, letter_id: str) -> Row[Any] | None:
    """One dead letter, with the event where it was kept."""
    return connection.execute(select(dead_letters).where(dead_letters.c.id == letter_id)).first()


def job_events_after(connection: Connection, job_id: str, sequence: int, limit: int) -> list[Row[Any]]:
    """What an engine told of a job after the event `sequence`."""
    return list(
        connection.execute(
            select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.sequence > sequence)
            .order_by(job_events.c.sequence)
            .limit(limit)
        )
    )


def past_result(connection: Connection, now: float, limit: int) -> list[Row[Any]]:
    """Ended jobs whose result is past its time and still there."""
    return list(
        connection.execute(
            select(jobs.c.id, jobs.c.tenant, jobs.c.input_ref, jobs.c.output_ref)
            .where(jobs.c.purged.is_(False), jobs.c.result_expires_at <= now)
            .limit(limit)
        )
    )
