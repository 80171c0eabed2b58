"""Keeps the places of calls that were given up, and has a replica restarted that hangs, but under no job of others."""

import asyncio

import structlog

from enginehouse.background import Background
from enginehouse.runner.attempt import Attempt
from enginehouse.runner.clients.base import Health
from enginehouse.runner.health import Restarts
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Place, Replica, ReplicaPool

_log = structlog.get_logger(__name__)


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
        calls: int,
        after_seconds: float,
        execution_timeout_seconds: float,
    ) -> None:
        """A restart comes `after_seconds` after the call's time, or the engine's own time if that is longer.

        `calls` is how many calls one replica works on at once.
        """
        self._pool = pool
        self._restarts = restarts
        self._pace = pace
        self._calls = calls
        self._after_seconds = after_seconds
        self._engine_seconds = execution_timeout_seconds
        self._background = Background()

    def take_over(self, place: Place, replica: Replica, attempt: Attempt) -> None:
        """Take over the place of a call that was closed because it was late or unwanted."""
        place.leave_to_guard()
        due_at = replica.calls[place] + max(attempt.order.execution_timeout_seconds, self._engine_seconds)
        self._background.start(self._hold(place=place, replica=replica, job_id=attempt.job_id, due_at=due_at))

    def look_at(self, replica: Replica, health: Health) -> None:
        """Restart an idle replica that has worked for too long on calls that were given up: they may never end."""
        now = asyncio.get_running_loop().time()
        if not health.abandoned:
            replica.abandoned_since = None
        elif replica.abandoned_since is None:
            replica.abandoned_since = now
        elif now - replica.abandoned_since > self._engine_seconds + self._after_seconds and _is_idle(replica):
            replica.abandoned_since = None
            self._restart(replica)

    async def stop(self) -> None:
        """Stop waiting for the calls that were given up."""
        await self._background.close()

    async def _hold(self, *, place: Place, replica: Replica, job_id: str, due_at: float) -> None:
        try:
            if not await replica.client.cancel(job_id) and not await self._ends(replica, due_at):
                replica.hung.add(place)
                place.note_death()
                if self._restarts.are_possible:
                    await self._wait_to_restart(replica, job_id)
                else:
                    await self._keep_away(replica, job_id)
        finally:
            replica.hung.discard(place)
            replica.stuck = False
            if not replica.hung:
                replica.draining = False
            place.release()

    async def _ends(self, replica: Replica, due_at: float) -> bool:
        """Wait until the call has ended, or is out of the way; return False if it hangs.

        It does if it goes on `after_seconds` after `due_at`, or after this moment if `due_at` is past.
        """
        loop = asyncio.get_running_loop()
        is_late = loop.time() >= due_at
        deadline = max(loop.time(), due_at) + self._after_seconds
        while not replica.is_gone:
            health = await self._ask(replica)
            if health is None:
                return True
            if health.ok and health.in_hand is None and not is_late:
                return True  # It does not count its calls, and this call had time left: assume that it has ended.
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(left, self._pace.hang_poll_seconds))
        return True

    async def _ask(self, replica: Replica) -> Health | None:
        """Ask for the replica's health. Return None if the engine works on fewer calls than are out: one has ended."""
        loop = asyncio.get_running_loop()
        # Younger calls may be on their way to the engine or back, and prove nothing.
        counted = {
            place for place, since in replica.calls.items() if since <= loop.time() - self._pace.call_age_seconds
        }
        health = await replica.client.health()
        ended = health.in_hand is not None and health.in_hand < len(counted & replica.calls.keys())
        return None if ended else health

    async def _wait_to_restart(self, replica: Replica, job_id: str) -> None:
        """Have the replica restarted as soon as only hung calls are left at it. Return also if the call ends by itself."""
        while not replica.is_gone:
            if _is_idle(replica):
                self._restart(replica, job_id=job_id)
                return
            if self._is_blocked(replica):
                replica.draining = True
            await asyncio.sleep(self._pace.hang_poll_seconds)
            if await self._ask(replica) is None:
                return

    async def _keep_away(self, replica: Replica, job_id: str) -> None:
        """Keep jobs away from the place of a call that hangs where nobody can restart the replica, as in Kubernetes.

        Return when the call has ended by what the engine says, or the engine was started again. From one that counts no
        calls its answer to a health check must do.
        """
        _log.warning(
            "A call hung past its time, and no supervisor can restart its engine",
            action="engine_hangs",
            engine_address=replica.client.address,
            job_id=job_id,
        )
        while not replica.is_gone and (health := await self._ask(replica)) is not None:
            if not health.answered and replica.healthy:
                self._pool.set_health(replica, False)  # Until it answers: it is silent for longer than it may work.
            if health.answered and (not health.ok or health.in_hand is None):
                return
            replica.stuck = health.answered and len(replica.hung) >= replica.concurrency
            await asyncio.sleep(self._pace.hang_poll_seconds)

    def _is_blocked(self, replica: Replica) -> bool:
        """Return whether it is better to let the replica's jobs end and restart it: hung calls leave no thread free.

        One replica at a time, so that the others go on.
        """
        if any(other.draining for other in self._pool.replicas if other is not replica):
            return False
        return len(replica.hung) >= self._calls or replica.places_taken >= replica.concurrency

    def _restart(self, replica: Replica, **ids: str) -> None:
        requested = self._restarts.request(replica)
        if requested:
            self._pool.set_health(replica, False)
        _log.warning(
            "A call hung past its time, so its engine is restarted"
            if requested
            else "A call hung past its time, and no supervisor can restart its engine",
            action="engine_restart",
            engine_address=replica.client.address,
            **ids,
        )


def _is_idle(replica: Replica) -> bool:
    """Return whether a restart would break no job."""
    return not replica.restarting and replica.places_taken <= len(replica.hung)
