"""Fills engines' windows with the next jobs in fair order, and puts lost jobs back into the queue."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sqlalchemy import Connection, Row, bindparam, func, select, text, update

from enginehouse.contracts.job import Status, StatusReason
from enginehouse.gateway.ledger import counts
from enginehouse.gateway.ledger.counts import EngineCount
from enginehouse.gateway.ledger.rows import UNFINISHED, JobRow
from enginehouse.gateway.ledger.schema import BACKLOG, jobs, unfinished_ids
from enginehouse.turns import Turn, Turns

_LOCK = text("SELECT engine, waiting, handed_over FROM lock_windows(CAST(:engines AS text[]))")


def lock_windows(
    connection: Connection, engines: Collection[str], counted: Collection[str] = ()
) -> dict[str, EngineCount]:
    """Lock the engines' windows until the transaction ends; return the locked ones, with the counts of those in `counted`.

    Over PostgreSQL this waits for other gateways, in one order; called once in a transaction, none wait for each other in a
    circle. An engine is left out if its window is not free in a moment (migration 0007 says how long).
    """
    if connection.dialect.name == "postgresql" and engines:
        return {row.engine: EngineCount._make(row) for row in connection.execute(_LOCK, {"engines": sorted(engines)})}
    nothing = {engine: EngineCount(engine, 0, 0) for engine in engines}
    return nothing | counts.of_these(connection, list(counted)) if counted else nothing


@dataclass(frozen=True, slots=True)
class FillWindow:
    """A request to hand over jobs of an engine, as many as its window has room for."""

    engine: str
    window: int
    now: float
    at_least: int = 1
    """Hand over nothing while there is room for fewer."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """The weights of the tenants that have another one than 1."""
    turns: Turns = field(default_factory=Turns)
    """The tenants' turns at this engine so far. They are only read."""


_TENANTS_WAITING = f"""
    WITH RECURSIVE tenants(tenant) AS (
        SELECT min(tenant) FROM jobs WHERE engine = :engine AND {BACKLOG}
        UNION ALL
        SELECT (SELECT min(tenant) FROM jobs WHERE engine = :engine AND {BACKLOG} AND tenant > tenants.tenant)
        FROM tenants WHERE tenants.tenant IS NOT NULL
    )
"""  # noqa: S608 - BACKLOG is a constant
_FIRST_OF_TENANT = """
    SELECT k.id, k.tenant, k.priority FROM jobs k
    WHERE k.engine = :engine AND k.status = 'queued' AND k.handed_over_at IS NULL
      AND k.tenant = t.tenant AND k.available_at <= :now AND k.queue_deadline > :now
    ORDER BY k.priority DESC, k.id LIMIT :room
"""
# One query in two forms, each of which reads ix_jobs_backlog only: SQLite has no LATERAL, and PostgreSQL would scan the
# whole table for SQLite's form.
_CANDIDATES = {
    "sqlite": text(
        f"{_TENANTS_WAITING} SELECT c.id, c.tenant, c.priority FROM tenants t "  # noqa: S608
        f"JOIN jobs c ON c.id IN (SELECT id FROM ({_FIRST_OF_TENANT})) WHERE t.tenant IS NOT NULL"
    ),
    "postgresql": text(
        f"{_TENANTS_WAITING} SELECT c.id, c.tenant, c.priority FROM tenants t "  # noqa: S608
        f"CROSS JOIN LATERAL ({_FIRST_OF_TENANT}) c WHERE t.tenant IS NOT NULL"
    ),
}


