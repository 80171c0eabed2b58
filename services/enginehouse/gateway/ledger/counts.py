"""Reads how many jobs wait or are handed over, from the counts that the database keeps, and checks the counts."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, text

from enginehouse.gateway.ledger.schema import BACKLOG, NOT_YET

_SUMS = "sum(waiting) AS waiting, sum(handed_over) AS handed_over"
_NOT_ZERO = "HAVING sum(waiting) <> 0 OR sum(handed_over) <> 0"
OF_ENGINES = text(f"SELECT engine, {_SUMS} FROM job_counts GROUP BY engine {_NOT_ZERO}")  # noqa: S608
OF_TENANTS = text(f"SELECT engine, tenant, {_SUMS} FROM job_counts GROUP BY engine, tenant {_NOT_ZERO}")  # noqa: S608
OF_THESE = text(
    f"SELECT engine, {_SUMS} FROM job_counts WHERE engine IN :engines GROUP BY engine {_NOT_ZERO}"  # noqa: S608
).bindparams(bindparam("engines", expanding=True))

_NOT_YET_MOST = 10_000
_NOT_YET_OF_ENGINES = text(
    f"SELECT engine, count(*) FROM (SELECT engine FROM jobs WHERE {NOT_YET} AND available_at > :now "  # noqa: S608
    f"ORDER BY available_at LIMIT {_NOT_YET_MOST}) AS not_yet GROUP BY engine"
)
"""The order keeps PostgreSQL at the index."""

_BOTH = f"""
    SELECT tenant, waiting, handed_over FROM job_counts WHERE engine = :engine
    UNION ALL SELECT tenant, -count(*), 0 FROM jobs WHERE engine = :engine AND {BACKLOG} GROUP BY tenant
    UNION ALL SELECT tenant, 0, -count(*) FROM jobs WHERE engine = :engine AND handed_over_at IS NOT NULL GROUP BY tenant
"""  # noqa: S608 - BACKLOG is a constant
WRONG = text(
    f"SELECT tenant, {_SUMS} FROM ({_BOTH}) AS counted_and_true GROUP BY tenant {_NOT_ZERO}"  # noqa: S608
)
"""One statement, so that it compares what one moment shows, whatever others commit meanwhile."""

_SHARD = {"sqlite": "0", "postgresql": "pg_backend_pid()"}
_ADD = (
    "INSERT INTO job_counts (engine, tenant, shard, waiting, handed_over) "
    "VALUES (:engine, :tenant, {shard}, :waiting, :handed_over) ON CONFLICT (engine, tenant, shard) "
    "DO UPDATE SET waiting = job_counts.waiting + excluded.waiting, "
    "handed_over = job_counts.handed_over + excluded.handed_over"
)
TAKE = {
    "sqlite": text("DELETE FROM job_counts WHERE waiting = 0 AND handed_over = 0 RETURNING engine, tenant, 0, 0"),
    # Rows that a transaction is changing are left for the next time, so that this waits for nobody.
    "postgresql": text(
        "DELETE FROM job_counts WHERE ctid IN (SELECT ctid FROM job_counts WHERE shard <> pg_backend_pid() "
        "OR (waiting = 0 AND handed_over = 0) FOR UPDATE SKIP LOCKED) RETURNING engine, tenant, waiting, handed_over"
    ),
}


class EngineCount(NamedTuple):
    """Jobs that wait for an engine, or are handed over to it and have not ended."""

    engine: str
    waiting: int
    handed_over: int


class TenantCount(NamedTuple):
    """The same of one tenant."""

    engine: str
    tenant: str
    waiting: int
    handed_over: int


def of_engines(connection: Connection) -> dict[str, EngineCount]:
    """Return the counts of all engines that have such jobs, by engine."""
    return _by_engine(connection.execute(OF_ENGINES))


def due_of_engines(connection: Connection, now: float) -> dict[str, EngineCount]:
    """Return the counts of all engines, without the jobs that wait for the moment of their next attempt.

    If more than 10,000 do, the others count as due, so that what this costs is bounded.
    """
    not_yet = {engine: int(number) for engine, number in connection.execute(_NOT_YET_OF_ENGINES, {"now": now})}
    return {
        engine: count._replace(waiting=max(0, count.waiting - not_yet.get(engine, 0)))
        for engine, count in of_engines(connection).items()
    }


def of_tenants(connection: Connection) -> list[TenantCount]:
    """Return the counts of all engines and tenants that have such jobs."""
    return [
        TenantCount(engine, tenant, int(w), int(h)) for engine, tenant, w, h in connection.execute(OF_TENANTS).all()
    ]


def of_these(connection: Connection, engines: Sequence[str]) -> dict[str, EngineCount]:
    """Return the counts of those of these engines that have such jobs, by engine."""
    return _by_engine(connection.execute(OF_THESE, {"engines": engines})) if engines else {}


def _by_engine(rows: Iterable[Any]) -> dict[str, EngineCount]:
    return {engine: EngineCount(engine, int(waiting), int(handed_over)) for engine, waiting, handed_over in rows}


def wrong(connection: Connection, engine: str) -> list[TenantCount]:
    """Count the jobs of an engine; return by how much the counts of its tenants are too high, where they are wrong."""
    found = connection.execute(WRONG, {"engine": engine})
    return [TenantCount(engine, tenant, int(w), int(h)) for tenant, w, h in found]


def correct(connection: Connection, engines: list[str]) -> list[None]:
    """Correct the counts of engines. What is wrong is subtracted, so that changes by other connections stay counted."""
    for engine in engines:
        _add(
            connection, [(engine, each.tenant, -each.waiting, -each.handed_over) for each in wrong(connection, engine)]
        )
    return [None] * len(engines)


def fold(connection: Connection, items: list[None]) -> list[None]:
    """Drop counts that are zero, and add up the rows of connections that may have ended."""
    taken = connection.execute(TAKE[connection.dialect.name]).all()
    _add(connection, [tuple(row) for row in taken if any(row[2:])])
    return [None] * len(items)


def _add(connection: Connection, changes: list[tuple[Any, ...]]) -> None:
    if changes:
        statement = text(_ADD.format(shard=_SHARD[connection.dialect.name]))
        connection.execute(statement, [dict(zip(TenantCount._fields, change, strict=True)) for change in changes])
