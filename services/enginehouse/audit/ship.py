"""Ships the entries of all chains below a folder: each chain in its order, at least once, from where it stopped before."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import structlog

from enginehouse.audit.chain import chains, segments
from enginehouse.contracts.audit import Head, InvalidLine, heads_in, read_line
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.file_locks import only_one
from enginehouse.watched_files import changes_of

log = structlog.get_logger()

Publish = Callable[[bytes], Awaitable[None]]
"""Publishes one line, which is a CloudEvent. Raises EnginehouseError while the broker does not take it."""

CURSOR_FILE = "shipped"
"""In the folder of a chain: the last of its entries that was shipped."""
_LOCK_FILE = ".shipping"
_CHUNK_BYTES = 64 * 1024
"""Several lines. After each chunk the cursor is kept, and the next chain is looked at."""
_TURN_SECONDS = 5.0
_LOOK_AGAIN_MS = 60_000
"""What another machine writes into a shared folder wakes nobody here."""
_LONGEST_BACKOFF_SECONDS = 60.0


class Shipper:
    """Ships what is written to any chain of the folder, also by other processes. One process at a time does."""

    def __init__(self, folder: Path, publish: Publish, *, first_backoff_seconds: float = 1.0) -> None:
        self._folder = folder
        self._publish = publish
        self._first_backoff_seconds = first_backoff_seconds
        self._places: dict[str, _Place] = {}

    async def run(self) -> None:
        """Ship until this is cancelled. While the broker is away, entries wait in their files."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with only_one(self._folder / _LOCK_FILE, poll_seconds=_TURN_SECONDS):
            self._places = {}
            await self._follow()

    async def _follow(self) -> None:
        async with aclosing(
            changes_of(
                self._folder,
                watch_filter=lambda _, path: path.endswith(".jsonl"),
                step=50,
                debounce=200,
                rust_timeout=_LOOK_AGAIN_MS,
                yield_on_timeout=True,
            )
        ) as changes:
            async for _ in changes:
                await self._ship_all()

    async def _ship_all(self) -> None:
        """Ship what is there. Try again, less and less often, while the broker does not take it."""
        backoff = self._first_backoff_seconds
        while True:
            try:
                while await self._ship_some():
                    backoff = self._first_backoff_seconds
                return
            except EnginehouseError as error:
                log.warning(f"Entries of the audit log wait to be shipped: {error}", action="audit_not_shipped")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)

    async def _ship_some(self) -> bool:
        """Ship a chunk of each chain. Return whether there was one."""
        shipped = False
        for chain in await asyncio.to_thread(chains, self._folder):
            place = self._places.get(chain.name)
            if place is None:
                place = self._places[chain.name] = await asyncio.to_thread(_Place, chain)
            lines = await asyncio.to_thread(place.next_lines)
            try:
                for line in lines:
                    if head := place.head_of(line):
                        await self._publish(line)
                    # Only now: what was kept is never shipped again.
                    place.pass_over(line, head)
                    shipped = True
            finally:
                place.keep()
        return shipped


class _Place:
    """Up to where a chain was shipped. It survives this process as the head of what was shipped."""

    def __init__(self, chain: Path) -> None:
        self._chain = chain
        self._cursor = chain / CURSOR_FILE
        self._kept = self._last = self._read_cursor()
        self._first = self._offset = 0
        if self._last:
            self._go_to(self._last)

    def next_lines(self) -> list[bytes]:
        """Return whole lines that follow, at most a chunk; none if there are none yet."""
        for first, path in segments(self._chain):
            if first < self._first:
                continue
            if first > self._first:
                self._first, self._offset = first, 0
            try:
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size < self._offset:
                        self._tell_changed()
                        self._offset = 0
                    file.seek(self._offset)
                    whole, newline, _ = file.read(_CHUNK_BYTES).rpartition(b"\n")
            except FileNotFoundError:
                continue  # Retention has just deleted it, and an entry says so.
            if newline:
                return whole.split(b"\n")
        return []

    def head_of(self, line: bytes) -> Head | None:
        """Return which entry a line is; None if it is not what its writer wrote. Subscribers see that it is missing."""
        try:
            found = read_line(line)
        except InvalidLine as error:
            log.error(f"A line of {self._chain} is not shipped: {error}", action="audit_line_not_shipped")
            return None
        return Head(self._chain.name, found.number, found.hash)

    def pass_over(self, line: bytes, head: Head | None) -> None:
        """Go on behind a line, which is the entry `head` if it is one."""
        self._offset += len(line) + 1
        self._last = head or self._last

    def keep(self) -> None:
        """Write down what was shipped."""
        if self._last == self._kept:
            return
        fresh = self._cursor.with_suffix(".new")
        fresh.write_text(f"{self._last}\n")
        fresh.replace(self._cursor)
        self._kept = self._last

    def _read_cursor(self) -> Head | None:
        try:
            return next(iter(heads_in(self._cursor.read_text())), None)
        except FileNotFoundError:
            return None

    def _go_to(self, head: Head) -> None:
        """Go behind the entry. Where the chain no longer has it, what its file has is shipped again."""
        begun = [(first, path) for first, path in segments(self._chain) if first <= head.number]
        if not begun:
            return  # Retention has deleted it: the oldest entry that is left comes next.
        self._first, path = begun[-1]
        before = path.read_bytes().split(b"\n")[:-1][: head.number - self._first + 1]
        if len(before) == head.number - self._first + 1 and before[-1].endswith(f'"hash":"{head.hash}"}}'.encode()):
            self._offset = sum(len(line) + 1 for line in before)
        else:
            self._tell_changed()

    def _tell_changed(self) -> None:
        log.error(
            f"The chain {self._chain} no longer has what was shipped of it, {self._last}; its last file is shipped again",
            action="audit_changed",
        )
