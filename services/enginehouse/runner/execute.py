"""Runs one attempt at an engine replica, bounded by its slots and the execution clock."""

import asyncio
from dataclasses import dataclass

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.runner.claims import Claims, Watch
from enginehouse.runner.clients.base import Busy, Closed, Prediction, Unreachable
from enginehouse.runner.clock import Clock
from enginehouse.runner.health import HangGuard
from enginehouse.runner.outcome import (
    Attempt,
    Failed,
    HandedBack,
    Outcome,
    Rejected,
    Succeeded,
    Superseded,
    TimedOut,
)
from enginehouse.runner.replicas import Replica, ReplicaPool

_log = structlog.get_logger(__name__)

_AWAY_PAUSE_SECONDS = 0.1
NO_MORE = "the engine is given no jobs at present"


@dataclass(slots=True, eq=False)
class _Call:
    """A call that is out at an engine, and what ended it from our side."""

    task: "asyncio.Task[Outcome | Unreachable]"
    ended_by: Outcome | None = None

    def end(self, outcome: Outcome) -> None:
        """Close the call; `outcome` is what came of the attempt."""
        if self.ended_by is None:
            self.ended_by = outcome
            self.task.cancel()


class Executor:
    """Runs attempts."""

    def __init__(
        self,
        pool: ReplicaPool,
        claims: Claims,
        watch: Watch,
        hangs: HangGuard,
        *,
        claim_after_seconds: float,
        hand_back_after_seconds: float,
    ) -> None:
        self._pool = pool
        self._claims = claims
        self._watch = watch
        self._hangs = hangs
        self._claim_after = claim_after_seconds
        self._patience = hand_back_after_seconds
        self._calls: set[_Call] = set()

    async def wait_for_slot(self) -> Replica | None:
        """A slot, to be given to `run`; None when no replica is well for too long."""
        return self._pool.take() or await self._pool.wait(self._patience)

    def release(self, replica: Replica) -> None:
        """Give back a slot that is not wanted after all."""
        self._pool.release(replica)

    def hand_back_running(self) -> None:
        """Close every call that is out; its job returns to the queue and no attempt is counted."""
        for call in list(self._calls):
            call.end(HandedBack("the worker stops"))

    async def run(self, attempt: Attempt, replica: Replica | None) -> Outcome:
        """One attempt, on `replica` first. Always gives the slot back, or leaves it with the hang guard."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience
        while replica is not None:
            outcome: Outcome | Unreachable | None = None
            token = replica.call_out()
            try:
                outcome = HandedBack(NO_MORE) if self._pool.stopped else await self._run_on(replica, attempt)
            finally:
                if isinstance(outcome, TimedOut | Superseded):
                    seconds = attempt.order.execution_timeout_seconds
                    self._hangs.given_up(replica, token, attempt.job_id, seconds)
                else:
                    del replica.out[token]
                    self._pool.release(replica)
            if not isinstance(outcome, Unreachable):
                return outcome
            # The engine has not seen the job, so this was no attempt: another replica, or this one when it is back.
            if loop.time() > give_up_at:
                return HandedBack(outcome.message)
            await asyncio.sleep(_AWAY_PAUSE_SECONDS)
            replica = await self.wait_for_slot()
        return HandedBack(NO_MORE if self._pool.stopped else "no replica of the engine is well")

    async def _run_on(self, replica: Replica, attempt: Attempt) -> Outcome | Unreachable:
        call = _Call(asyncio.create_task(self._predict(replica, attempt)))
        self._calls.add(call)
        try:
            done, _ = await asyncio.wait({call.task}, timeout=0 if attempt.takes_over else self._claim_after)
            if not done:
                await self._accompany(call, attempt)
        finally:
            self._calls.discard(call)
            call.task.cancel()
        if call.ended_by is None or (call.task.done() and not call.task.cancelled()):
            return call.task.result()
        return call.ended_by

    async def _accompany(self, call: _Call, attempt: Attempt) -> None:
        """Claim the job and watch its record until the call ends or the job is lost."""
        self._watch.add(attempt, lambda why: call.end(Superseded(why)))
        try:
            why = await self._claims.claim(attempt)
            if why is not None:
                call.end(Superseded(why))
        except EnginehouseError as error:
            # The watch tries again; unclaimed meanwhile, a second hand-over of the job would join this one.
            _log.warning(
                "A running job could not be claimed yet", action="claim_failed", job_id=attempt.job_id, error=str(error)
            )
        try:
            await asyncio.wait({call.task})
        finally:
            self._watch.remove(attempt)

    async def _predict(self, replica: Replica, attempt: Attempt) -> Outcome | Unreachable:
        """Call the engine, again while it is busy. Being busy burns no attempt, and each call has the whole clock."""
        loop = asyncio.get_running_loop()
        order = attempt.order
        clock = Clock(order.execution_timeout_seconds)
        give_up_at = loop.time() + min(clock.seconds, self._patience)
        prediction = Prediction(
            attempt.job_id,
            order.input,
            order.parameters,
            attempt.input_json,
            attempt.output_max_bytes,
            attempt.traceparent,
            attempt.tell,
            clock,
            attempt.number > 1,
        )
        while True:
            try:
                async with clock.running():
                    reply = await replica.client.predict(prediction)
            except TimeoutError:
                attempt.predict_time = clock.elapsed
                return TimedOut(clock.seconds)
            attempt.predict_time = clock.elapsed
            match reply:
                case Succeeded() | Rejected() | Failed() | HandedBack():
                    return reply
                case Busy(wait):
                    if loop.time() + wait > give_up_at:
                        return HandedBack("the engine is busy", delay_seconds=wait)
                    await asyncio.sleep(wait)
                    if self._pool.stopped:
                        return HandedBack(NO_MORE)
                case Unreachable():
                    self._pool.set_health(replica, False)
                    return reply
                case Closed(message):
                    if replica.restarting:
                        return HandedBack("its engine was being restarted")
                    return Failed(message)
