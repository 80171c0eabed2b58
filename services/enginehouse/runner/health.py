"""Watches the health of each replica, and has a replica restarted that hangs."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from enginehouse.background import Background
from enginehouse.runner.attempt import Attempt
from enginehouse.runner.clients.base import Health
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Place, Replica, ReplicaPool

_log = structlog.get_logger(__name__)

_DOWN_POLL_SECONDS = 0.1
_LONG_DOWN_SECONDS = 30.0
_LONG_DOWN_POLL_SECONDS = 1.0
_UP_POLL_SECONDS = 2.0


class Restarts:
    """Asks the supervisor to restart replicas: it removes the file `<host>_<port>` when it has restarted that replica."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

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

    def __init__(self, pool: ReplicaPool, restarts: Restarts, on_up: Callable[[Replica], None]) -> None:
        self._pool = pool
        self._restarts = restarts
        self._on_up = on_up
        self._down: dict[Replica, _Down] = {}
        self._background = Background()

    def start(self) -> None:
        """Begin to poll."""
        for replica in self._pool.replicas:
            self._background.keep("health check", partial(self._poll, replica))

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
        if not health.answered and replica.healthy and replica.places_taken:
            self._down.pop(replica, None)
            return  # Many engines answer no health check while they work. Their execution clock judges them.
        self._note_fault(replica, health)
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

    def _note_fault(self, replica: Replica, health: Health) -> None:
        if health.fault is None:
            self._down.pop(replica, None)
        else:
            self._down.setdefault(replica, _Down(health.fault, time.monotonic())).fault = health.fault


class HangGuard:
    """Keeps the place of a call that was given up, until the call is known to have ended or its replica restarts.

    A thread at work cannot be stopped. Another job sent to it would wait there, while its own clock runs.
    """

    def __init__(
        self,
        pool: ReplicaPool,
        restarts: Restarts,
        pace: Pace,
        *,
        after_seconds: float,
        execution_timeout_seconds: float,
    ) -> None:
        """A restart comes `after_seconds` after the call's time, or the engine's own time if that is longer."""
        self._pool = pool
        self._restarts = restarts
        self._pace = pace
        self._after_seconds = after_seconds
        self._engine_seconds = execution_timeout_seconds
        self._background = Background()

    def take_over(self, place: Place, replica: Replica, attempt: Attempt) -> None:
        """Take over the place of a call that was closed because it was late or unwanted."""
        place.leave_to_guard()
        due_at = replica.calls[place] + max(attempt.order.execution_timeout_seconds, self._engine_seconds)
        self._background.start(self._hold(place=place, replica=replica, job_id=attempt.job_id, due_at=due_at))

    async def stop(self) -> None:
        """Stop waiting for the calls that were given up."""
        await self._background.close()

    async def _hold(self, *, place: Place, replica: Replica, job_id: str, due_at: float) -> None:
        try:
            if await replica.client.cancel(job_id) or await self._ends(replica, due_at) or replica.restarting:
                return
            requested = self._restarts.request(replica)
            if requested:
                self._pool.set_health(replica, False)
            _log.warning(
                "A call hung past its time, so its engine is restarted"
                if requested
                else "A call hung past its time, and no supervisor can restart its engine",
                action="engine_restart",
                job_id=job_id,
                engine_address=replica.client.address,
            )
        finally:
            place.release()

    async def _ends(self, replica: Replica, due_at: float) -> bool:
        """Wait until the engine says that it works on fewer calls than are out; return whether it did.

        Gives up `after_seconds` after `due_at`, or after this moment if `due_at` is past.
        """
        loop = asyncio.get_running_loop()
        is_late = loop.time() >= due_at
        deadline = max(loop.time(), due_at) + self._after_seconds
        while not replica.restarting:
            # Younger calls may be on their way to the engine or back, and prove nothing.
            counted = {
                place for place, since in replica.calls.items() if since <= loop.time() - self._pace.call_age_seconds
            }
            health = await replica.client.health()
            if health.in_hand is not None and health.in_hand < len(counted & replica.calls.keys()):
                return True
            if health.ok and health.in_hand is None and not is_late:
                return True  # It does not count its calls, and this call had time left: assume that it has ended.
            left = deadline - loop.time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, self._pace.hang_poll_seconds))
        return False
