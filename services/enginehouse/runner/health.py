"""Watches each replica's health, and has one restarted that hangs."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from enginehouse.background import Background
from enginehouse.runner.attempt import Attempt
from enginehouse.runner.clients.base import Health
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Place, Replica, ReplicaPool

_log = structlog.get_logger(__name__)

_FAST_SECONDS, _SLOW_SECONDS = 0.1, 2.0
_STARTING_SLOWLY_SECONDS = 1.0


class Restarts:
    """Asks the supervisor to restart a replica: a file `<host>_<port>`, which the supervisor removes when it is done."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def request(self, replica: Replica) -> bool:
        """Ask for a restart; False if there is nobody to ask."""
        if self._folder is None:
            return False
        try:
            self._file(replica).touch()
        except OSError as error:
            _log.error("A restart of the engine could not be asked for", action="restart_not_asked", error=str(error))
            return False
        replica.restarting = True
        return True

    def pending(self, replica: Replica) -> bool:
        """Whether the restart that was asked for is still to come."""
        return self._folder is not None and self._file(replica).exists()

    def _file(self, replica: Replica) -> Path:
        assert self._folder is not None
        return self._folder / replica.client.address.replace(":", "_")


class HealthWatch:
    """Polls /healthz of every replica: often while one is down, seldom while it is up."""

    def __init__(self, pool: ReplicaPool, restarts: Restarts, came_up: Callable[[Replica], None]) -> None:
        self._pool = pool
        self._restarts = restarts
        self._came_up = came_up
        self._background = Background()

    def start(self) -> None:
        """Begin to poll."""
        for replica in self._pool.replicas:
            self._background.keep("health check", partial(self._poll, replica))

    async def stop(self) -> None:
        """End polling."""
        await self._background.close()

    async def _poll(self, replica: Replica) -> None:
        down_for = 0.0
        while True:
            self._note(replica, await replica.client.health())
            if replica.healthy:
                down_for, pause = 0.0, _SLOW_SECONDS
            else:
                pause = _FAST_SECONDS if down_for < 30 else _STARTING_SLOWLY_SECONDS
                down_for += pause
            await self._pause(replica, pause)

    async def _pause(self, replica: Replica, seconds: float) -> None:
        """Sleep, unless a failed call marks the replica down: that is followed up at once."""
        replica.changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await replica.changed.wait()

    def _note(self, replica: Replica, health: Health) -> None:
        if replica.restarting and not self._restarts.pending(replica) and health.ok:
            replica.restarting = False
        if not health.answered and replica.healthy and replica.places_taken:
            return  # Many engines answer nothing while they work; their execution clock judges them.
        healthy = health.ok and not replica.restarting
        if healthy == replica.healthy:
            return
        self._pool.set_health(replica, healthy)
        _log.info(
            "The engine is ready" if healthy else "The engine does not answer its health check",
            action="engine_up" if healthy else "engine_down",
            engine_address=replica.client.address,
        )
        if healthy:
            self._came_up(replica)


class HangGuard:
    """Keeps the slot of a call that was given up until the call is known to have ended, or its replica restarts.

    A thread at work cannot be stopped: another job sent to it would wait there, with its own clock running.
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
        """A restart comes `after_seconds` after the call's time, which is never less than the engine's own."""
        self._pool = pool
        self._restarts = restarts
        self._pace = pace
        self._after = after_seconds
        self._own_seconds = execution_timeout_seconds
        self._background = Background()

    def take_over(self, place: Place, replica: Replica, attempt: Attempt) -> None:
        """Hold the place of a call that was closed for being late or unwanted, until the call is known to have ended."""
        place.hand_over()
        due_at = replica.calls[place] + max(attempt.order.execution_timeout_seconds, self._own_seconds)
        self._background.start(self._judge(place, replica, attempt.job_id, due_at))

    async def stop(self) -> None:
        """Forget the calls that were given up."""
        await self._background.close()

    async def _judge(self, place: Place, replica: Replica, job_id: str, due_at: float) -> None:
        try:
            if await replica.client.cancel(job_id) or await self._ends(replica, due_at) or replica.restarting:
                return
            asked = self._restarts.request(replica)
            if asked:
                self._pool.set_health(replica, False)
            _log.warning(
                "A call hung past its time, so its engine is restarted"
                if asked
                else "A call hung past its time, and nothing here can restart its engine",
                action="engine_restart",
                job_id=job_id,
                engine_address=replica.client.address,
            )
        finally:
            place.release()

    async def _ends(self, replica: Replica, due_at: float) -> bool:
        """Return whether the engine says, until some time after `due_at`, that it works on fewer calls than are out."""
        loop = asyncio.get_running_loop()
        is_late = loop.time() >= due_at
        deadline = max(loop.time(), due_at) + self._after
        while not replica.restarting:
            # Younger calls may be on their way to the engine or back, and prove nothing.
            sure = {
                place for place, since in replica.calls.items() if since <= loop.time() - self._pace.call_age_seconds
            }
            health = await replica.client.health()
            if health.in_hand is not None and health.in_hand < len(sure & replica.calls.keys()):
                return True
            if health.ok and health.in_hand is None and not is_late:
                return True  # It does not count its calls, and this one had time left: assume that it has ended.
            left = deadline - loop.time()
            if left <= 0:
                break
            await asyncio.sleep(min(left, self._pace.hang_poll_seconds))
        return False
