"""Inserts accepted jobs with their idempotency keys, and hands them over if their engines' windows have room."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select, update

from enginehouse.contracts.errors import AlreadyRedriven, EventReused, IdempotencyKeyReused, RequestError
from enginehouse.gateway.ledger.counts import EngineCount
from enginehouse.gateway.ledger.rows import JobRow, to_column
from enginehouse.gateway.ledger.schema import dead_letters, idempotency_keys, jobs
from enginehouse.gateway.ledger.windows import FillWindow, fill_windows, lock_windows


class IdempotencyScope(StrEnum):
    """Source of an idempotency key."""

    HTTP = "http"
    """The caller's header Idempotency-Key."""
    EVENT = "event"
    """The source and id of an upstream event."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """Makes a submit safe to repeat: the same key with the same request is the same job."""

    scope: IdempotencyScope
    key: str
    request_hash: str
    expires_at: float


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be accepted."""

    row: JobRow
    window: int
    """How many jobs of its engine may be handed over and unfinished; 0 while it is paused."""
    idempotency: IdempotencyKey | None = None
    redrives: str | None = None
    """Id of the dead letter that becomes this job, unless it became another job before."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """The result of accepting a job."""

    job_id: str
    handed_over: bool
    """Whether the job got a place in its engine's window; then it must be published now."""
    existing: bool = False
    """Whether an earlier submit with the same idempotency key made the job."""


KeyName = tuple[str, IdempotencyScope, str]
"""Tenant, scope and key."""


def _known_keys(connection: Connection, items: Sequence[NewJob]) -> dict[KeyName, tuple[str, str]]:
    """Return, for each known idempotency key of the items, the hash of its request and its job."""
    known = {}
    for item in items:
        if item.idempotency is None:
            continue
        found = connection.execute(
            select(idempotency_keys.c.request_hash, idempotency_keys.c.job_id, idempotency_keys.c.expires_at).where(
                this_key := and_(
                    idempotency_keys.c.tenant == item.row.tenant,
                    idempotency_keys.c.scope == item.idempotency.scope.value,
                    idempotency_keys.c.key == item.idempotency.key,
                )
            )
        ).first()
        if found and found.expires_at <= item.row.created_at:
            connection.execute(delete(idempotency_keys).where(this_key))
        elif found:
            known[_key_name(item)] = (found.request_hash, found.job_id)
    return known


# These statements are built only once: building costs several times as much as executing.
_INSERT_JOBS, _INSERT_KEYS = insert(jobs), insert(idempotency_keys)


def _rooms(items: Sequence[NewJob], locked: Mapping[str, EngineCount]) -> dict[str, int]:
    """Return how many new jobs each engine may get at once: none while older jobs wait for it."""
    windows = {item.row.engine: item.window for item in items if item.row.engine in locked}
    return {
        engine: 0 if locked[engine].waiting else at_most - locked[engine].handed_over
        for engine, at_most in windows.items()
    }


def _redriven_before(connection: Connection, item: NewJob) -> AlreadyRedriven | None:
    """Mark the dead letter that `item` redrives, if any; return the refusal if it was redriven before."""
    if item.redrives is None:
        return None
    letter = dead_letters.c.id == item.redrives
    claim = update(dead_letters).where(letter, dead_letters.c.redriven_as.is_(None))
    if connection.execute(claim.values(redriven_as=item.row.id)).rowcount:
        return None
    # If the letter was discarded meanwhile, `first` is None, and its job may still be submitted again.
    first = connection.execute(select(dead_letters.c.redriven_as).where(letter)).scalar()
    return AlreadyRedriven(f"Dead letter {item.redrives} was redriven before, as job {first}") if first else None


def accept_and_fill(connection: Connection, items: Sequence[NewJob | FillWindow]) -> list[Any]:
    """Accept jobs and fill windows; return a result for each item, in order. All windows are locked at once."""
    new = [item for item in items if isinstance(item, NewJob)]
    fills = [item for item in items if isinstance(item, FillWindow)]
    engines = {item.row.engine for item in new if item.window > 0}
    locked = lock_windows(connection, engines | {item.engine for item in fills}, engines)
    # New jobs first: their windows' counts are those of the moment of the lock.
    inserted = iter(insert_jobs(connection, new, locked) if new else ())
    filled = iter(fill_windows(connection, fills, locked))
    return [next(inserted if isinstance(item, NewJob) else filled) for item in items]


def insert_jobs(
    connection: Connection, items: Sequence[NewJob], locked: Mapping[str, EngineCount]
) -> list[Inserted | Exception]:
    """Accept jobs in the given order, and hand over as many as the `locked` windows have room for."""
    # After the windows are locked: another gateway may have used a key until then.
    known = _known_keys(connection, items)
    rooms = _rooms(items, locked)
    results: list[Inserted | Exception] = []
    rows, keys = [], []
    for item in items:
        if item.idempotency or item.redrives:
            settled = _seen_before(item, known) or _redriven_before(connection, item)
            if settled:
                results.append(settled)
                continue
        if item.idempotency:
            known[_key_name(item)] = (item.idempotency.request_hash, item.row.id)
            keys.append(_key_columns(item, item.idempotency))
        handed_over = rooms.get(item.row.engine, 0) > 0
        if handed_over:
            rooms[item.row.engine] -= 1
        rows.append(_new_columns(item.row, handed_over))
        results.append(Inserted(item.row.id, handed_over))
    if rows:
        connection.execute(_INSERT_JOBS, rows)
    if keys:
        connection.execute(_INSERT_KEYS, keys)
    return results


def _new_columns(row: JobRow, handed_over: bool) -> dict[str, Any]:
    """Return the columns of a new job that have no default. Every submit runs this, so it has no loop and no lookup."""
    return {
        "id": row.id,
        "tenant": row.tenant,
        "engine": row.engine,
        "status": row.status.value,
        "priority": row.priority,
        "input": row.input,
        "input_ref": row.input_ref,
        "options": to_column(row.options),
        "traceparent": row.traceparent,
        "hand_overs": 1 if handed_over else 0,
        "handed_over_at": row.created_at if handed_over else None,
        "available_at": row.available_at,
        "created_at": row.created_at,
        "queue_deadline": row.queue_deadline,
        "result_ttl_seconds": row.result_ttl_seconds,
        "retry_of": row.retry_of,
    }


def _key_name(item: NewJob) -> KeyName:
    assert item.idempotency
    return item.row.tenant, item.idempotency.scope, item.idempotency.key


def _key_columns(item: NewJob, key: IdempotencyKey) -> dict[str, Any]:
    return {
        "tenant": item.row.tenant,
        "scope": key.scope.value,
        "key": key.key,
        "request_hash": key.request_hash,
        "job_id": item.row.id,
        "expires_at": key.expires_at,
    }


def _seen_before(item: NewJob, known: dict[KeyName, tuple[str, str]]) -> Inserted | RequestError | None:
    """Return the job that the idempotency key made before, or the refusal if that was for another request.

    None if the key is new, or if there is none.
    """
    if item.idempotency is None or (found := known.get(_key_name(item))) is None:
        return None
    request_hash, job_id = found
    if request_hash == item.idempotency.request_hash:
        return Inserted(job_id, handed_over=False, existing=True)
    if item.idempotency.scope is IdempotencyScope.EVENT:
        return EventReused("An event with this source and id came before and asked for something different")
    return IdempotencyKeyReused("The Idempotency-Key was used before, with a different request")
