"""Fills a ledger with millions of jobs in seconds: `python -m tests.support.filled_ledger URL ROWS QUEUED`.

The rows are made by the database itself, from their numbers alone, so the same call makes the same rows. Jobs of 1,000
engines, some of them shared, lie six days deep: most have ended and were purged, those of the last day have their result.
What is queued belongs to all engines and waits in the ledger; nothing is handed over.
"""

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url
from tests.support.ledger import opened

from enginehouse.gateway.ledger.database import Patience, open_database

_DEEP_SECONDS = 6 * 86_400
_RESULT_TTL_SECONDS = 86_400
_PATIENCE = Patience(command_seconds=3_600)

_WORDS: dict[str, dict[str, Any]] = {
    "sqlite": {
        "numbers": (
            "WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last}),"
        ),
        "hex": "printf('%0{width}x', {value})",
        "decimal": "printf('%0{width}d', {value})",
        "indexes": (
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = 'jobs'"
        ),
        "before": (),
        "after": (),
        "statistics": "SELECT 1",
    },
    "postgresql": {
        "numbers": "WITH numbers(n) AS (SELECT generate_series(CAST({first} AS bigint), {last})),",
        "hex": "lpad(to_hex({value}), {width}, '0')",
        "decimal": "lpad(CAST({value} AS text), {width}, '0')",
        "indexes": (
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'jobs' AND indexname NOT LIKE '%_pkey'"
        ),
        # Counting millions of jobs one by one, in one transaction, would take hours.
        "before": ("ALTER TABLE jobs DISABLE TRIGGER USER",),
        "after": (
            "ALTER TABLE jobs ENABLE TRIGGER USER",
            "INSERT INTO job_counts SELECT engine, tenant, 0, count(*), 0 FROM jobs WHERE status = 'queued' "
            "GROUP BY engine, tenant",
        ),
        "statistics": "ANALYZE",
    },
}
"""What the two databases write differently. Only PostgreSQL keeps statistics by itself; SQLite has none in production."""

_JOBS = """
{numbers}
drawn AS (  -- Three numbers of 0 to 65535 that have nothing to do with each other, and whether this job still waits.
    SELECT n, {now} - {deep} * ({rows} - n) / {rows}.0 AS created_at,
        (n * 2654435761 % 4294967296) >> 16 AS a, (n * 2246822519 % 4294967296) >> 16 AS b,
        (n * 3266489917 % 4294967296) >> 16 AS c,
        (n * {queued}) / {rows} > ((n - 1) * {queued}) / {rows} AS waits
    FROM numbers
),
placed AS (  -- A few engines have most of the jobs. Each tenth engine is shared by all tenants.
    SELECT *, (((a * a) >> 16) * {engines}) >> 16 AS place FROM drawn
),
owned AS (
    SELECT *, place % 10 = 9 AS shared, CASE WHEN place % 10 = 9 THEN (b * {tenants}) >> 16 ELSE place % {tenants} END AS owner,
        CASE WHEN waits THEN 'queued' WHEN c < 59000 THEN 'succeeded' WHEN c < 61600 THEN 'failed'
             WHEN c < 63500 THEN 'canceled' WHEN c < 64900 THEN 'expired' ELSE 'timed_out' END AS status,
        CASE WHEN waits THEN NULL ELSE created_at + 5 END AS finished_at
    FROM placed
),
aged AS (
    SELECT *, NOT waits AND finished_at + {ttl} <= {now} AS purged, 'tenant-' || {owner_text} AS tenant FROM owned
)
INSERT INTO jobs (id, tenant, engine, version, status, priority, input, options, attempts, hand_overs, available_at,
    worker, created_at, queue_deadline, started_at, finished_at, predict_time, result_ttl_seconds, result_expires_at,
    output, error, dead_lettered, purged)
SELECT {id_text}, tenant, CASE WHEN shared THEN 'shared' ELSE tenant END || '--engine-' || {place_text},
    CASE WHEN waits THEN NULL ELSE 'v1' END, status, CASE WHEN b < 6000 THEN 9 ELSE 4 END,
    CASE WHEN purged THEN NULL ELSE '{{"text": "What a lovely day it was, said the reader."}}' END,
    '{{"retry":{{"max_attempts":3,"initial_delay_ms":1000,"max_delay_ms":60000}},"execution_timeout_seconds":60.0}}',
    CASE WHEN waits THEN 0 ELSE 1 END, CASE WHEN waits THEN 0 ELSE 1 END, created_at,
    CASE WHEN waits THEN NULL ELSE 'worker-1' END, created_at,
    CASE WHEN waits THEN {now} + {deep} ELSE created_at + 3600 END,
    CASE WHEN waits THEN NULL ELSE created_at + 4 END, finished_at, CASE WHEN waits THEN NULL ELSE 0.9 END,
    {ttl}, finished_at + {ttl},
    CASE WHEN status = 'succeeded' AND NOT purged THEN '{{"label": "positive", "score": 0.98}}' END,
    CASE WHEN status = 'failed' THEN '{{"code":"PREDICT_ERROR","message":"out of luck"}}' END,
    status = 'failed' AND n % 2 = 0, purged
FROM aged
"""

