"""Sends one request to every worker of an engine, although chance decides which of them a call reaches.

Dapr's service invocation picks a sidecar of the app anew for each call: at random among the rows of the file of names on one
machine, and among the addresses of the app's headless service in Kubernetes (daprd 1.18). So the call is repeated until each
living worker has answered. A worker does what it was asked once; it answers the repetitions with what it answered first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from enginehouse.contracts.calls import ReplicaAnswer, WorkerAnswer
from enginehouse.contracts.engine import WORKER_TTL_SECONDS
from enginehouse.contracts.errors import EnginehouseError

_REPEAT_SECONDS = WORKER_TTL_SECONDS + 5.0
"""By then a worker that died is not counted among the living any longer."""
_CALLS_AT_ONCE = 64
_FAILURES_MOST = 5
"""More than one: a sidecar can be found some seconds before its worker listens."""
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.01, 0.5


@dataclass(slots=True)
class EachWorker:
    """One request on its way to all workers of an engine."""

    living: Callable[[], Awaitable[set[str]]]
    """Returns the names of the workers that are to answer, as far as they are known now."""
    call: Callable[[], Awaitable[WorkerAnswer]]
    """Sends the request to one of them."""
    repeat_seconds: float = _REPEAT_SECONDS
    answers: dict[str, list[ReplicaAnswer]] = field(default_factory=dict)
    """What has been answered, by worker."""
    missing: set[str] = field(default_factory=set)
    """Living workers that have not answered."""
    failures: list[EnginehouseError] = field(default_factory=list)
    """Why calls got no answer."""
    _calls: "set[asyncio.Task[WorkerAnswer]]" = field(default_factory=set)

    async def ask(self, deadline: float) -> None:
        """Return when all have answered, when no more can be reached, or at `deadline`, a moment of the event loop."""
        loop = asyncio.get_running_loop()
        repeat_until, pause = loop.time() + self.repeat_seconds, _FIRST_PAUSE_SECONDS
        try:
            while await self._lacks_answers() and loop.time() < deadline:
                if loop.time() < repeat_until and len(self.failures) < _FAILURES_MOST:
                    self._call_once_more()
                elif not self._calls:
                    return
                done, self._calls = await asyncio.wait(self._calls, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if self._has_news(done):
                    pause = _FIRST_PAUSE_SECONDS
                else:
                    await asyncio.sleep(pause if done else 0)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        finally:
            for call in self._calls:
                call.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)

    async def _lacks_answers(self) -> bool:
        self.missing = await self.living() - self.answers.keys()
        return bool(self.missing)

    def _call_once_more(self) -> None:
        """Begin another call, if workers are missing that no call is on its way to."""
        if len(self._calls) < min(len(self.missing), _CALLS_AT_ONCE):
            self._calls.add(asyncio.ensure_future(self.call()))

    def _has_news(self, done: "Iterable[asyncio.Task[WorkerAnswer]]") -> bool:
        """Note what calls have brought. Return whether a worker has answered that had not."""
        before = len(self.answers)
        for call in done:
            try:
                answer = call.result()
            except EnginehouseError as error:
                self.failures.append(error)
                continue
            if answer.replicas is not None:
                self.answers.setdefault(answer.worker, answer.replicas)
        return len(self.answers) > before
