"""Writes that move jobs: accepted, handed over, taken back. Each takes all items of its kind that a group holds."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from enginehouse.contracts.errors import AlreadyRedriven, EventReused, IdempotencyKeyReused
from enginehouse.contracts.job import Status, StatusReason
from enginehouse.gateway.ledger.schema import BACKLOG, dead_letters, idempotency_keys, jobs


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Makes a submit safe to repeat: the same key and request is the same job."""

    scope: str
    """`http`, or `event` for an upstream event's (source, id)."""
    key: str
    request_hash: str
    expires_at: float


@dataclass(slots=True)
class NewJob:
    """A job to be accepted."""

    row: dict[str, Any]
    """Columns of `jobs`."""
    window: int
    """How many jobs of its engine may be handed over and unfinished; 0 while it is paused."""
    idempotency: IdempotencyKey | None = None
    redrives: str | None = None
    """The dead letter that becomes this job, unless it became another one before."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a submit."""

    job_id: str
    handed_over: bool
    """Whether the job got room in its engine's window, and must be published now."""
    existing: bool = False
    """Whether an earlier submit with the same idempotency key made this job."""


def _known_keys(connection: Connection, items: Sequence[NewJob]) -> dict[tuple[str, str, str], tuple[str, str]]:
    known = {}
    for item in items:
        if item.idempotency is None:
            continue
        tenant = item.row["tenant"]
        found = connection.execute(
            select(idempotency_keys.c.request_hash, idempotency_keys.c.job_id, idempotency_keys.c.expires_at).where(
                this_key := and_(
                    idempotency_keys.c.tenant == tenant,
                    idempotency_keys.c.scope == item.idempotency.scope,
                    idempotency_keys.c.key == item.idempotency.key,
                )
            )
        ).first()
        if found and found.expires_at <= item.row["created_at"]:
            connection.execute(delete(idempotency_keys).where(this_key))
        elif found:
            known[tenant, item.idempotency.scope, item.idempotency.key] = (found.request_hash, found.job_id)
    return known


# What every submit asks is put together once: building a statement anew costs several times its execution.
_IN_WINDOWS = (
    select(jobs.c.engine, func.count())
    .where(jobs.c.handed_over_at.is_not(None), jobs.c.engine.in_(bindparam("engines", expanding=True)))
    .group_by(jobs.c.engine)
)
_ONE_WAITING = select(jobs.c.id).where(jobs.c.engine == bindparam("engine"), text(BACKLOG)).limit(1)
_INSERT_JOBS, _INSERT_KEYS = insert(jobs), insert(idempotency_keys)
_TRY_LOCKS = text("SELECT e FROM unnest(CAST(:engines AS text[])) e WHERE pg_try_advisory_xact_lock(hashtext(e))")


def _ours(connection: Connection, engines: list[str]) -> list[str]:
    """Those engines whose windows no other gateway counts at this moment; until the end of the transaction they are ours.

    Never waits for the others: two gateways that hold one engine each and want the other's would wait for ever.
    """
    if connection.dialect.name != "postgresql" or not engines:
        return engines
    return list(connection.execute(_TRY_LOCKS, {"engines": engines}).scalars())


def _rooms(connection: Connection, items: Sequence[NewJob]) -> dict[str, int]:
    """How many jobs each engine of these may be handed at once: none while older ones wait for it."""
    windows = {item.row["engine"]: item.window for item in items}
    open_engines = _ours(connection, [engine for engine, window in windows.items() if window > 0])
    taken: dict[str, int] = dict(connection.execute(_IN_WINDOWS, {"engines": open_engines}).all())
    rooms = {engine: windows[engine] - taken.get(engine, 0) for engine in open_engines}
    for engine in open_engines:
        if rooms[engine] > 0 and connection.execute(_ONE_WAITING, {"engine": engine}).first():
            rooms[engine] = 0
    return rooms


def _redriven_before(connection: Connection, item: NewJob) -> str | None:
    """Have the dead letter of a job, if it is of one, become this job; the job that it became before, if it did."""
    if item.redrives is None:
        return None
    letter = dead_letters.c.id == item.redrives
    claim = update(dead_letters).where(letter, dead_letters.c.redriven_as.is_(None))
    if connection.execute(claim.values(redriven_as=item.row["id"])).rowcount:
        return None
    # None, too, where it was discarded meanwhile: its job may be submitted again all the same.
    return connection.execute(select(dead_letters.c.redriven_as).where(letter)).scalar()