_ABOUT_JOBS = (
    "INSERT INTO dead_letters (id, tenant, engine, job_id, reason, attempts, error, created_at) "
    "SELECT id, tenant, engine, id, 'PREDICT_ERROR', 3, error, finished_at FROM jobs WHERE dead_lettered",
    "INSERT INTO engines (id, state, updated_at, succeeded, failed) "
    "SELECT engine, 'active', max(created_at), count(*), 0 FROM jobs GROUP BY engine",
    "INSERT INTO idempotency_keys (tenant, scope, key, request_hash, job_id, expires_at) "
    # A gateway has deleted those past their time.
    "SELECT tenant, 'http', id, id, id, created_at + {ttl} FROM jobs WHERE NOT purged AND created_at + {ttl} > {now}",
    "INSERT INTO notices (id, job_id, tenant, channel, event, target, body, state, attempts, due_at, created_at) "
    "SELECT id, id, tenant, 'webhook', 'dev.enginehouse.job.completed.v1', 'https://example.com', '{{}}', "
    "'delivered', 1, created_at, created_at FROM jobs WHERE status = 'failed'",
)


def _statement(dialect: str, **numbers: float) -> str:
    """Return the statement that makes the jobs with these numbers."""
    words = _WORDS[dialect]

    def as_hex(value: str, width: int) -> str:
        return str(words["hex"].format(value=value, width=width))

    milliseconds = "CAST(created_at * 1000 AS bigint)"
    id_text = f"{as_hex(f'({milliseconds} >> 16)', 8)} || '-' || {as_hex(f'({milliseconds} & 65535)', 4)}"
    return _JOBS.format(
        numbers=words["numbers"].format(**numbers),
        id_text=f"{id_text} || '-7000-8000-' || {as_hex('n', 12)}",
        owner_text=words["decimal"].format(value="owner", width=3),
        place_text=words["decimal"].format(value="place", width=4),
        deep=_DEEP_SECONDS,
        ttl=_RESULT_TTL_SECONDS,
        **numbers,
    )


def _filling(rows: int, queued: int, engines: int, tenants: int, now: float) -> Callable[[Connection], None]:
    def fill_tables(connection: Connection) -> None:
        dialect = connection.dialect.name
        words = _WORDS[dialect]
        # Indexes are made anew from the sorted rows, which takes a fraction of the time.
        indexes = connection.execute(text(words["indexes"])).all()
        for name, _ in indexes:
            connection.exec_driver_sql(f"DROP INDEX {name}")
        made = _statement(
            dialect, first=1, last=rows, rows=rows, queued=queued, engines=engines, tenants=tenants, now=now
        )
        about = [statement.format(now=now, ttl=_RESULT_TTL_SECONDS) for statement in _ABOUT_JOBS]
        statements = [*words["before"], made, *words["after"], *about, *(definition for _, definition in indexes)]
        for statement in statements:
            connection.exec_driver_sql(statement)

    return fill_tables


async def fill(
    url: str, rows: int, queued: int, *, engines: int = 1_000, tenants: int = 100, now: float | None = None
) -> None:
    """Put `rows` jobs, `queued` of which wait, into the empty ledger at `url`; make its tables first if there are none.

    The last job was accepted at `now` (seconds since the epoch; None: the present).
    """
    async with opened(url):
        pass
    work = _filling(rows, queued, engines, tenants, time.time() if now is None else now)
    if make_url(url).get_backend_name() == "sqlite":
        engine = create_engine(make_url(url).set(drivername="sqlite"))
        with engine.connect() as connection:
            # A fill that is cut off leaves a broken file, which nobody wants anyhow.
            for pragma in ("journal_mode=MEMORY", "synchronous=OFF", "cache_size=-262144", "temp_store=FILE"):
                connection.exec_driver_sql(f"PRAGMA {pragma}")
            work(connection)
            connection.commit()
        engine.dispose()
        return
    database = open_database(url, _PATIENCE)
    await database.transact(work, durable=False)
    await database.transact(
        lambda connection: connection.exec_driver_sql(_WORDS["postgresql"]["statistics"]), durable=False
    )
    await database.close()


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("url", help="sqlite:///FILE or postgresql://USER@HOST/NAME")
    asked.add_argument("rows", type=int)
    asked.add_argument("queued", type=int)
    asked.add_argument("--engines", type=int, default=1_000)
    asked.add_argument("--tenants", type=int, default=100)
    chosen = asked.parse_args()
    asyncio.run(fill(chosen.url, chosen.rows, chosen.queued, engines=chosen.engines, tenants=chosen.tenants))
