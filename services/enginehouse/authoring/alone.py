"""Run an engine alone, as `enginehouse up` would run its process: no runner, no Dapr, restarted by nobody."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.confine import SCRATCH, confined
from enginehouse.local.confinement import UserPool, is_below
from enginehouse.local.engine_start import EngineCommand, EngineStart
from enginehouse.local.guard import Guard, signal_group
from enginehouse.local.processes import NO_WORDS, how_it_ended, last_lines, launch, signal_group_leader

STOP_SECONDS = 5.0
_PATH = re.compile(r"""'(/[^'\n]+)'|"(/[^"\n]+)"|(?<![\w./])(/[^\s'":,;()]+)""")
_LOOK_SECONDS = 0.1
_END_SECONDS = 1.0


@dataclass(slots=True)
class EngineAlone:
    """The process of an engine under test. Use `running`."""

    start_from: EngineStart
    folder: Path
    """Folder of its author. It runs from a copy."""
    scratch: Path
    port: int
    guard: Guard
    peak_bytes: int = 0
    """Most resident memory that was seen, of all its processes together."""
    _users: UserPool = field(default_factory=UserPool, repr=False)
    _user: int | None = None
    """Whom it runs as. None: as our user."""
    _process: asyncio.subprocess.Process | None = None
    _marked: int = 0
    _watching: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def spec(self) -> EngineSpec:
        """Return the content of its engine.yaml."""
        return self.start_from.spec

    @property
    def is_confined(self) -> bool:
        """Return whether it is a user of its own that sees its own files only."""
        return self.start_from.private is not None

    @property
    def url(self) -> str:
        """Return where it must listen."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """Return the file with its output."""
        return self.scratch / "engine.log"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["EngineAlone"]:
        """Start it for the length of the block. After it, no process of it is left."""
        try:
            await self.start()
            yield self
        finally:
            await self.kill()

    async def start(self) -> None:
        """Start it, after `kill` once more. Raise OSError or LocalError if that cannot be done."""
        made = self._made()
        self.mark()
        # A new user for each start, as under `up`.
        plan = None
        if made.confinement:
            self._user = await self._users.take()
            plan = made.confinement.plan(self._user)
        command, environment = confined(made.command, made.environment, made.limits, plan)
        source = self.start_from.source
        self._process = await launch(command, environment, source, self.log, self.guard, self._user)
        self._watching = asyncio.create_task(self._watch(self._process.pid), name="memory of the engine")

    def _made(self) -> EngineCommand:
        return self.start_from.on_port(self.port, self._home)

    @property
    def _home(self) -> Path:
        return self.scratch / "home"

    async def stop(self) -> float | None:
        """Ask it to end with SIGTERM, as `up` does. Return how long it took; None if it does not end in time."""
        assert self._process
        began = time.monotonic()
        signal_group_leader(self._process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
                return time.monotonic() - began
        return None

    async def kill(self) -> None:
        """End it and its children at once."""
        process, self._process = self._process, None
        if process is not None:
            if self._watching:
                self._watching.cancel()
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()
            self.guard.forget(process.pid)
        user, self._user = self._user, None
        if user is not None:
            self._users.release(user)

    def how_it_ended(self) -> str | None:
        """Say how it ended; None while it runs."""
        code = self._process.returncode if self._process else 0
        return None if code is None else how_it_ended(code, self.words(), self.spec.resources.memory_bytes)

    def mark(self) -> None:
        """Let `words` begin here."""
        self._marked = self.log.stat().st_size if self.log.exists() else 0

    def words(self) -> str:
        """Return its last lines since the last mark, with the author's own folder in place of the copy."""
        words = last_lines(self.log, self._marked).replace(str(self.start_from.source), str(self.folder))
        return "" if words == NO_WORDS else words

    def unseen(self) -> Path | None:
        """Return a file of its author that its last words name, and that it does not see; None if there is none."""
        confinement = self._made().confinement
        hidden = [*(self.start_from.private or ()), *map(Path, SCRATCH)] if confinement else []
        shown = confinement.shown if confinement else []
        for names in _PATH.findall(last_lines(self.log, self._marked)):
            path = Path("".join(names))
            if self._home in path.parents:
                path = Path.home() / path.relative_to(self._home)  # Its own home is empty.
            elif not is_below(path, hidden) or is_below(path, shown):
                continue
            if os.path.exists(path):
                return path
        return None

    async def has_ended(self) -> bool:
        """Return whether it has ended, after a moment in which a process that closed a connection does so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                if self._process:
                    await self._process.wait()
        return self.how_it_ended() is not None

    def listens(self) -> set[tuple[str, int]]:
        """Return the addresses and ports on which it listens."""
        found: set[tuple[str, int]] = set()
        for process in self._family(self._process.pid if self._process else None):
            with contextlib.suppress(psutil.Error):
                for connection in process.net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN:
                        found.add((connection.laddr.ip, connection.laddr.port))
        return found

    async def _watch(self, pid: int) -> None:
        """Follow its memory."""
        while family := self._family(pid):
            resident = 0
            for process in family:
                with contextlib.suppress(psutil.Error):
                    resident += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, resident, _high_water(pid))
            await asyncio.sleep(_LOOK_SECONDS)

    @staticmethod
    def _family(pid: int | None) -> list[psutil.Process]:
        if pid is None:
            return []
        with contextlib.suppress(psutil.Error):
            leader = psutil.Process(pid)
            return [leader, *leader.children(recursive=True)]
        return []


def _high_water(pid: int) -> int:
    """Return the most resident memory that a process has had, according to Linux; 0 if it is not known."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
