"""Runs one attempt at an engine replica: its execution clock, busy engines, cancellation."""

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Any

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.runner.attempt import Execution
from enginehouse.runner.claims import Claims, RecordWatch
from enginehouse.runner.clients.base import Busy, Closed, Prediction, Unreachable
from enginehouse.runner.clock import Clock
from enginehouse.runner.containers import EngineContainers
from enginehouse.runner.hangs import HangGuard
from enginehouse.runner.outcome import Failed, HandedBack, Outcome, Rejected, Succeeded, Superseded, TimedOut
from enginehouse.runner.replicas import Place, Replica, ReplicaPool
from enginehouse.runner.tenants import Asker

_log = structlog.get_logger(__name__)

_UNREACHABLE_PAUSE_SECONDS = 0.1
_DEATH_NEWS_SECONDS = 3.0
"""Longest wait for the reason why a connection was closed: the engine has most likely died."""
_FAILURE_NEWS_SECONDS = 0.5
"""Longest wait for the reason of a failure of an engine that goes on: a child of its own may have been killed."""
NO_JOBS_NOW = "the engine is given no jobs at present"


@dataclass(slots=True, eq=False)
class _Call:
    """A call that is out at an engine."""

    task: "asyncio.Task[Outcome | Unreachable | Closed]"
    ended_by: Outcome | None = None
    """The outcome with which the runner ended the call before the engine answered."""

    def end(self, outcome: Outcome) -> None:
        """Close the call, and give the attempt this outcome."""
        if self.ended_by is None:
            self.ended_by = outcome
            self.task.cancel()


