"""What each hot statement and each listing costs does not grow with the ledger, on both databases.

SQLite shows its plans. PostgreSQL chooses by its statistics, so it runs each statement on a filled ledger and counts rows.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from tests.support.filled_ledger import fill
from tests.support.ledger import empty_postgres, new_job, opened, sqlite_url
from tests.support.postgres import PostgresServer

from enginehouse.contracts.job import JobRecord, Status
from enginehouse.gateway.ledger import counts, deletion, newest, outbox, read
from enginehouse.gateway.ledger.accept import accept_and_fill
from enginehouse.gateway.ledger.mirror import Mirror, mirror_records
from enginehouse.gateway.ledger.outbox import Lease
from enginehouse.gateway.ledger.read import Listing
from enginehouse.gateway.ledger.rows import Channel
from enginehouse.gateway.ledger.windows import FillWindow, NewAddress, Requeue, address_anew, requeue

_TENANT, _ENGINE, _OTHER = "tenant-000", "tenant-000--engine-0000", "tenant-001--engine-0001"
_ROWS, _QUEUED, _ENGINES, _TENANTS = 60_000, 20_000, 20, 4
"""The busiest engine has 13,400 jobs, 4,500 of which wait, and its tenant 21,600."""
_READ_MAX = 2_000
"""Most rows of tables and indexes that PostgreSQL may read for a page of 50, or a step of 50."""
_PAGE = 50
_NOW = time.time()
_OLD = f"{int((_NOW - 2 * 86_400) * 1_000) >> 16:08x}-0000-7000-8000-000000000000"
"""The place of a job accepted two days ago, as cursor."""
_SOME = ("01a21bbf-340e-7000-8000-000000000001", "01a21bbf-340e-7000-8000-000000000002")
_ENDED = Mirror(_SOME[0], JobRecord(status=Status.SUCCEEDED, attempt=1), _NOW, _ENGINE)

Statement = Callable[[Connection], Any]


def _with(query: Callable[..., Any], *arguments: Any) -> Any:
    """Call a query with the connection, which comes last here."""
    *given, connection = arguments
    return query(connection, *given)


def _listings() -> Iterator[tuple[str, Statement]]:
    for engine in (None, _ENGINE, "tenant-000--nothing"):
        for status in (None, Status.QUEUED, Status.RUNNING, Status.SUCCEEDED, Status.TIMED_OUT):
            for cursor in (None, _OLD):
                listing = Listing(_TENANT, engine, status, cursor, _PAGE)
                name = f"jobs at {engine or 'any engine'} {status or 'in any status'} {'deep' if cursor else 'first'}"
                yield name, partial(_with, read.list_jobs, listing)
    for tenant in (_TENANT, None):
        for after in (None, (_NOW - 86_400, "a")):
            name = f"dead letters of {tenant or 'nobody'} {'deep' if after else 'first'}"
            yield name, partial(_with, read.list_dead_letters, tenant, after, _PAGE)


_STATEMENTS: dict[str, Statement] = {
    **dict(_listings()),
    "accept": lambda c: accept_and_fill(c, [new_job(_TENANT, _ENGINE, key="a"), new_job(_TENANT, _OTHER)]),
    "hand over": lambda c: accept_and_fill(c, [FillWindow(_ENGINE, 32, _NOW)]),
    "hand over nothing": lambda c: accept_and_fill(c, [FillWindow("tenant-000--nothing", 32, _NOW)]),
    "put back": lambda c: requeue(c, [Requeue(_SOME, None, _NOW)]),
    "mirror": lambda c: mirror_records(c, [_ENDED]),
    "pass on a trial's jobs": lambda c: address_anew(c, [NewAddress(_OTHER, _ENGINE, _PAGE)]),
    "one job": lambda c: read.job(c, _SOME[0]),
    "a job's end": lambda c: read.is_unfinished(c, _SOME[0]),
    "a job's reports": lambda c: read.followed(c, _SOME[0], 0, _PAGE),
    "jobs' engines": lambda c: read.engines_of(c, list(_SOME)),
    "a job's webhooks": lambda c: outbox.webhooks_of(c, _SOME[0]),
    "engines' queues": lambda c: read.queue_counts(c, [_ENGINE, _OTHER]),
    "engines' due queues": lambda c: counts.due_of_engines(c, _NOW),
    "engines that have jobs in hand": read.engines_in_hand,
    "jobs handed over": lambda c: read.handed_over(c, [_ENGINE, _OTHER], _NOW),
    "jobs past their time in the queue": lambda c: read.past_queue_deadline(c, _NOW, _PAGE),
    "queued jobs to cancel": lambda c: read.waiting(c, _ENGINE, _PAGE),
    "jobs of removed engines": lambda c: read.unfinished_of(c, [_ENGINE, "tenant-000--nothing"], _PAGE),
    "jobs of removed engines that have none": lambda c: read.unfinished_of(c, ["tenant-000--nothing"], _PAGE),
    "unfinished jobs of a removed tenant": lambda c: read.unfinished_of_tenant(c, _TENANT, _PAGE),
    "jobs of a removed tenant": lambda c: read.of_tenant(c, _TENANT, _PAGE),
    "results past their time": lambda c: read.past_result(c, _NOW + 3_600, _PAGE),
    "jobs to write into a restored store": lambda c: newest.ended_of(c, _ENGINE, None, _PAGE),
    "jobs to replay": lambda c: newest.answered_by(c, _ENGINE, "v1", _NOW, _PAGE),
    "due events": lambda c: outbox.lease_notices(c, [Lease(_NOW, Channel.EVENT, _PAGE, 60)]),
    "due webhooks": lambda c: outbox.lease_notices(c, [Lease(_NOW, Channel.WEBHOOK, _PAGE, 60, 8, frozenset("a"))]),
    "payloads to delete": lambda c: deletion.delete_payloads(c, [_SOME]),
    "jobs to delete": lambda c: deletion.delete_jobs(c, [_SOME]),
    "rows to forget": lambda c: deletion.forget(c, [deletion.Forget(_NOW - 3 * 86_400, _NOW, _PAGE)]),
    "all counts": counts.of_tenants,
}
"""Every statement of a job's life, of the sweep and of a listing. Left out are: the samples at a gateway's start, what is
left of a removed tenant, the check of counts, which counts, and those that read all engines."""
_SORTED = ("jobs at ", "webhooks", "handed over", "queues", "due ", "restored", "replay")
"""Parts of the names of statements in which SQLite sorts: a page, a window, a job's webhooks, due notices."""
_READS_ITS_ENGINE = "jobs to replay"
"""On PostgreSQL it may read all jobs of its engine: a replay is rare, and takes longer than that."""


