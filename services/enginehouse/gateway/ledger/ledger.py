"""Offers the ledger to the rest of the gateway."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy import Connection, delete, text, update
from sqlalchemy.engine import make_url

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Unavailable, UnsafeSettings
from enginehouse.gateway.ledger import counts, deletion, outbox, read
from enginehouse.gateway.ledger.accept import Inserted, NewJob, accept_and_fill
from enginehouse.gateway.ledger.database import PATIENT, Database, Patience, open_database
from enginehouse.gateway.ledger.group_writer import GroupWriter
from enginehouse.gateway.ledger.migrations import are_missing
from enginehouse.gateway.ledger.mirror import Mirror, Mirrored, mirror_records, notify_others
from enginehouse.gateway.ledger.rows import DeadLetterRow, JobEventRow, JobRow, NoticeRow, to_columns
from enginehouse.gateway.ledger.schema import dead_letters, engines, job_events, jobs, upsert
from enginehouse.gateway.ledger.windows import FillWindow, NewAddress, Requeue, address_anew, requeue
from enginehouse.sidecar.gather import Gather

T = TypeVar("T")
_MIGRATE = "enginehouse.gateway.ledger.migrate"
_URL_VARIABLE = "ENGINEHOUSE_GATEWAY_LEDGER_URL"
_WINDOW_HELD_SECONDS = 0.5
"""After a window could not be locked in time: a gateway that hangs holds it. Each try holds up this gateway's other writes."""
_ADDRESSED_AT_ONCE = 500
_CLOSE_SECONDS = 5.0
_WOKEN_IN_FLIGHT = 3
"""Reads of them at a time, so that one that gets no answer does not hold up all callers."""
_WOKEN_MAX = 16
"""Jobs that are read at once. Their options and errors are parsed in one step, which all other requests wait for."""


@dataclass(frozen=True, slots=True)
class SavedCard:
    """An engine with its card, as JSON; None while it has shown none."""

    engine_id: str
    card: str | None


@dataclass(frozen=True, slots=True)
class EngineDecision:
    """A new state of an engine, which holds for all gateways."""

    engine_id: str
    state: EngineState
    reason: str | None
    probe_at: float | None
    by_operator: bool


