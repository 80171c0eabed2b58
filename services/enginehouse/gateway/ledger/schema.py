"""Defines the ledger's tables; `indexes.py` adds the indexes over some of the rows.

Times are seconds since the epoch; JSON is kept as text, unchanged.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    bindparam,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects import sqlite

metadata = MetaData()

BACKLOG = "status = 'queued' AND handed_over_at IS NULL"
NOT_YET = f"{BACKLOG} AND available_at > created_at"
"""Jobs of the backlog that wait, or waited, for the moment of their next attempt."""
OF_NO_JOB = "(channel = 'event' OR job_id = '')"
"""Notices that do not stay as long as a job."""

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(24), nullable=False),
    Column("engine", String(64), nullable=False),
    Column("version", String(32)),
    Column("status", String(12), nullable=False),
    Column("status_reason", String(24)),
    Column("priority", Integer, nullable=False),
    Column("input", Text),
    Column("input_ref", String(512)),
    Column("options", Text, nullable=False),
    Column("traceparent", String(64)),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("hand_overs", Integer, nullable=False, server_default="0"),
    Column("handed_over_at", Double),
    Column("available_at", Double, nullable=False),
    Column("worker", String(64)),
    Column("created_at", Double, nullable=False),
    Column("queue_deadline", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("predict_time", Double),
    Column("result_ttl_seconds", Integer, nullable=False),
    Column("result_expires_at", Double),
    Column("output", Text),
    Column("output_ref", String(512)),
    Column("error", Text),
    Column("dead_lettered", Boolean, nullable=False, server_default=text("false")),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("retry_of", String(36)),
    Column("retried_as", String(36)),
    Column("purged", Boolean, nullable=False, server_default=text("false")),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("image", Text),
    # The listings: pages of a tenant's jobs, in any or one status, at any or one engine.
    Index("ix_jobs_status", "tenant", "status", "id"),
    Index("ix_jobs_engine", "engine", "tenant", "status", "id"),
)

# Numbers of each tenant's jobs that wait for an engine, or are handed over to it. Triggers keep them, in the transaction
# that changes a job. On PostgreSQL each connection has rows of its own (`shard`), so that none waits for another one's
# counts; a number is the sum over the shards. SQLite has one connection that writes.
job_counts = Table(
    "job_counts",
    metadata,
    Column("engine", String(64), primary_key=True),
    Column("tenant", String(24), primary_key=True),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("waiting", Integer, nullable=False),
    Column("handed_over", Integer, nullable=False),
    sqlite_with_rowid=False,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("tenant", String(24), primary_key=True),
    Column("scope", String(8), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("ix_idempotency_expires", "expires_at"),
)

engines = Table(
    "engines",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("reason", Text),
    Column("probe_at", Double),
    Column("card", Text),
    Column("succeeded", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("updated_at", Double, nullable=False),
    Column("by_operator", Boolean, nullable=False, server_default=text("false")),
    Index("ix_engines_updated", "updated_at"),
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", String(24)),
    Column("engine", String(64)),
    Column("job_id", String(36)),
    Column("reason", String(40), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("event", Text),
    Column("created_at", Double, nullable=False),
    Column("redriven_as", String(36)),
    Index("ix_dead_letters_tenant", "tenant", "created_at", "id"),
)

# Reports of engines about their running jobs, for callers that follow a job.
job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(10), nullable=False),
    Column("value", Text, nullable=False),
)

# The outbox: notices to tenants. A notice is written in the same transaction as the change that it reports.
notices = Table(
    "notices",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("job_id", String(36), nullable=False),
    Column("tenant", String(24), nullable=False),
    Column("channel", String(8), nullable=False),
    Column("event", String(60), nullable=False),
    Column("target", Text),
    Column("body", Text, nullable=False),
    # The notice's own state (pending, delivered, failed). It never changes the state of the job.
    Column("state", String(10), nullable=False),
    Column("last_error", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Index("ix_notices_job", "job_id"),
)


THESE_JOBS = {
    "sqlite": select(jobs).where(jobs.c.id.in_(bindparam("ids", expanding=True))),
    # One statement for any number of ids: the server prepares each statement once.
    "postgresql": select(jobs).where(text("jobs.id = ANY(CAST(:ids AS text[]))")),
}
"""Select the jobs whose ids are in the list `:ids`."""


def unfinished_ids(*filters: ColumnElement[bool]) -> CompoundSelect[Any]:
    """Select ids of jobs of `:engine` that have not ended: up to `:limit` that wait, and as many that are handed over.

    Both have an index. The order makes PostgreSQL stop at the limit, where it would read all of the index into a bitmap.
    """
    limit: BindParameter[int] = bindparam("limit")
    of_engine = jobs.c.engine == bindparam("engine")
    waiting = select(jobs.c.id).where(of_engine, text(BACKLOG), *filters)
    handed_over = select(jobs.c.id).where(of_engine, jobs.c.handed_over_at.is_not(None), *filters)
    return union_all(
        select(waiting.order_by(jobs.c.tenant, jobs.c.priority.desc(), jobs.c.id).limit(limit).subquery().c.id),
        select(handed_over.order_by(jobs.c.tenant).limit(limit).subquery().c.id),
    )


def upsert(connection: Connection, table: Any) -> Any:
    """Return the dialect's INSERT that can resolve conflicts."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # Loaded by now: only a gateway over PostgreSQL comes here.

    return postgresql.insert(table)
