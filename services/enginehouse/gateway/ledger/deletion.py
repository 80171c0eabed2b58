"""Deletes rows: what is past its time, in steps that hold up nobody, and what belongs to removed tenants."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, select, text, tuple_, update

from enginehouse.gateway.ledger.schema import (
    OF_NO_JOB,
    dead_letters,
    engines,
    idempotency_keys,
    job_counts,
    job_events,
    jobs,
    notices,
)

_MOMENT: BindParameter[float] = bindparam("moment")
_AT_ONCE: BindParameter[int] = bindparam("at_once")
# Each takes the oldest: the order makes PostgreSQL use the index, however many rows it expects to be old.
OLD_JOBS = (
    select(jobs.c.id)
    .where(jobs.c.purged.is_(True), jobs.c.result_expires_at <= _MOMENT)
    .order_by(jobs.c.result_expires_at)
    .limit(_AT_ONCE)
)
_KEY = tuple_(idempotency_keys.c.tenant, idempotency_keys.c.scope, idempotency_keys.c.key)
OLD_KEYS = delete(idempotency_keys).where(
    _KEY.in_(
        select(*idempotency_keys.primary_key.columns)
        .where(idempotency_keys.c.expires_at <= _MOMENT)
        .order_by(idempotency_keys.c.expires_at)
        .limit(_AT_ONCE)
    )
)
OLD_NOTICES = delete(notices).where(
    notices.c.id.in_(
        select(notices.c.id)
        .where(text(OF_NO_JOB), notices.c.created_at <= _MOMENT)
        .order_by(notices.c.created_at)
        .limit(_AT_ONCE)
    )
)
"""Notices are deleted when they are delivered. These could not be, for example for want of a topic."""
OLD_LETTERS = delete(dead_letters).where(
    dead_letters.c.id.in_(
        select(dead_letters.c.id)
        .where(dead_letters.c.job_id.is_(None), dead_letters.c.created_at <= _MOMENT)
        .order_by(dead_letters.c.created_at)
        .limit(_AT_ONCE)
    )
)


@dataclass(frozen=True, slots=True)
class Forget:
    """A request to delete some of the jobs whose result expired before `before`, and of what else is that old."""

    before: float
    now: float
    at_once: int
    """Most rows of each kind."""


def forget(connection: Connection, items: list[Forget]) -> list[bool]:
    """Delete jobs with all that is about them, idempotency keys, notices and letters; return whether there may be more."""
    more = []
    for item in items:
        old = {"moment": item.before, "at_once": item.at_once}
        job_ids = tuple(connection.execute(OLD_JOBS, old).scalars())
        if job_ids:
            _delete_jobs(connection, job_ids)
        counts = [len(job_ids), connection.execute(OLD_KEYS, {**old, "moment": item.now}).rowcount]
        counts += [connection.execute(statement, old).rowcount for statement in (OLD_NOTICES, OLD_LETTERS)]
        more.append(max(counts) >= item.at_once)
    return more


def delete_payloads(connection: Connection, groups: list[tuple[str, ...]]) -> list[None]:
    """Delete inputs, outputs and reports of jobs."""
    for job_ids in groups:
        connection.execute(delete(job_events).where(job_events.c.job_id.in_(job_ids)))
        connection.execute(
            update(jobs).where(jobs.c.id.in_(job_ids)).values(input=None, output=None, output_ref=None, purged=True)
        )
    return [None] * len(groups)


def delete_jobs(connection: Connection, groups: list[tuple[str, ...]]) -> list[None]:
    """Delete jobs with all that is about them."""
    for job_ids in groups:
        _delete_jobs(connection, job_ids)
    return [None] * len(groups)


def _delete_jobs(connection: Connection, job_ids: tuple[str, ...]) -> None:
    # The dead letter of a job has the job's id.
    about: tuple[Any, ...] = (job_events.c.job_id, notices.c.job_id, dead_letters.c.id, jobs.c.id)
    for column in about:
        connection.execute(delete(column.table).where(column.in_(job_ids)))


def delete_tenants(connection: Connection, tenants: list[str]) -> list[None]:
    """Delete all rows about tenants that are not jobs or about jobs. Counts are zero, as no job is left."""
    for tenant in tenants:
        connection.execute(delete(notices).where(text(OF_NO_JOB), notices.c.tenant == tenant))
        for table in (dead_letters, idempotency_keys, job_counts):
            connection.execute(delete(table).where(table.c.tenant == tenant))
        connection.execute(delete(engines).where(engines.c.id.startswith(f"{tenant}--", autoescape=True)))
    return [None] * len(tenants)
