"""Finds the ended jobs of an engine that were accepted last, whoever asked for them, without reading all of its jobs."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, TextClause, text

from enginehouse.contracts.job import FINAL, Status

_AFTER_ALL_IDS = "~"
_KEPT = "NOT coalesce(k.purged, true)"
"""This, and the sum below, keep PostgreSQL from reading the results of all engines from the index of retention."""
_ANSWERED = (Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT)
_REPEATABLE = (
    "AND k.version IS NOT DISTINCT FROM CAST(:version AS text) AND k.result_expires_at + 0 > :now "
    "AND (k.input IS NOT NULL OR k.input_ref IS NOT NULL)"
)


def _newest(statuses: Iterable[Status], condition: str) -> dict[str, TextClause]:
    """Return the query for each database.

    The index ix_jobs_engine has the jobs of one tenant in one status in order, so the newest of each are taken. There are
    two forms, because SQLite has no LATERAL, and PostgreSQL would scan the whole table for SQLite's form.
    """
    values = ", ".join(f"('{status}')" for status in sorted(statuses))
    groups = f"""
        WITH RECURSIVE tenants(tenant) AS (
            SELECT min(tenant) FROM jobs WHERE engine = :engine
            UNION ALL
            SELECT (SELECT min(tenant) FROM jobs WHERE engine = :engine AND tenant > tenants.tenant)
            FROM tenants WHERE tenants.tenant IS NOT NULL
        ), statuses(status) AS (VALUES {values}),
        groups AS (SELECT tenant, status FROM tenants CROSS JOIN statuses WHERE tenant IS NOT NULL)
    """  # noqa: S608 - the statuses are constants
    of_group = f"""
        SELECT k.id FROM jobs k
        WHERE k.engine = :engine AND k.tenant = g.tenant AND k.status = g.status AND k.id < :before AND {_KEPT}
        {condition} ORDER BY k.id DESC LIMIT :limit
    """  # noqa: S608
    newest = "ORDER BY c.id DESC LIMIT :limit"
    return {
        "sqlite": text(f"{groups} SELECT c.id FROM groups g JOIN jobs c ON c.id IN ({of_group}) {newest}"),  # noqa: S608
        "postgresql": text(f"{groups} SELECT c.id FROM groups g CROSS JOIN LATERAL ({of_group}) c {newest}"),  # noqa: S608
    }


ENDED, REPEATABLE = _newest(FINAL, ""), _newest(_ANSWERED, _REPEATABLE)


def _ids(connection: Connection, forms: dict[str, TextClause], **parameters: Any) -> list[str]:
    return list(connection.execute(forms[connection.dialect.name], parameters).scalars())


def ended_of(connection: Connection, engine: str, before: str | None, limit: int) -> list[str]:
    """Return ids of an engine's ended jobs that were accepted before the job `before`, the newest first.

    They still have their result.
    """
    return _ids(connection, ENDED, engine=engine, before=before or _AFTER_ALL_IDS, limit=limit)


def answered_by(connection: Connection, engine: str, version: str | None, now: float, limit: int) -> list[str]:
    """Return ids of jobs that a version of an engine has answered and whose input is kept, those accepted last first."""
    return _ids(connection, REPEATABLE, engine=engine, before=_AFTER_ALL_IDS, version=version, now=now, limit=limit)
