"""Reads the ledger: its queries, as functions over a connection."""

import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    Connection,
    Select,
    and_,
    bindparam,
    func,
    literal_column,
    null,
    select,
    text,
    tuple_,
    union_all,
)

from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger import counts
from enginehouse.gateway.ledger.rows import UNFINISHED, DeadLetterRow, EngineRow, JobEventRow, JobRow, ListedJob
from enginehouse.gateway.ledger.schema import (
    OF_NO_JOB,
    THESE_JOBS,
    dead_letters,
    engines,
    idempotency_keys,
    job_counts,
    job_events,
    jobs,
    notices,
    unfinished_ids,
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


def _jobs(connection: Connection, query: "Select[Any]", **parameters: Any) -> list[JobRow]:
    return [JobRow.from_row(row) for row in connection.execute(query, parameters).all()]


def answers(connection: Connection) -> bool:
    """Return True if the ledger answers."""
    return connection.execute(text("SELECT 1")).scalar() == 1


def job(connection: Connection, job_id: str) -> JobRow | None:
    """Return one job with all its columns."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    return None if row is None else JobRow.from_row(row)


def these_jobs(connection: Connection, job_ids: Sequence[str]) -> dict[str, JobRow]:
    """Return those of these jobs that the ledger has, with all their columns, by id."""
    return {row.id: row for row in _jobs(connection, THESE_JOBS[connection.dialect.name], ids=list(job_ids))}


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


@functools.cache
def page(*, by_engine: bool, by_status: bool, deep: bool) -> "Select[Any]":
    """Return the query for a page with these filters: newest first, after a cursor if `deep`.

    Within one status, the indexes hold a tenant's jobs in order: no more than a page of each status is read. Each form is
    built once, because building takes longer than a page.
    """
    mine = [jobs.c.tenant == bindparam("tenant")]
    mine += [jobs.c.engine == bindparam("engine")] if by_engine else []
    mine += [jobs.c.id < bindparam("cursor")] if deep else []
    wanted: list[Any] = [bindparam("status")] if by_status else [literal_column(f"'{status}'") for status in Status]
    limit: BindParameter[int] = bindparam("limit")
    newest = jobs.c.id.desc()
    of_each = [
        select(jobs.c.id).where(*mine, jobs.c.status == status).order_by(newest).limit(limit) for status in wanted
    ]
    candidates = union_all(*(select(ids.subquery().c.id) for ids in of_each)).subquery()
    ids = select(candidates.c.id).order_by(candidates.c.id.desc()).limit(limit)
    return _LISTED.where(jobs.c.id.in_(ids)).order_by(newest)


def list_jobs(connection: Connection, listing: Listing) -> list[ListedJob]:
    """Return a page of a tenant's jobs."""
    query = page(
        by_engine=listing.engine is not None, by_status=listing.status is not None, deep=listing.cursor is not None
    )
    return [ListedJob._make(row) for row in connection.execute(query, asdict(listing)).all()]


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Jobs of an engine: waiting and running now, ended since the ledger began."""

    queued: int
    running: int
    succeeded: int
    failed: int


_THESE: BindParameter[list[str]] = bindparam("engines", expanding=True)
_IN_WINDOWS = (
    select(jobs.c.engine, jobs.c.status, func.count())
    .where(jobs.c.engine.in_(_THESE), jobs.c.handed_over_at.is_not(None))
    .group_by(jobs.c.engine, jobs.c.status)
)
_ENDED = select(engines.c.id, engines.c.succeeded, engines.c.failed).where(engines.c.id.in_(_THESE))


def queue_counts(connection: Connection, engine_ids: list[str]) -> dict[str, QueueCounts]:
    """Count the jobs of each of these engines."""
    these = {"engines": engine_ids}
    counted = counts.of_these(connection, engine_ids)
    in_windows = {(engine, status): number for engine, status, number in connection.execute(_IN_WINDOWS, these)}
    ended = {engine: (succeeded, failed) for engine, succeeded, failed in connection.execute(_ENDED, these)}
    return {
        engine: QueueCounts(
            (counted[engine].waiting if engine in counted else 0) + in_windows.get((engine, Status.QUEUED.value), 0),
            in_windows.get((engine, Status.RUNNING.value), 0),
            *ended.get(engine, (0, 0)),
        )
        for engine in engine_ids
    }


def past_queue_deadline(connection: Connection, now: float, limit: int, but_of: tuple[str, ...] = ()) -> list[JobRow]:
    """Return queued jobs whose time in the queue is over, without those of the engines `but_of`."""
    query = _WITHOUT_OPTIONS.where(
        jobs.c.status == literal_column("'queued'"), jobs.c.queue_deadline <= now, jobs.c.engine.not_in(but_of)
    )
    # The order makes PostgreSQL take the index: it expects many such jobs, and would look for the first in the whole table.
    return _jobs(connection, query.order_by(jobs.c.queue_deadline).limit(limit))


# From one engine to the next, so that engines whose jobs only wait cost nothing.
_FIRST_IN_HAND = "SELECT min(engine) FROM jobs WHERE handed_over_at IS NOT NULL"
_ENGINES_IN_HAND = text(f"""
    WITH RECURSIVE in_hand(engine) AS (
        {_FIRST_IN_HAND}
        UNION ALL
        SELECT ({_FIRST_IN_HAND} AND engine > in_hand.engine) FROM in_hand WHERE in_hand.engine IS NOT NULL
    )
    SELECT engine FROM in_hand WHERE engine IS NOT NULL
""")  # noqa: S608 - no part of it is a value


def engines_in_hand(connection: Connection) -> list[str]:
    """Return the engines that have jobs handed over to them, which have not ended."""
    return list(connection.execute(_ENGINES_IN_HAND).scalars())


def handed_over(connection: Connection, engines: list[str], before: float) -> list[JobRow]:
    """Return unfinished jobs of these engines that were handed over before that moment: at most a window of each."""
    query = _WITHOUT_PAYLOAD.where(
        jobs.c.engine.in_(engines), jobs.c.handed_over_at.is_not(None), jobs.c.handed_over_at < before
    )
    return _jobs(connection, query.order_by(jobs.c.engine, jobs.c.handed_over_at))


UNFINISHED_OF = _WITHOUT_OPTIONS.where(jobs.c.id.in_(unfinished_ids()))
QUEUED_OF = _WITHOUT_OPTIONS.where(jobs.c.id.in_(unfinished_ids(jobs.c.status == literal_column("'queued'"))))


def waiting(connection: Connection, engine: str, limit: int) -> list[JobRow]:
    """Return queued jobs of an engine: up to `limit` that wait, and as many that are handed over."""
    return _jobs(connection, QUEUED_OF, engine=engine, limit=limit)


def unfinished_of(connection: Connection, engines: list[str], limit: int) -> list[JobRow]:
    """Return jobs of these engines that have not ended: of each up to `limit` that wait, and as many that are handed over."""
    with_jobs = sorted(counts.of_engines(connection).keys() & set(engines))
    return [row for engine in with_jobs for row in _jobs(connection, UNFINISHED_OF, engine=engine, limit=limit)]


def unfinished_of_tenant(connection: Connection, tenant: str, limit: int) -> list[JobRow]:
    """Return jobs of a tenant that have not ended."""
    query = _WITHOUT_OPTIONS.where(jobs.c.tenant == tenant, jobs.c.status.in_(UNFINISHED))
    return _jobs(connection, query.limit(limit))


def of_tenant(connection: Connection, tenant: str, limit: int) -> list[JobRow]:
    """Return jobs of a tenant."""
    return _jobs(connection, _WITHOUT_PAYLOAD.where(jobs.c.tenant == tenant).limit(limit))


def rows_of_tenant(connection: Connection, tenant: str) -> int:
    """Return how many rows of all tables are about a tenant, its engines included."""
    owned = [table.c.tenant == tenant for table in (jobs, job_counts, idempotency_keys, dead_letters)]
    # The other notices go with their jobs.
    owned.append(and_(text(OF_NO_JOB), notices.c.tenant == tenant))
    owned.append(engines.c.id.startswith(f"{tenant}--", autoescape=True))
    return sum(connection.execute(select(func.count()).where(mine)).scalar_one() for mine in owned)


def last_ended(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Return ids and engines of ended jobs that still have their result: those accepted last, the newest first."""
    query = select(jobs.c.id, jobs.c.engine).where(jobs.c.finished_at.is_not(None), jobs.c.purged.is_(False))
    return [(row.id, row.engine) for row in connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))]


def past_result(connection: Connection, now: float, limit: int) -> list[JobRow]:
    """Return ended jobs whose result has expired but is still kept."""
    query = _WITHOUT_OPTIONS.where(jobs.c.purged.is_(False), jobs.c.result_expires_at <= now)
    return _jobs(connection, query.order_by(jobs.c.result_expires_at).limit(limit))


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


_STATES = _without(engines.c, "card").where(engines.c.updated_at > bindparam("since"))


def engine_states(connection: Connection, since: float) -> list[EngineRow]:
    """Return the engines whose row was written after that moment, without their cards: this is asked every second."""
    return [EngineRow.from_row(row) for row in connection.execute(_STATES, {"since": since})]