class Ledger:
    """Knows which jobs were accepted, the state of each, and which job comes next."""

    def __init__(self, url: str, patience: Patience = PATIENT) -> None:
        self._url = url
        self._patience = patience
        self._lock: IO[str] | None = None
        self.database: Database
        self._writer: GroupWriter
        self._woken: Gather[None, str, JobRow | None] = Gather(
            self._read_woken, at_most=_WOKEN_MAX, in_flight=_WOKEN_IN_FLIGHT
        )

    async def open(self) -> None:
        """Bring the tables up to date and start writing.

        UnsafeSettings if another gateway holds the SQLite file, commits of PostgreSQL do not wait for the disk, or a newer
        release has changed the tables in a way with which this one cannot work.
        """
        if make_url(self._url).get_backend_name() == "sqlite":
            self._claim_file()
        self.database = open_database(self._url, self._patience)
        self._writer = GroupWriter(self.database, last=accept_and_fill)
        if await self.database.read(are_missing):
            await self._migrate()
        if self.database.dialect == "postgresql" and await self.database.transact(_is_forgetful, durable=True):
            await self.database.close()
            raise UnsafeSettings(
                "ENGINEHOUSE_GATEWAY_LEDGER_URL: synchronous_commit is off for this role or database, so a power cut would "
                "lose accepted jobs; ALTER ROLE … RESET synchronous_commit, or set it to on"
            )

    def _claim_file(self) -> None:
        path = make_url(self._url).database
        if not path or path == ":memory:":
            raise UnsafeSettings(
                "ENGINEHOUSE_GATEWAY_LEDGER_URL: a ledger in memory would lose accepted jobs; name a file"
            )
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock = Path(f"{path}.lock").open("w")  # noqa: SIM115 - held as long as the gateway lives
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock = lock
            # Only the owner may read the file: it holds all inputs and outputs. SQLite gives its other files this mode.
            Path(path).touch(mode=0o600)
        except BlockingIOError:
            lock.close()
            raise UnsafeSettings(
                f"ENGINEHOUSE_GATEWAY_LEDGER_URL: {path} belongs to a gateway that is running; several gateways need PostgreSQL"
            ) from None

    async def _migrate(self) -> None:
        """Bring the tables up to date, in a process that ends (`migrate.py`). UnsafeSettings if it fails: its log says why."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", _MIGRATE, env={**os.environ, _URL_VARIABLE: self._url}
        )
        if await process.wait():
            raise UnsafeSettings("the ledger's tables cannot be brought up to date; the lines above say why")

    async def close(self) -> None:
        """Commit the writes that have arrived, and close the database."""
        await self._writer.close()
        await self._woken.close(_CLOSE_SECONDS)
        await self.database.close()
        if self._lock:
            self._lock.close()

    async def read(self, query: Callable[..., T], *arguments: Any) -> T:
        """Run one of the queries of `ledger.read`, with these arguments after the connection."""
        return await self.database.read(lambda connection: query(connection, *arguments))

    async def woken(self, job_id: str) -> JobRow | None:
        """Return a job that its caller was told of: callers that were told at once share a read."""
        return await self._woken.do(None, job_id)

    async def _read_woken(self, _: None, job_ids: Sequence[str]) -> list[JobRow | None]:
        found = await self.read(read.these_jobs, job_ids)
        return [found.get(job_id) for job_id in job_ids]

    async def is_well(self) -> bool:
        """Say whether the database answers."""
        try:
            return await self.read(read.answers)
        except Unavailable:
            return False

    async def insert(self, job: NewJob) -> Inserted:
        """Accept a job. When this returns, the job is on disk."""
        result: Inserted = await self._writer.write(accept_and_fill, job, durable=True, owner=job.row.tenant)
        return result

    async def fill_window(self, item: FillWindow) -> list[JobRow]:
        """Mark the next jobs of an engine as handed over and return them: they must be published now."""
        rows: list[JobRow] | None = await self._writer.write(accept_and_fill, item)
        while rows is None:
            await asyncio.sleep(_WINDOW_HELD_SECONDS)
            rows = await self._writer.write(accept_and_fill, item)
        return rows

    async def requeue(self, item: Requeue) -> None:
        """Put jobs back into the queue, as `item` says."""
        await self._writer.write(requeue, item)

    async def address_anew(self, trial: str, engine: str) -> list[str]:
        """Make the unfinished jobs of a version on trial jobs of its engine; return their ids."""
        job_ids: list[str] = []
        item = NewAddress(trial, engine, _ADDRESSED_AT_ONCE)
        while addressed := await self._writer.write(address_anew, item, durable=True):
            job_ids += addressed
        return job_ids

    def mirror(self, item: Mirror) -> "asyncio.Future[Mirrored | None]":
        """Copy a job's record into its row; return None if the ledger does not have the job."""
        return self._writer.put(mirror_records, item)

    async def request_cancel(self, job_id: str) -> None:
        """Note that a caller wants this job canceled."""
        await self._writer.write(_request_cancel, job_id, durable=True)

    async def link_retry(self, job_id: str, retried_as: str) -> None:
        """Note which new job repeats an ended one."""
        await self._writer.write(_link_retry, (job_id, retried_as))

    async def save_engine(self, engine_id: str, card: str | None) -> float:
        """Keep an engine and its card, so that the engine stays known while the sidecar is away; return its `updated_at`."""
        updated_at: float = await self._writer.write(_save_engines, SavedCard(engine_id, card))
        return updated_at

    async def set_engine_state(
        self,
        engine_id: str,
        state: EngineState,
        reason: str | None,
        probe_at: float | None,
        *,
        by_operator: bool = False,
    ) -> None:
        """Set an engine's state for all gateways. It outlives restarts."""
        decision = EngineDecision(engine_id, state, reason, probe_at, by_operator)
        await self._writer.write(_set_engine_state, decision, durable=True)

    async def discard_dead_letter(self, letter_id: str) -> None:
        """Delete a dead letter; its job keeps its state."""
        await self._writer.write(_discard, letter_id)

    async def delete_payloads(self, job_ids: tuple[str, ...]) -> None:
        """Delete inputs and outputs of jobs whose result has expired. The rows stay, so that callers get 410."""
        await self._writer.write(deletion.delete_payloads, job_ids)

    async def forget(self, item: deletion.Forget) -> bool:
        """Delete some rows that are past their time; return whether there may be more."""
        more: bool = await self._writer.write(deletion.forget, item)
        return more

    async def delete_jobs(self, job_ids: tuple[str, ...]) -> None:
        """Delete jobs with all that is about them."""
        await self._writer.write(deletion.delete_jobs, job_ids, durable=True)

    async def delete_tenant(self, tenant: str) -> None:
        """Delete all rows about a tenant that are not jobs or about jobs."""
        await self._writer.write(deletion.delete_tenants, tenant, durable=True)

    async def correct_counts(self, engine: str) -> None:
        """Correct the counts of an engine's jobs that wait or are handed over."""
        await self._writer.write(counts.correct, engine)

    async def fold_counts(self) -> None:
        """Drop counts that are zero, and add up those of connections that may have ended."""
        await self._writer.write(counts.fold, None)

    async def add_job_event(self, event: JobEventRow) -> None:
        """Keep an engine's report about a running job."""
        await self._writer.write(_add_job_events, event)

    async def add_notice(self, notice: NoticeRow) -> None:
        """Put a notice into the outbox."""
        await self._writer.write(outbox.add_notices, notice, durable=True)

    async def lease_notices(self, item: outbox.Lease) -> list[NoticeRow]:
        """Take due notices from the outbox. No other gateway gets them until their lease is over."""
        rows: list[NoticeRow] = await self._writer.write(outbox.lease_notices, item)
        return rows

    async def record_outcome(self, item: outbox.NoticeOutcome) -> None:
        """Write the outcome of delivering a notice."""
        await self._writer.write(outbox.record_outcomes, item)

    async def keep_dead_letter(self, letter: DeadLetterRow) -> None:
        """Keep a delivery that could not become a job."""
        await self._writer.write(_keep_dead_letter, letter, durable=True)