@dataclass(slots=True)
class _FairOrder:
    """Orders candidates by their tenants' turns; a tenant's own jobs by priority, then by age."""

    weights: Mapping[str, float]
    turns: Turns
    in_window: Counter[str]
    """Number of each tenant's jobs that are already in the window: they count as before its candidates."""

    def order(self, candidates: Sequence[Row[Any]]) -> list[Row[Any]]:
        positions: dict[str, Iterator[int]] = defaultdict(count)
        ranked: list[tuple[Turn, str, Row[Any]]] = []
        for row in sorted(candidates, key=lambda row: (-row.priority, row.id)):
            weight, ahead = self.weights.get(row.tenant, 1.0), next(positions[row.tenant])
            ranked.append((self.turns.of(row.tenant, self.in_window[row.tenant], weight, ahead), row.id, row))
        # No two jobs have the same id, so rows are never compared.
        return [row for _, _, row in sorted(ranked)]


def fill_windows(
    connection: Connection, items: Sequence[FillWindow], locked: Collection[str]
) -> list[list[JobRow] | None]:
    """Mark the next jobs of each engine as handed over; they must be published after the commit.

    Return None for an engine whose window is not `locked`, because another gateway has held it for long; ask again.
    """
    return [_fill_window(connection, item) if item.engine in locked else None for item in items]


def _fill_window(connection: Connection, item: FillWindow) -> list[JobRow]:
    in_window: Counter[str] = Counter(
        dict(
            connection.execute(
                select(jobs.c.tenant, func.count())
                .where(jobs.c.engine == item.engine, jobs.c.handed_over_at.is_not(None))
                .group_by(jobs.c.tenant)
            ).all()
        )
    )
    room = item.window - in_window.total()
    if room < item.at_least:
        return []
    candidates = connection.execute(
        _CANDIDATES[connection.dialect.name], {"engine": item.engine, "now": item.now, "room": room}
    ).all()
    chosen = [row.id for row in _FairOrder(item.weights, item.turns, in_window).order(candidates)[:room]]
    if not chosen:
        return []
    taken = (
        update(jobs)
        .where(jobs.c.id.in_(chosen), jobs.c.status == Status.QUEUED.value, jobs.c.handed_over_at.is_(None))
        .values(handed_over_at=item.now, hand_overs=jobs.c.hand_overs + 1, status_reason=None)
        .returning(*jobs.c)
    )
    rows = {row.id: JobRow.from_row(row) for row in connection.execute(taken)}
    return [rows[job_id] for job_id in chosen if job_id in rows]


@dataclass(frozen=True, slots=True)
class NewAddress:
    """A request to make unfinished jobs of a version on trial jobs of its engine."""

    trial: str
    engine: str
    at_once: int
    """Most jobs that wait, and most that are handed over."""


_READDRESS = (
    update(jobs).where(jobs.c.id.in_(unfinished_ids())).values(engine=bindparam("new_engine")).returning(jobs.c.id)
)


def address_anew(connection: Connection, items: list[NewAddress]) -> list[list[str]]:
    """Give the jobs their new engine; return the ids of each item's jobs. Whether they are handed over stays as it is."""
    return [
        list(
            connection.execute(
                _READDRESS, {"engine": item.trial, "limit": item.at_once, "new_engine": item.engine}
            ).scalars()
        )
        for item in items
    ]


@dataclass(frozen=True, slots=True)
class Requeue:
    """A request to put jobs back into the queue, because their hand-over failed or got lost."""

    job_ids: tuple[str, ...]
    reason: StatusReason | None
    """Why they wait again. None: they got lost, which is counted."""
    handed_over_until: float
    """A job that was handed over later than this stays: another gateway has just handed it over again."""


def requeue(connection: Connection, items: list[Requeue]) -> list[None]:
    """Put the unfinished ones of these jobs back into the queue."""
    for item in items:
        more = 1 if item.reason is None else 0
        connection.execute(
            update(jobs)
            .where(
                jobs.c.id.in_(item.job_ids),
                jobs.c.status.in_(UNFINISHED),
                jobs.c.handed_over_at <= item.handed_over_until,
            )
            .values(
                handed_over_at=None,
                status=Status.QUEUED.value,
                status_reason=item.reason,
                losses=jobs.c.losses + more,
            )
        )
    return [None] * len(items)
