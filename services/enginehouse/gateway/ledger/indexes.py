"""Adds the indexes over some of the rows to the ledger's tables, for migrations.

Nothing else loads this module: where an index names PostgreSQL, SQLAlchemy loads the dialect, which has 2 MB and is of no
use to a gateway over SQLite.
"""

from typing import Any

from sqlalchemy import Index, text

from enginehouse.gateway.ledger.schema import BACKLOG, NOT_YET, OF_NO_JOB, dead_letters, jobs, metadata, notices

__all__ = ["metadata"]


def _partial(name: str, *columns: Any, where: str) -> None:
    Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


# The queue: from it, the dispatcher takes the first jobs of each tenant of an engine.
_partial("ix_jobs_backlog", jobs.c.engine, jobs.c.tenant, text("priority DESC"), jobs.c.id, where=BACKLOG)
# The jobs in an engine's window.
_partial("ix_jobs_handed_over", jobs.c.engine, jobs.c.tenant, where="handed_over_at IS NOT NULL")
# Jobs that wait for their next attempt.
_partial("ix_jobs_not_yet", jobs.c.available_at, jobs.c.engine, where=NOT_YET)
_partial("ix_jobs_queue_deadline", jobs.c.queue_deadline, where="status = 'queued'")
_partial("ix_jobs_retention", jobs.c.purged, jobs.c.result_expires_at, where="result_expires_at IS NOT NULL")
# Letters of no job end by their age, the others with their job.
_partial("ix_dead_letters_old", dead_letters.c.created_at, where="job_id IS NULL")
_partial("ix_notices_due", notices.c.due_at, where="state = 'pending'")
# Notices that could not be delivered end by their age, those that are kept for callers with their job.
_partial("ix_notices_old", notices.c.created_at, where=OF_NO_JOB)