def _run(connection: Connection, work: Statement, explain: str) -> list[tuple[str, list[Any]]]:
    """Run `work`; return its statements, each with its plan from just before it ran."""
    plans: list[tuple[str, list[Any]]] = []

    def note(_: Connection, __: Any, statement: str, parameters: Any, ___: Any, many: bool) -> None:
        if not statement.startswith(("EXPLAIN", "INSERT")):  # An insert would run twice, and reads nothing.
            values = parameters[0] if many else parameters
            plans.append((statement, [tuple(row) for row in connection.exec_driver_sql(explain + statement, values)]))

    event.listen(connection, "before_cursor_execute", note)
    work(connection)
    event.remove(connection, "before_cursor_execute", note)
    assert plans
    return plans


async def _plans(url: str, explain: str) -> list[tuple[str, str, list[Any]]]:
    """Return each statement's name, text and plan."""
    found = []
    async with opened(url) as ledger:
        for name, work in _STATEMENTS.items():
            plans = await ledger.database.transact(partial(_run, work=work, explain=explain), durable=False)
            found += [(name, statement, plan) for statement, plan in plans]
    return found


async def test_sqlite_finds_everything_by_index(tmp_path: Path) -> None:
    plans = await _plans(sqlite_url(tmp_path), "EXPLAIN QUERY PLAN ")
    wrong = [
        (name, step[3], statement) for name, statement, plan in plans for step in plan if _reads_all(name, step[3])
    ]
    assert "\n".join(map(str, wrong)) == ""


def _reads_all(name: str, step: str) -> bool:
    """Say whether a step of a plan of SQLite reads a table of jobs whole, or sorts for want of an index."""
    tables = ("jobs", "k", "c", "dead_letters", "notices", "idempotency_keys", "job_events")
    sorts = "TEMP B-TREE" in step and not any(part in name for part in _SORTED)
    return sorts or step.startswith(tuple(f"SCAN {table}" for table in tables))


@pytest.fixture
async def filled_postgres(postgres: PostgresServer) -> str:
    await empty_postgres(postgres.url)
    await fill(postgres.url, _ROWS, _QUEUED, engines=_ENGINES, tenants=_TENANTS, now=_NOW)
    return postgres.url


async def test_postgres_reads_no_more_than_it_needs(filled_postgres: str) -> None:
    plans = await _plans(filled_postgres, "EXPLAIN (ANALYZE, FORMAT JSON) ")
    wrong = [
        (name, rows, statement)
        for name, statement, plan in plans
        if (rows := _rows_read(plan[0][0][0]["Plan"])) > _READ_MAX and name != _READS_ITS_ENGINE
    ]
    assert "\n".join(map(str, wrong)) == ""


def _rows_read(node: dict[str, Any]) -> float:
    """Return how many rows of tables and indexes a plan of PostgreSQL has read."""
    mine = 0.0
    if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node):
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        mine = (node["Actual Rows"] + removed) * node["Actual Loops"]
    return mine + sum(_rows_read(child) for child in node.get("Plans", []))
