"""Shares the event loop's time, so that the requests of one tenant do not stand before those of another.

All requests are answered in one loop. Each of its passes takes as long as everything that is ready in it, and a request
needs several passes: a tenant that keeps many connections busy would make each of them long for everybody.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_PASS_SECONDS = 0.002
"""Time in one pass for all that have more to do than fits into it. About ten steps: enough to keep the loop busy."""
_LEAST_SECONDS = 0.0002
_STEP_SECONDS = 0.0002
"""How long a step is expected to take before any was seen."""


class _Party:
    """Somebody whose requests share the loop's time."""

    __slots__ = ("step_seconds", "used", "waiting")

    def __init__(self) -> None:
        self.used = 0.0
        """Seconds in this pass, and those by which it went beyond its share in passes before."""
        self.step_seconds = _STEP_SECONDS
        self.waiting: deque[asyncio.Future[None]] = deque()


class LoopTime:
    """Lets everybody run in each pass of the loop, for a short time each. Whoever needs little never waits.

    The unit is a step: what a request does between two waits. A step is never interrupted, so a long one delays all
    others: long work has pauses (`asyncio.sleep(0)`) or leaves the loop.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._parties: dict[str, _Party] = {}
        """Those that ran in this pass, or wait for the next."""
        self._share = _PASS_SECONDS
        self._passing = False

    async def share(self, name: str, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` within the share of this party: a tenant's name, or the address of somebody without a key."""
        return await self._by_steps(name, work)

    @coroutine
    def _by_steps(self, name: str, work: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Do what `await work` does, but begin each step when the party's time allows it."""
        resume: Callable[[Any], Any] = work.send
        given: Any = None
        while True:
            party = self._parties.get(name)
            try:
                while party is not None and party.used >= self._share:
                    yield from self._next_turn(party)
                    party = self._parties.get(name)
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:
                resume, given = work.throw, error
            began = self._clock()
            try:
                awaited = resume(given)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            finally:
                self._charge(name, self._clock() - began)
            try:
                given = yield awaited
                resume = work.send
            except GeneratorExit:
                work.close()
                raise
            except BaseException as error:
                resume, given = work.throw, error

    def _next_turn(self, party: _Party) -> Generator[Any, None, None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        party.waiting.append(turn)
        yield from turn.__await__()

    def _charge(self, name: str, seconds: float) -> None:
        party = self._parties.get(name)
        if party is None:
            party = self._parties[name] = _Party()
        party.used += seconds
        party.step_seconds += (seconds - party.step_seconds) / 16
        if not self._passing:
            self._passing = True
            asyncio.get_running_loop().call_soon(self._next_pass)

    def _next_pass(self) -> None:
        """Give everybody the time of one pass, and wake as many of those that wait as should fit into it."""
        before = self._share
        crowd = sum(1 for party in self._parties.values() if party.waiting)
        self._share = max(_PASS_SECONDS / max(crowd, 1), _LEAST_SECONDS)
        for name, party in list(self._parties.items()):
            party.used = max(party.used - before, 0.0)
            left = self._share - party.used
            while party.waiting and left > 0:
                turn = party.waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    left -= party.step_seconds
            if not party.used and not party.waiting:
                del self._parties[name]
        self._passing = bool(self._parties)
        if self._passing:
            asyncio.get_running_loop().call_soon(self._next_pass)
