"""The audit log of a service: takes entries at once, and writes them in groups beside the event loop."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import structlog

from enginehouse import __version__
from enginehouse.audit.calls import CURRENT, Call
from enginehouse.audit.chain import Chain, ChainDamaged, open_chain
from enginehouse.audit.read import Page, Query, read_page
from enginehouse.audit.refusals import Refusals
from enginehouse.contracts.audit import DETAIL_MAX_CHARS, DISCONNECTED, LOST, STARTED, STOPPED, AuditEntry, Head
from enginehouse.contracts.errors import EnginehouseError, Unavailable
from enginehouse.contracts.names import tenant_of

log = structlog.get_logger()

_GATHER_SECONDS = 0.25
"""Entries that arrive in this time share a write and a sync. A killed process loses those of this time at most."""
_LOOK_SECONDS = 5.0
_HEAD_SECONDS = 60.0
_WAITING_MAX = 20_000
"""Entries that are kept while the disk refuses them; further ones are counted as lost."""
_TROUBLE_SECONDS = 60.0


class AuditLog:
    """Writes the chain `name`, or `name-2`, … if other processes write those before it. Without a folder, nothing."""

    def __init__(self, folder: Path | None, name: str, *, max_bytes: int) -> None:
        self._folder = folder
        self._name = name
        self._max_bytes = max_bytes
        self._chain: Chain | None = None
        self._refusals = Refusals()
        self._waiting: list[AuditEntry] = []
        self._lost = 0
        self._arrived = asyncio.Event()
        self._reading = asyncio.Lock()
        self._flushing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "audit")
        self._told_head: Head | None = None
        self._told_head_at = float("-inf")
        self._told_trouble_at = float("-inf")

    def record(self, *entries: AuditEntry) -> None:
        """Take entries; they are written soon."""
        if self._folder is None:
            return
        room = max(_WAITING_MAX - len(self._waiting), 0)
        self._waiting += entries[:room]
        self._lost += max(len(entries) - room, 0)
        if not self._arrived.is_set():
            self._arrived.set()

    def record_act(
        self, action: str, engine: str, outcome: str = "ok", *, version: str | None = None, detail: str | None = None
    ) -> None:
        """Take the entry of what a part of the house did by itself to an engine, or to its version on trial."""
        bounded = detail[:DETAIL_MAX_CHARS] if detail else None
        tenant = tenant_of(engine)
        self.record(
            AuditEntry(time.time(), action, outcome, tenant=tenant, engine=engine, version=version, detail=bounded)
        )

    @contextmanager
    def recording(self, action: str, by: str | None = None) -> Iterator[Call]:
        """Record what the block does as one call. A block that notes or raises a problem is a refused call."""
        call = Call(action, by)
        token = CURRENT.set(call)
        try:
            yield call
        except EnginehouseError as error:
            call.code = error.code
            raise
        except asyncio.CancelledError:
            call.code = DISCONNECTED
            raise
        except Exception:
            call.code = EnginehouseError.code
            raise
        finally:
            CURRENT.reset(token)
            self.record_call(call, call.code or "ok", None, is_refused=bool(call.code))

    def record_call(self, call: Call, outcome: str, status: int | None, *, is_refused: bool) -> None:
        """Take the entries of a call that has ended; of many refused calls of one sender, a count."""
        if is_refused and not self._refusals.has_room(call.by):
            self._arrived.set()
            return
        self.record(*call.entries(outcome, status))

    async def read(self, query: Query, cursor: str | None, limit: int) -> Page:
        """Return a page of the wanted entries of all chains in the folder; a few ms old ones may still be missing."""
        if self._folder is None:
            return Page([], None)
        async with self._reading:
            return await asyncio.to_thread(read_page, self._folder, query, cursor, limit)

    async def run(self) -> None:
        """Write what arrives, until this is cancelled."""
        if self._folder is None:
            log.warning("No audit log is kept: its folder is not set", action="audit_off")
            return
        self.record(AuditEntry(time.time(), STARTED, detail=__version__))
        while True:
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._arrived.wait()
                await asyncio.sleep(_GATHER_SECONDS)
            except TimeoutError:
                pass
            self._waiting += self._refusals.due()
            # A stop must not lose what is being written just then.
            await asyncio.shield(self._flush())

    async def close(self) -> None:
        """Write all that has arrived, and say so in the last entry."""
        if self._folder is not None:
            self._waiting += [*self._refusals.due(all_of_them=True), AuditEntry(time.time(), STOPPED)]
            await self._flush()
            self._tell_head()
        self._thread.shutdown()
        if self._chain:
            self._chain.close()

    async def _flush(self) -> None:
        async with self._flushing:
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        self._arrived.clear()
        if not self._waiting and not self._lost:
            return
        entries, lost, self._waiting, self._lost = self._waiting, self._lost, [], 0
        if lost:
            entries.append(AuditEntry(time.time(), LOST, "LOST", times=lost))
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._write, entries)
        except (OSError, Unavailable) as error:
            self._keep(entries[:-1] if lost else entries, lost)
            self._tell_trouble(error)
        else:
            if time.monotonic() - self._told_head_at > _HEAD_SECONDS:
                self._tell_head()

    def _keep(self, entries: Sequence[AuditEntry], lost: int) -> None:
        """Keep what could not be written for the next try."""
        waiting = [*entries, *self._waiting]
        self._waiting, self._lost = waiting[:_WAITING_MAX], self._lost + lost + max(len(waiting) - _WAITING_MAX, 0)

    def _write(self, entries: Sequence[AuditEntry]) -> None:
        if self._chain is None:
            assert self._folder is not None
            self._chain = open_chain(self._folder, self._name, max_bytes=self._max_bytes, told=_tell_damage)
        self._chain.append(entries)

    def _tell_head(self) -> None:
        """Log the head, so that whoever keeps the logs elsewhere can show later that nothing was cut off."""
        self._told_head_at = time.monotonic()
        if self._chain and self._chain.head != self._told_head:
            self._told_head = self._chain.head
            log.info(f"The audit log ends at {self._chain.head}", action="audit_head", head=str(self._chain.head))

    def _tell_trouble(self, error: Exception) -> None:
        if time.monotonic() - self._told_trouble_at > _TROUBLE_SECONDS:
            self._told_trouble_at = time.monotonic()
            log.error(f"The audit log cannot be written, its entries wait: {error}", action="audit_not_written")


def _tell_damage(error: ChainDamaged) -> None:
    log.error(f"{error}; another chain is begun beside it", action="audit_damaged")
