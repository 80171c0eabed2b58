"""Ledgers for tests, opened on tables that already exist, and jobs to put into them."""

import atexit
import contextlib
import functools
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, select, text
from sqlalchemy.engine import make_url

from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.accept import IdempotencyKey, IdempotencyScope, NewJob
from enginehouse.gateway.ledger.database import PATIENT, Patience, open_database
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.migrate import upgrade
from enginehouse.gateway.ledger.mirror import Mirror, Mirrored
from enginehouse.gateway.ledger.rows import JobRow, StoredOptions
from enginehouse.gateway.ledger.schema import jobs, metadata

ENGINE = "acme--echo"
OPTIONS = StoredOptions(
    retry=RetryPolicy(max_attempts=3, initial_delay_ms=10, max_delay_ms=100), execution_timeout_seconds=60
)


_MIGRATED: set[str] = set()


@functools.cache
def _migrated_file() -> Path:
    """Return the file of a migrated ledger without rows, made once: migrating takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-ledger-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    upgrade(f"sqlite:///{folder}/ledger.sqlite")
    return folder / "ledger.sqlite"


def sqlite_url(folder: Path) -> str:
    """Return the URL of a migrated ledger in `folder`."""
    path = folder / "ledger.sqlite"
    if not path.exists():
        shutil.copyfile(_migrated_file(), path)
    return f"sqlite:///{path}"


async def empty_postgres(url: str) -> None:
    """Delete every row of a ledger's database. Make the tables first if there are none yet."""
    if url not in _MIGRATED:
        async with opened(url):
            _MIGRATED.add(url)
    database = open_database(url)
    names = ", ".join(table.name for table in metadata.sorted_tables)
    await database.transact(lambda connection: connection.execute(text(f"TRUNCATE {names}")), durable=False)
    await database.close()


@contextlib.asynccontextmanager
async def opened(url: str, patience: Patience = PATIENT) -> AsyncIterator[Ledger]:
    """Open a ledger on `url` during the block."""
    ledger = Ledger(url, patience)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


def new_job(
    tenant: str = "acme",
    engine: str = ENGINE,
    *,
    window: int = 1_000,
    key: str | None = None,
    request: str = "the same",
    **columns: Any,
) -> NewJob:
    """Return a job to insert. `key` is its idempotency key, and `request` the request for which that key was used."""
    created_at = columns.pop("created_at", time.time())
    row = JobRow.accepted(
        id=new_job_id(),
        tenant=tenant,
        engine=engine,
        priority=4,
        input='"hello"',
        input_ref=None,
        options=OPTIONS,
        traceparent=None,
        created_at=created_at,
        queue_deadline=created_at + 3_600,
        result_ttl_seconds=600,
        retry_of=None,
    )._replace(**columns)
    idempotency = IdempotencyKey(IdempotencyScope.HTTP, key, request, time.time() + 600) if key else None
    return NewJob(row, window, idempotency)


async def accepted(ledger: Ledger, job: NewJob | None = None, **columns: Any) -> str:
    """Insert a job and return its id."""
    return (await ledger.insert(job or new_job(**columns))).job_id


async def row_of(ledger: Ledger, job_id: str) -> JobRow:
    """Return a job's row, which must exist."""
    row = await ledger.read(read.job, job_id)
    assert row is not None
    return row


async def mirror(
    ledger: Ledger, job_id: str, status: Status, attempt: int = 1, *, engine: str = ENGINE, **fields: Any
) -> Mirrored:
    """Mirror a record of that status, as a runner or the gateway would have written it."""
    if status.is_final:
        fields.setdefault("finished_at", now())
    if status is Status.RUNNING:
        fields.setdefault("started_at", now())
    fields.setdefault("worker", "worker-1")
    record = JobRecord(status=status, attempt=attempt, **fields)
    mirrored = await ledger.mirror(Mirror(job_id, record, time.time(), engine))
    assert mirrored is not None
    return mirrored


async def handed_over(ledger: Ledger, engine: str = ENGINE) -> set[str]:
    """Return the jobs that are in an engine's window at present."""
    query = select(jobs.c.id).where(jobs.c.engine == engine, jobs.c.handed_over_at.is_not(None))
    return set(await ledger.read(lambda connection: connection.execute(query).scalars().all()))


async def shift(ledger: Ledger, job_id: str, **seconds: float) -> None:
    """Move moments of a job's row: `shift(…, handed_over_at=-60)` makes it a minute older."""
    changes = {name: jobs.c[name] + by for name, by in seconds.items()}
    await ledger.database.transact(
        lambda connection: connection.execute(jobs.update().where(jobs.c.id == job_id).values(changes)), durable=False
    )


def sqlite_connection(url: str) -> Any:
    """Open a connection to an SQLite ledger beside the ledger's own."""
    return create_engine(make_url(url).set(drivername="sqlite")).connect()
