"""Says whether the version is fit to serve: a replica is healthy, and has answered the version's own examples."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enginehouse.background import Background
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import new_job_id
from enginehouse.contracts.problem import problem_text
from enginehouse.examples import wrong_example
from enginehouse.runner.clients.base import Busy, Prediction, Reply
from enginehouse.runner.clock import Clock
from enginehouse.runner.execute import Executor
from enginehouse.runner.outcome import HandedBack, Succeeded
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Replica, ReplicaPool
from enginehouse.runner.tenants import Asker

_NOT_TRIED = "Its own examples are being tried"
_JUST_STARTED = "It has just started"


class Fitness:
    """Tries the version's own examples when it is first asked while a replica is healthy, and remembers the outcome.

    A version that has answered them is fit for as long as this runner lives. One that has not is tried again after a
    while, because its replica may have been stopped, or the machine been busy.

    Where each example costs a replica (`mode: job`), those of a version on trial are tried, and no others: else each runner
    that wakes up for a job would have it wait behind them.
    """

    def __init__(
        self,
        spec: EngineSpec,
        folder: Path,
        pool: ReplicaPool,
        executor: Executor,
        pace: Pace,
        *,
        output_max_bytes: int,
        is_on_trial: Callable[[], bool | None],
    ) -> None:
        """Read the examples in `folder`, beside the engine.yaml. A result may have `output_max_bytes`.

        `is_on_trial` says whether the version is on trial; None: that is not known yet.
        """
        self._is_on_trial = is_on_trial
        self._spec = spec
        self._folder = folder
        self._pool = pool
        self._executor = executor
        self._retry_seconds = pace.examples_retry_seconds
        self._output_max_bytes = output_max_bytes
        self._answered = spec.protocol != "predict"  # What other servers take is not read from a folder.
        self._wrong = _NOT_TRIED
        self._try_at = 0.0
        self._trying: asyncio.Task[None] | None = None
        self._background = Background()

    def misfit(self, problem: str | None, *, is_asleep: bool) -> str | None:
        """Say why the version is not fit; None if it is.

        `problem` is what its health checks found. An engine that has fallen asleep since is as fit as it was.
        """
        if self._spec.one_job_each and not (on_trial := self._is_on_trial()):
            works = on_trial is not None and (self._pool.any_healthy or is_asleep)
            return None if works else problem_text(problem or _JUST_STARTED)
        if not self._pool.any_healthy and not (is_asleep and self._answered):
            return problem_text(
                problem or ("It has no replica yet" if is_asleep else "None of its replicas is healthy yet")
            )
        if self._answered:
            return None
        if self._trying is None and asyncio.get_running_loop().time() >= self._try_at:
            self._trying = self._background.start(self._try())
        return self._wrong

    async def stop(self) -> None:
        """Stop trying."""
        await self._background.close()

    async def _try(self) -> None:
        try:
            wrong = await wrong_example(self._folder, self._ask)
        except Exception as error:  # Whatever an example or an answer is, it is said.
            wrong = f"example: it cannot be tried: {type(error).__name__}: {error}"
        self._answered = wrong is None
        self._wrong = problem_text(f"{self._spec.version} does not answer its own {wrong}")
        self._try_at = asyncio.get_running_loop().time() + self._retry_seconds
        self._trying = None

    async def _ask(self, data: Any) -> str | None:
        """Send an input to a replica that has a place for it, as a job is; return what is wrong with the answer."""
        async with self._executor.place(Asker(self._spec.tenant)) as place:
            if (replica := place.replica) is None:
                return "no replica of the engine takes it now"
            place.call_out(replica)
            try:
                return _said(await self._predict(replica, data))
            except TimeoutError:
                return f"no answer within {self._spec.execution_timeout_seconds:g} s"

    async def _predict(self, replica: Replica, data: Any) -> Reply:
        clock = Clock(self._spec.execution_timeout_seconds)
        prediction = Prediction(
            new_job_id(),
            data,
            output_max_bytes=self._output_max_bytes,
            clock=clock,
            tenant=self._spec.tenant,
            alone=True,
        )
        async with asyncio.timeout(2 * clock.seconds):  # A busy engine is not asked for ever.
            while True:
                async with clock.running():
                    reply = await replica.client.predict(prediction)
                if not isinstance(reply, Busy):
                    return reply
                await asyncio.sleep(reply.retry_after_seconds)


def _said(reply: Reply) -> str | None:
    match reply:
        case Succeeded():
            return None
        case HandedBack(reason):
            return reason
        case Busy():
            return "it is busy"
        case _:
            return reply.message
