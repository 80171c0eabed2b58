"""Does each broadcast once, however often it arrives: which of an engine's workers a sidecar reaches is chance."""

import asyncio
from collections.abc import Awaitable, Callable

from enginehouse.contracts.calls import BROADCAST_SECONDS, ReplicaAnswer
from enginehouse.contracts.errors import RateLimited

_REMEMBERED_SECONDS = 2 * BROADCAST_SECONDS
"""By then the gateway has given up repeating a broadcast."""
_REMEMBERED_MOST = 256


class Broadcasts:
    """Remembers what the replicas answered to the broadcasts of the last minutes."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        """When each began, the oldest first."""
        self._answers: dict[str, list[ReplicaAnswer]] = {}

    async def once(
        self, broadcast: str, ask: Callable[[], Awaitable[list[ReplicaAnswer]]]
    ) -> list[ReplicaAnswer] | None:
        """Return what `ask` returns, and later what it returned then; None while it has not returned.

        Raise RateLimited if there are more broadcasts than can be remembered.
        """
        self._forget()
        if broadcast in self._begun:
            return self._answers.get(broadcast)
        if len(self._begun) >= _REMEMBERED_MOST:
            raise RateLimited(
                f"the engine has had {_REMEMBERED_MOST} broadcasts in {_REMEMBERED_SECONDS:g} s, the limit"
            )
        self._begun[broadcast] = asyncio.get_running_loop().time()
        answers = self._answers[broadcast] = await ask()
        return answers

    def _forget(self) -> None:
        too_old = asyncio.get_running_loop().time() - _REMEMBERED_SECONDS
        for broadcast in [broadcast for broadcast, begun in self._begun.items() if begun < too_old]:
            del self._begun[broadcast]
            self._answers.pop(broadcast, None)
