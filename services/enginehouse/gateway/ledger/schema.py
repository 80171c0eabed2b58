"""Defines the ledger's tables. Times are seconds since the epoch; JSON is kept as text, unchanged."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

metadata = MetaData()

BACKLOG = "status = 'queued' AND handed_over_at IS NULL"

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
    Index("ix_jobs_tenant", "tenant", "id"),
    # The queue: from it, the dispatcher takes the first jobs of each tenant of an engine.
    Index(
        "ix_jobs_backlog",
        "engine",
        "tenant",
        text("priority DESC"),
        "id",
        sqlite_where=text(BACKLOG),
        postgresql_where=text(BACKLOG),
    ),
    # The jobs in an engine's window.
    Index(
        "ix_jobs_handed_over",
        "engine",
        "tenant",
        sqlite_where=text("handed_over_at IS NOT NULL"),
        postgresql_where=text("handed_over_at IS NOT NULL"),
    ),
    Index(
        "ix_jobs_queue_deadline",
        "queue_deadline",
        sqlite_where=text("status = 'queued'"),
        postgresql_where=text("status = 'queued'"),
    ),
    Index(
        "ix_jobs_retention",
        "purged",
        "result_expires_at",
        sqlite_where=text("result_expires_at IS NOT NULL"),
        postgresql_where=text("result_expires_at IS NOT NULL"),
    ),
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
    Index("ix_dead_letters_tenant", "tenant", "id"),
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
    Index(
        "ix_notices_due",
        "due_at",
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
    Index("ix_notices_job", "job_id"),
)


def upsert(connection: Connection, table: Any) -> Any:
    """Return the dialect's INSERT that can resolve conflicts."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)
