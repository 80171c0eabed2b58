"""Watches the health of each replica, and asks the supervisor to restart one."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import structlog

from enginehouse.background import Background
from enginehouse.runner.clients.base import Health
from enginehouse.runner.replicas import Replica, ReplicaPool

_log = structlog.get_logger(__name__)

_DOWN_POLL_SECONDS = 0.1
_LONG_DOWN_SECONDS = 30.0
_LONG_DOWN_POLL_SECONDS = 1.0
_UP_POLL_SECONDS = 2.0
_STUCK = "all that {} works on at once hangs past its time, and nothing here restarts it: it must be started again"


class Restarts:
    """Asks the supervisor to restart replicas: it removes the file `<host>_<port>` when it has restarted that replica."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @property
    def are_possible(self) -> bool:
        """Return whether there is a supervisor to ask."""
        return self._folder is not None

    def request(self, replica: Replica) -> bool:
        """Ask for a restart; return False if no supervisor can be asked."""
        if self._folder is None:
            return False
        try:
            self._file(replica).touch()
        except OSError as error:
            _log.error(
                "A restart of the engine could not be requested",
                action="restart_not_asked",
                engine_address=replica.client.address,
                error=str(error),
            )
            return False
        replica.restarting = True
        return True

    def pending(self, replica: Replica) -> bool:
        """Return whether a restart was requested and is not done yet."""
        return self._folder is not None and self._file(replica).exists()

    def _file(self, replica: Replica) -> Path:
        assert self._folder is not None
        return self._folder / replica.client.address.replace(":", "_")


@dataclass(slots=True)
class _Down:
    """What is wrong with a replica, and since which moment of the monotonic clock."""

    fault: str
    since: float


class HealthWatch:
    """Polls /healthz of every replica: often while the replica is down, seldom while it is up."""

    def __init__(
        self,
        pool: ReplicaPool,
        restarts: Restarts,
        on_up: Callable[[Replica], None],
        on_answer: Callable[[Replica, Health], None] = lambda _replica, _health: None,
    ) -> None:
        """Call `on_up` when a replica has become healthy, and `on_answer` at each health check that it answers."""
        self._pool = pool
        self._restarts = restarts
        self._on_up = on_up
        self._on_answer = on_answer
        self._down: dict[Replica | None, _Down] = {}
        """What is wrong with replicas, and under None with the look for them."""
        self._polls: dict[Replica, asyncio.Task[None]] = {}
        self._background = Background()

    def start(self) -> None:
        """Begin to poll."""
        for replica in self._pool.replicas:
            self.watch(replica)

    def watch(self, replica: Replica) -> None:
        """Begin to poll a replica."""
        self._polls[replica] = self._background.keep("health check", partial(self._poll, replica))

    def forget(self, replica: Replica) -> None:
        """Stop polling a replica that has left."""
        self._polls.pop(replica).cancel()
        self._down.pop(replica, None)

    def note_search(self, fault: str | None) -> None:
        """Note why replicas cannot be looked for; None if they can be."""
        self._note_fault(None, fault)

    async def stop(self) -> None:
        """Stop polling."""
        await self._background.close()

    def problem(self, expected_since: float, after_seconds: float) -> str | None:
        """Say what is wrong with a replica that has been down for `after_seconds`; None if there is none.

        `expected_since`: the moment of the monotonic clock since which replicas can be up at all.
        """
        for down in self._down.values():
            if time.monotonic() - max(down.since, expected_since) >= after_seconds:
                return f"After {after_seconds:g} s, {down.fault}."
        return None

    async def _poll(self, replica: Replica) -> None:
        down_for = 0.0
        while True:
            self._update(replica, await replica.client.health())
            if replica.healthy:
                down_for, pause = 0.0, _UP_POLL_SECONDS
            else:
                pause = _DOWN_POLL_SECONDS if down_for < _LONG_DOWN_SECONDS else _LONG_DOWN_POLL_SECONDS
                down_for += pause
            await self._pause(replica, pause)

    async def _pause(self, replica: Replica, seconds: float) -> None:
        """Sleep, at most until a failed call marks the replica as down: then its health is checked at once."""
        replica.changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await replica.changed.wait()

    def _update(self, replica: Replica, health: Health) -> None:
        if replica.restarting and not self._restarts.pending(replica) and health.ok:
            replica.restarting = False
        replica.silent = not health.answered
        if health.answered:
            self._on_answer(replica, health)
        if not health.answered and replica.healthy and replica.places_taken:
            self._down.pop(replica, None)
            return  # Many engines answer no health check while they work. Their execution clock judges them.
        if replica.stuck and health.ok:
            health = replace(health, ok=False, fault=_STUCK.format(replica.client.address))
        self._note_fault(replica, health.fault)
        healthy = health.ok and not replica.restarting
        if healthy == replica.healthy:
            return
        self._pool.set_health(replica, healthy)
        _log.info(
            "The engine is ready" if healthy else "The engine fails its health check",
            action="engine_up" if healthy else "engine_down",
            engine_address=replica.client.address,
        )
        if healthy:
            self._on_up(replica)

    def _note_fault(self, replica: Replica | None, fault: str | None) -> None:
        if fault is None:
            self._down.pop(replica, None)
        else:
            self._down.setdefault(replica, _Down(fault, time.monotonic())).fault = fault