class Executor:
    """Runs attempts at the replicas of one engine."""

    def __init__(
        self,
        pool: ReplicaPool,
        claims: Claims,
        watch: RecordWatch,
        hangs: HangGuard,
        containers: EngineContainers,
        *,
        claim_after_seconds: float,
        hand_back_after_seconds: float,
        execution_timeout_seconds: float,
    ) -> None:
        """Take `execution_timeout_seconds` as the engine's own time: a job that runs out of it is blamed on its tenant."""
        self._pool = pool
        self._claims = claims
        self._watch = watch
        self._hangs = hangs
        self._containers = containers
        self._claim_after = claim_after_seconds
        self._patience = hand_back_after_seconds
        self._engine_seconds = execution_timeout_seconds
        self._calls: set[_Call] = set()
        self._leaving: asyncio.Future[None] | None = None
        """Ends when the worker leaves. Made at the first call, in the event loop."""

    def place(self, asker: Asker) -> Place:
        """Return a place to be taken by `async with`. It has no replica if none is healthy for too long."""
        return Place(self._pool, self._patience, asker)

    def claim_all(self) -> None:
        """Claim every job that runs, also those that are young, because the worker leaves."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_future()
        if not self._leaving.done():
            self._leaving.set_result(None)

    def hand_back_running(self) -> None:
        """Close every call that is out. Its job returns to the queue, and no attempt is counted."""
        for call in list(self._calls):
            call.end(HandedBack("the worker stops"))

    async def run(self, execution: Execution, place: Place) -> Outcome:
        """Run the attempt at the place's replica, and return its outcome.

        Gives the place back as soon as the call has ended, or leaves it with the hang guard.
        """
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience
        while (replica := place.replica) is not None and not self._pool.stopped:
            place.call_out(replica)
            began = time.time()
            outcome = await self._run_on(replica, execution, place.tenant)
            news_seconds = _DEATH_NEWS_SECONDS if isinstance(outcome, Closed) else _FAILURE_NEWS_SECONDS
            if isinstance(outcome, TimedOut):
                outcome = replace(outcome, reason=replica.reason_to_wait(replica.calls[place]))
            was_late, outcome = isinstance(outcome, TimedOut), self._blamed(outcome, place, replica, execution)
            if was_late or isinstance(outcome, Superseded):
                self._hangs.take_over(place, replica, execution.attempt)
            else:
                if isinstance(outcome, Succeeded | Rejected | Failed):
                    replica.answered_at = loop.time()
                place.release()
            if not isinstance(outcome, Unreachable):
                return await self._explained(outcome, replica, began, news_seconds)
            # The engine has not seen the job, so no attempt was made: try another replica, or this one when it is back.
            if loop.time() > give_up_at:
                return HandedBack(outcome.message)
            await asyncio.sleep(_UNREACHABLE_PAUSE_SECONDS)
            await place.take()
        if not self._pool.stopped and (seconds := self._pool.held_back_seconds(place.tenant)):
            return HandedBack("the tenant's jobs are held back: the engine died or hung with one of them", seconds)
        if self._pool.stopped:
            return HandedBack(NO_JOBS_NOW)
        return HandedBack(
            "no replica of the engine is well" if self._pool.replicas else "the engine has no replica yet"
        )

    async def _explained(self, outcome: Outcome, replica: Replica, since: float, wait_seconds: float) -> Outcome:
        """Add to a failure that a process of the engine's container was killed after `since`, and why, if one was."""
        may_be_the_cause = isinstance(outcome, TimedOut) or (isinstance(outcome, Failed) and outcome.retryable)
        if not may_be_the_cause:
            return outcome
        why = await self._containers.why_killed(replica.client.address, since, wait_seconds)
        if why and isinstance(outcome, TimedOut):
            return replace(outcome, reason=f"had a process of the engine killed: {why}")
        if why and isinstance(outcome, Failed):
            return replace(outcome, message=f"{outcome.message} (a process of the engine was killed: {why})")
        return outcome

    def _blamed(
        self, reply: Outcome | Unreachable | Closed, place: Place, replica: Replica, execution: Execution
    ) -> Outcome | Unreachable:
        """Return the outcome of a call. A job that may have failed of another tenant's is tried again, once, uncounted."""
        blame = self._pool.tenants.blame
        if blame is not None:
            if isinstance(reply, Succeeded):
                blame.note_success(place.tenant)
            if isinstance(reply, Closed) or (isinstance(reply, TimedOut) and reply.reason):
                place.note_company(replica)
            if isinstance(reply, Closed):
                place.note_death()
            elif isinstance(reply, TimedOut) and reply.seconds >= self._engine_seconds:
                place.note_timeout()
            if isinstance(reply, Closed | TimedOut) and place.in_company and blame.excuses(execution.attempt.job_id):
                return HandedBack("jobs of several tenants were at the engine, and one of them may be the cause")
        return Failed(reply.message) if isinstance(reply, Closed) else reply

    async def _run_on(self, replica: Replica, execution: Execution, tenant: str) -> Outcome | Unreachable | Closed:
        call = _Call(asyncio.create_task(self._predict(replica, execution, tenant)))
        self._calls.add(call)
        try:
            claim_at_once = execution.attempt.takes_over is not None
            await self._young(call, 0 if claim_at_once else self._claim_after)
            if not call.task.done():
                await self._accompany(call, execution)
        finally:
            self._calls.discard(call)
            call.task.cancel()
        if call.ended_by is None or (call.task.done() and not call.task.cancelled()):
            return call.task.result()
        return call.ended_by

    async def _young(self, call: _Call, seconds: float) -> None:
        """Wait until the call ends, has taken so long that its job is claimed, or the worker leaves."""
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_future()
        either: set[asyncio.Future[Any]] = {call.task, self._leaving}
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    async def _accompany(self, call: _Call, execution: Execution) -> None:
        """Claim the job and watch its record, until the call ends or the record no longer belongs to the attempt."""
        self._watch.add(execution, lambda why: call.end(Superseded(why)))
        try:
            why = await self._claims.claim(execution)
            if why is not None:
                call.end(Superseded(why))
        except EnginehouseError as error:
            # The watch tries again. Until then, a second hand-over of the job here would join this call.
            _log.warning(
                "A running job could not be claimed yet",
                action="claim_failed",
                job_id=execution.attempt.job_id,
                error=str(error),
            )
        try:
            await asyncio.wait({call.task})
        finally:
            self._watch.remove(execution)

    async def _predict(self, replica: Replica, execution: Execution, tenant: str) -> Outcome | Unreachable | Closed:
        """Call the engine, and call it again while it is busy. A busy answer counts no attempt; each call has the whole time."""
        loop = asyncio.get_running_loop()
        clock = Clock(execution.attempt.order.execution_timeout_seconds)
        give_up_at = loop.time() + min(clock.seconds, self._patience)
        prediction = _prediction(execution, tenant, clock)
        while True:
            try:
                async with clock.running():
                    reply = await replica.client.predict(prediction)
            except TimeoutError:
                execution.predict_time = clock.elapsed
                return TimedOut(clock.seconds)
            execution.predict_time = clock.elapsed
            match reply:
                case Succeeded() | Rejected() | Failed() | HandedBack():
                    return reply
                case Busy(wait):
                    if loop.time() + wait > give_up_at:
                        return HandedBack("the engine is busy", delay_seconds=wait)
                    await asyncio.sleep(wait)
                    if self._pool.stopped:
                        return HandedBack(NO_JOBS_NOW)
                case Unreachable():
                    self._pool.set_health(replica, False)
                    return reply
                case Closed():
                    return reply


def _prediction(execution: Execution, tenant: str, clock: Clock) -> Prediction:
    attempt = execution.attempt
    return Prediction(
        job_id=attempt.job_id,
        data=attempt.order.input,
        parameters=attempt.order.parameters,
        data_json=execution.input_json,
        output_max_bytes=execution.output_max_bytes,
        traceparent=attempt.traceparent,
        on_line=execution.on_line,
        clock=clock,
        tenant=tenant,
        alone=attempt.number > 1,
    )