def insert_jobs(connection: Connection, items: list[NewJob]) -> list[Inserted | Exception]:
    """Accept jobs, in the order given, handing over as many as there is room for."""
    known = _known_keys(connection, items)
    rooms = _rooms(connection, items)
    results: list[Inserted | Exception] = []
    rows, keys = [], []
    for item in items:
        tenant, engine = item.row["tenant"], item.row["engine"]
        if item.idempotency:
            name = (tenant, item.idempotency.scope, item.idempotency.key)
            if name in known:
                request_hash, job_id = known[name]
                if request_hash == item.idempotency.request_hash:
                    results.append(Inserted(job_id, handed_over=False, existing=True))
                else:
                    results.append(EventReused() if item.idempotency.scope == "event" else IdempotencyKeyReused())
                continue
        if first := _redriven_before(connection, item):
            results.append(AlreadyRedriven(f"Dead letter {item.redrives} was redriven before, as job {first}"))
            continue
        if item.idempotency:
            known[name] = (item.idempotency.request_hash, item.row["id"])
            keys.append(
                {
                    "tenant": tenant,
                    "scope": item.idempotency.scope,
                    "key": item.idempotency.key,
                    "request_hash": item.idempotency.request_hash,
                    "job_id": item.row["id"],
                    "expires_at": item.idempotency.expires_at,
                }
            )
        handed_over = rooms.get(engine, 0) > 0
        if handed_over:
            rooms[engine] -= 1
        rows.append(
            item.row
            | {
                "status": Status.QUEUED.value,
                "available_at": item.row["created_at"],
                "handed_over_at": item.row["created_at"] if handed_over else None,
                "hand_overs": 1 if handed_over else 0,
            }
        )
        results.append(Inserted(item.row["id"], handed_over))
    if rows:
        connection.execute(_INSERT_JOBS, rows)
    if keys:
        connection.execute(_INSERT_KEYS, keys)
    return results


@dataclass(frozen=True, slots=True)
class FillWindow:
    """Hand over jobs of an engine as far as its window has room."""

    engine: str
    window: int
    now: float


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
# The same question, each time answered from ix_jobs_backlog alone: SQLite knows no LATERAL, and PostgreSQL would scan
# the table for the other form.
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
class _Turn:
    """Whose turn it is: a tenant with more jobs in the window already stands further back."""

    ahead: Counter[str] = field(default_factory=Counter)
    positions: dict[str, Any] = field(default_factory=lambda: defaultdict(count))

    def order(self, candidates: Sequence[Row[Any]]) -> list[Row[Any]]:
        ranked = []
        for row in sorted(candidates, key=lambda row: (-row.priority, row.id)):
            rank = self.ahead[row.tenant] + next(self.positions[row.tenant])
            ranked.append(((-row.priority, rank, row.id), row))
        return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


_EVENT_COLUMNS = (
    jobs.c.id,
    jobs.c.tenant,
    jobs.c.engine,
    jobs.c.attempts,
    jobs.c.hand_overs,
    jobs.c.input,
    jobs.c.input_ref,
    jobs.c.options,
    jobs.c.traceparent,
    jobs.c.queue_deadline,
    jobs.c.result_ttl_seconds,
)


def fill_windows(connection: Connection, items: list[FillWindow]) -> list[list[Row[Any]] | None]:
    """Mark as handed over, for each engine, the jobs that follow; they must be published once committed.

    None: another gateway is at this engine's window; ask again in a moment.
    """
    ours = set(_ours(connection, sorted({item.engine for item in items})))
    return [_fill_window(connection, item) if item.engine in ours else None for item in items]


def _fill_window(connection: Connection, item: FillWindow) -> list[Row[Any]]:
    ahead: Counter[str] = Counter(
        dict(
            connection.execute(
                select(jobs.c.tenant, func.count())
                .where(jobs.c.engine == item.engine, jobs.c.handed_over_at.is_not(None))
                .group_by(jobs.c.tenant)
            ).all()
        )
    )
    room = item.window - ahead.total()
    if room <= 0:
        return []
    candidates = connection.execute(
        _CANDIDATES[connection.dialect.name], {"engine": item.engine, "now": item.now, "room": room}
    ).all()
    chosen = [row.id for row in _Turn(ahead).order(candidates)[:room]]
    if not chosen:
        return []
    taken = (
        update(jobs)
        .where(jobs.c.id.in_(chosen), jobs.c.status == Status.QUEUED.value, jobs.c.handed_over_at.is_(None))
        .values(handed_over_at=item.now, hand_overs=jobs.c.hand_overs + 1, status_reason=None)
        .returning(*_EVENT_COLUMNS)
    )
    rows = {row.id: row for row in connection.execute(taken)}
    return [rows[job_id] for job_id in chosen if job_id in rows]


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Undo a hand-over that did not happen or got lost: the job waits in the ledger again."""

    job_ids: tuple[str, ...]
    reason: StatusReason | None
    handed_over_until: float
    """Only those handed over no later: another gateway may just have handed one over again."""


def take_back(connection: Connection, items: list[TakeBack]) -> list[None]:
    """Put unfinished jobs back into the queue."""
    for item in items:
        connection.execute(
            update(jobs)
            .where(
                jobs.c.id.in_(item.job_ids),
                jobs.c.status.in_(["queued", "running"]),
                jobs.c.handed_over_at <= item.handed_over_until,
            )
            .values(handed_over_at=None, status="queued", status_reason=item.reason)
        )
    return [None] * len(items)


def upsert(connection: Connection, table: Any) -> Any:
    """The dialect's INSERT that can resolve conflicts."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