def _is_forgetful(connection: Connection) -> bool:
    """Say whether commits do not wait for the disk."""
    return bool(connection.execute(text("SHOW synchronous_commit")).scalar() == "off")


def _request_cancel(connection: Connection, job_ids: list[str]) -> list[None]:
    connection.execute(update(jobs).where(jobs.c.id.in_(job_ids)).values(cancel_requested=True))
    return [None] * len(job_ids)


def _add_job_events(connection: Connection, events: list[JobEventRow]) -> list[None]:
    connection.execute(upsert(connection, job_events).on_conflict_do_nothing(), [to_columns(row) for row in events])
    notify_others(connection, list({event.job_id for event in events}))
    return [None] * len(events)


def _discard(connection: Connection, letter_ids: list[str]) -> list[None]:
    connection.execute(delete(dead_letters).where(dead_letters.c.id.in_(letter_ids)))
    return [None] * len(letter_ids)


def _link_retry(connection: Connection, pairs: list[tuple[str, str]]) -> list[None]:
    for job_id, retried_as in pairs:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(retried_as=retried_as))
    return [None] * len(pairs)


def _save_engines(connection: Connection, items: list[SavedCard]) -> list[float]:
    updated_at = time.time()
    for item in items:
        values = {"card": item.card, "updated_at": updated_at}
        statement = upsert(connection, engines).values(
            {"id": item.engine_id, "state": EngineState.ACTIVE.value, **values}
        )
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
    return [updated_at] * len(items)


def _set_engine_state(connection: Connection, items: list[EngineDecision]) -> list[None]:
    for item in items:
        # An engine whose card could not be read yet has no row.
        values = {
            "state": item.state.value,
            "reason": item.reason,
            "probe_at": item.probe_at,
            "by_operator": item.by_operator,
            "updated_at": time.time(),
        }
        statement = upsert(connection, engines).values({"id": item.engine_id, **values})
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=values))
    return [None] * len(items)


def _keep_dead_letter(connection: Connection, letters: list[DeadLetterRow]) -> list[None]:
    for letter in letters:
        connection.execute(upsert(connection, dead_letters).values(to_columns(letter)).on_conflict_do_nothing())
    return [None] * len(letters)
