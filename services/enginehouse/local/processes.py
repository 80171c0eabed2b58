"""Keep child processes running: each in a group of its own, restarted when it dies, stopped in order."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from enginehouse.local.confine import confined
from enginehouse.local.confinement import Confinement, UserPool
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard, signal_group

HealthCheck = Callable[[], Awaitable[bool]]
ProcessState = Literal["starting", "running", "waiting to restart", "stopped"]

_DEATHS_BEFORE_HEALTHY = 3
_POLL_SECONDS = 0.1
_LAST_LINES = 12
_LONGEST_LOG = 2**30
NO_WORDS = "(nothing)"
"""Stands for the last lines of a process that has written none."""
_SIGNALS = {number.value: number.name for number in signal.Signals}
_OUT_OF_MEMORY = re.compile(r"MemoryError|bad_alloc|out of memory|(cannot|unable to|failed to) allocate", re.IGNORECASE)
"""What processes say when memory is refused to them."""


class StartFailed(LocalError):
    """A process did not become healthy."""


@dataclass(frozen=True, slots=True)
class ProcessPace:
    """How fast processes are restarted and killed, in seconds."""

    first_backoff_seconds: float = 0.5
    """Wait before the first restart after a death. It doubles with each further death."""
    longest_backoff_seconds: float = 5.0
    """Longest wait before a restart of a part that everybody's jobs wait for, whatever killed it."""
    longest_tenants_backoff_seconds: float = 30.0
    """Longest wait before a restart of a tenant's own engine. One that cannot start must not keep the machine busy."""
    settled_seconds: float = 30.0
    """A process that has run this long is settled: its next death starts the backoff from the beginning."""
    insist_seconds: float = 3.0
    """Time between the second SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A command to run and its health check."""

    name: str
    kind: str
    command: Sequence[str]
    environment: Callable[[], Mapping[str, str]]
    """Called before each start."""
    cwd: Path
    log: Path
    port: int
    health_url: str | None
    health: HealthCheck
    grace_seconds: float = 10
    """Time between SIGTERM and the second SIGTERM."""
    is_tenants: bool = False
    """Whether only one tenant's jobs wait for it."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """What the process may have, by names of the module resource without RLIMIT_. More is refused to the process."""
    confinement: Confinement | None = None
    """What the process sees as a user of its own. None: it runs as our user."""
    more_arguments: Callable[[], Sequence[str]] = tuple
    """Called before each start, for arguments that depend on the moment."""
    meanings: Mapping[int, str] = field(default_factory=dict)
    """A sentence for each exit status that says more than its number."""


@dataclass(slots=True)
class ProcessStatus:
    """State of a process, as `status` shows it."""

    name: str
    kind: str
    port: int
    health_url: str | None
    log: str
    state: ProcessState = "starting"
    pid: int | None = None
    restarts: int = 0
    started_at: float = 0
    last_exit: int | None = None


@dataclass(slots=True)
class Supervised:
    """One process and the task that keeps it running."""

    spec: ProcessSpec
    status: ProcessStatus
    guard: Guard
    on_change: Callable[[], None]
    pace: ProcessPace = ProcessPace()
    users: UserPool = field(default_factory=UserPool)
    _task: "asyncio.Task[None] | None" = None
    deaths: int = 0
    """Deaths in a row, each before the process had settled."""
    _stopping: bool = False
    _at_once: bool = False
    _retry: asyncio.Event = field(default_factory=asyncio.Event)
    _last_end: str | None = None
    _log_start: int = 0
    """Size of the log when the process was last started: what came before is of an earlier process."""

    def start(self) -> None:
        """Start the process now, and again whenever it dies."""
        self._task = asyncio.create_task(self._keep_running(), name=f"supervise {self.spec.name}")

    async def is_healthy(self) -> bool:
        """Return whether the process runs and its health check passes."""
        return self.status.state == "running" and await self.spec.health()

    async def wait_healthy(self, timeout_seconds: float) -> None:
        """Wait until healthy. Raise StartFailed with its last log lines if it keeps dying or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        deaths = self.status.restarts
        while not await self.is_healthy():
            if self.status.restarts - deaths >= _DEATHS_BEFORE_HEALTHY:
                raise self._failed(f"{self.spec.name} died {_DEATHS_BEFORE_HEALTHY} times while starting")
            if time.monotonic() > deadline:
                raise self._failed(f"{self.spec.name} is not healthy after {timeout_seconds:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def problem(self) -> str | None:
        """Return how a process ended that keeps dying, with its last words; None if there is no known problem."""
        if self.deaths < _DEATHS_BEFORE_HEALTHY or await self.is_healthy():
            return None
        return self._last_end

    def terminate(self) -> None:
        """Send SIGTERM without waiting. The process is not started again."""
        self._stopping = True
        if self.status.pid:
            signal_group_leader(self.status.pid, signal.SIGTERM)

    async def stop(self, grace_seconds: float | None = None) -> None:
        """End the process and its children: SIGTERM, SIGTERM again after its grace time, then SIGKILL.

        The second SIGTERM means "now": a runner hands its jobs back, and daprd stops waiting.
        """
        self.terminate()
        if self._task is None:
            return
        if self.status.state == "waiting to restart":
            self._task.cancel()
        grace = self.spec.grace_seconds if grace_seconds is None else grace_seconds
        for patience, number in ((grace, signal.SIGTERM), (self.pace.insist_seconds, signal.SIGKILL)):
            _, pending = await asyncio.wait([self._task], timeout=patience)
            if pending and self.status.pid:
                signal_group_leader(self.status.pid, number)
        await asyncio.wait([self._task])
        self._set("stopped")

    def kill(self) -> None:
        """Kill the process and its children, without waiting. It is not started again."""
        self._stopping = True
        if self.status.pid:
            signal_group(self.status.pid, signal.SIGKILL)

    def kill_and_restart(self) -> bool:
        """Kill a process that hangs; return whether it ran. It starts again at once."""
        self._at_once = True
        if not self.status.pid:
            return False
        signal_group(self.status.pid, signal.SIGKILL)
        return True

    def retry(self) -> None:
        """Start the process at once if it waits for a restart: the cause of its death may be gone."""
        self._retry.set()

    async def _keep_running(self) -> None:
        pace = self.pace
        longest = pace.longest_tenants_backoff_seconds if self.spec.is_tenants else pace.longest_backoff_seconds
        backoff = self.pace.first_backoff_seconds
        while not self._stopping:
            began = time.monotonic()
            try:
                code = await self._run_once()
            except (OSError, LocalError) as error:
                code = 127
                why = error.strerror if isinstance(error, OSError) else error
                _append(self.spec.log, f"cannot start {self.spec.command[0]}: {why}\n")
            self.status.last_exit = code
            self._last_end = self._describe_end(code)
            if self._stopping:
                break
            self.status.restarts += 1
            self.deaths += 1
            if time.monotonic() - began > self.pace.settled_seconds:
                backoff, self.deaths = self.pace.first_backoff_seconds, 1
            if not self._at_once:
                self._set("waiting to restart")
                self._retry.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff):
                        await self._retry.wait()
                backoff = min(2 * backoff, longest)
            self._at_once = False
        self._set("stopped")

    async def _run_once(self) -> int:
        if self.spec.confinement is None:
            return await self._run_as(None)
        # A new user for each start: what ends the former one's processes never meets these.
        user = await self.users.take()
        try:
            return await self._run_as(user)
        finally:
            self.users.release(user)

    async def _run_as(self, user: int | None) -> int:
        spec = self.spec
        _put_aside(spec.log, min(_LONGEST_LOG, spec.limits.get("FSIZE", 2 * _LONGEST_LOG) // 2))
        self._log_start = _size(spec.log)
        command, environment = [*spec.command, *spec.more_arguments()], spec.environment()
        if spec.limits or spec.confinement:
            plan = spec.confinement.plan(user) if spec.confinement and user is not None else None
            command, environment = confined(command, environment, spec.limits, plan)
        process = await launch(command, environment, spec.cwd, spec.log, self.guard, user)
        self.status.pid, self.status.started_at = process.pid, time.time()
        try:
            self._set("running")
            if self._stopping:
                signal_group_leader(process.pid, signal.SIGTERM)
            return await process.wait()
        finally:
            # The children of the process end with it, also when this task is cancelled.
            signal_group(process.pid, signal.SIGKILL)
            self.guard.forget(process.pid)
            self.status.pid = None

    def _set(self, state: ProcessState) -> None:
        self.status.state = state
        self.on_change()

    def _failed(self, what: str) -> StartFailed:
        words = last_lines(self.spec.log, self._log_start)
        return StartFailed(what, f"Its last log lines ({self.spec.log}):\n{words}")

    def _describe_end(self, code: int) -> str:
        """Say how the process ended. The text is the same for each death of the same kind."""
        words = last_lines(self.spec.log, self._log_start)
        how = f"{how_it_ended(code, words, self.spec.limits.get('DATA'))} {self.spec.meanings.get(code, '')}".rstrip()
        return f"{self.spec.name} keeps ending, with {how} Its last lines:\n{words}"


def how_it_ended(code: int, words: str, memory_bytes: int | None) -> str:
    """Say with which status or signal a process ended, and whether memory was refused to it, by its last `words`."""
    how = f"signal {_SIGNALS.get(-code, -code)}" if code < 0 else f"exit status {code}"
    if memory_bytes is None or not _OUT_OF_MEMORY.search(words):
        return f"{how}."
    allowed = f"{memory_bytes / 2**20:.0f} MiB"
    return f"{how}. It wanted more memory than the {allowed} that resources.memory in engine.yaml allows."


def signal_group_leader(pid: int, number: int) -> None:
    """Signal one process. Do nothing if it is already gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


async def launch(
    command: Sequence[str], environment: Mapping[str, str], cwd: Path, log: Path, guard: Guard, user: int | None = None
) -> asyncio.subprocess.Process:
    """Start a process in its own session, watched by the guard. Its output is appended to `log`.

    `user` is the one that it becomes, if that is its own.

    The output goes straight into the file, because a stalled supervisor must not stall its processes.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    guard.watch(process.pid, user)
    return process


def last_lines(log: Path, start: int) -> str:
    """Return the last lines of a log after its first `start` bytes, for messages."""
    try:
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, os.SEEK_END) - 8_192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return NO_WORDS
    return "\n".join(line[:500] for line in lines[-_LAST_LINES:]) or NO_WORDS


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _put_aside(log: Path, longest: int) -> None:
    """Begin a new log where the present one is longer, in place of the one that was put aside before."""
    if _size(log) > longest:
        log.replace(log.with_name(f"{log.name}.old"))


def _append(log: Path, text: str) -> None:
    """Add a text to a log, unless the disk is full."""
    with contextlib.suppress(OSError), log.open("a") as file:
        file.write(text)


class Supervisor:
    """All processes of a stack."""

    def __init__(self, on_change: Callable[[], None], pace: ProcessPace = ProcessPace()) -> None:
        self.guard = Guard()
        self._pace = pace
        self._on_change = on_change
        self._users = UserPool()
        self._processes: dict[str, Supervised] = {}

    def start(self, spec: ProcessSpec) -> Supervised:
        """Start a process and keep it running. Its name must be unique."""
        status = ProcessStatus(spec.name, spec.kind, spec.port, spec.health_url, str(spec.log))
        process = Supervised(spec, status, self.guard, self._on_change, self._pace, self._users)
        self._processes[spec.name] = process
        process.start()
        return process

    async def stop(self, *processes: Supervised, grace_seconds: float | None = None) -> None:
        """Stop these processes at the same time, and forget them."""
        await asyncio.gather(*(process.stop(grace_seconds) for process in processes))
        for process in processes:
            self._processes.pop(process.spec.name, None)
        self._on_change()

    async def close(self) -> None:
        """Stop the remaining processes with a short grace time, and end the guard."""
        await self.stop(*self._processes.values(), grace_seconds=2)
        self.guard.close()

    def statuses(self) -> list[dict[str, Any]]:
        """Return the state of every process, as plain data."""
        return [asdict(process.status) for process in self._processes.values()]
