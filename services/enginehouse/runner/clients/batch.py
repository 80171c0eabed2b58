"""Sends waiting jobs together, in one call, to an engine that takes several at once. Each job is settled by itself.

Decisions, 2026-11-22. Jobs share a call only if they have the same parameters and the same execution time, because a
call has one clock. The clock runs from the moment that the call goes out. An answer to the whole call that would end its
jobs for good (a rejection, a malformed or too large answer) is not taken as the answer to each job: they are sent one by
one. A call that failed is a failed attempt of each of its jobs. Their next attempts go alone, so that a job which kills
its engine makes others fail once at most.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import pydantic_core
import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.runner.clients.base import BatchClient, Health, Prediction, Reply
from enginehouse.runner.outcome import Failed, HandedBack, Rejected
from enginehouse.runner.schema import NO_BATCHES, BatchOffer, Description, batch_offer

_log = structlog.get_logger(__name__)

BATCH_MAX_BYTES = 4 * 1024 * 1024
"""Most bytes of input in one call. A single larger input goes alone."""
_NOT_OFFERED = "The engine offers no POST /predict/batch, so its jobs go one by one although batch.max_size is above 1"


@dataclass(slots=True, eq=False)
class _Member:
    """A job on its way to the engine."""

    prediction: Prediction
    reply: asyncio.Future[Reply]
    alone: bool
    batch: "_Batch | None" = None
    """None until it is put into one."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Jobs that go out in one call."""

    key: Hashable
    """Only jobs with the same key share the batch."""
    members: list[_Member] = field(default_factory=list)
    size: int = 0
    """Bytes of the inputs."""
    due: bool = False
    """Whether it goes out as soon as a call is free."""
    timer: asyncio.TimerHandle | None = None
    call: "asyncio.Task[None] | None" = None


class BatchingEngine:
    """One engine replica behind a client that can send batches. At most `calls` calls are out at once."""

    def __init__(
        self,
        client: BatchClient,
        *,
        calls: int,
        max_size: int,
        max_delay_seconds: float,
        count_jobs: Callable[[int], object],
    ) -> None:
        self._client = client
        self._free_calls = calls
        self._max_size = max_size
        self._max_delay_seconds = max_delay_seconds
        self._count_jobs = count_jobs
        self._offer: BatchOffer | None = None
        self._waiting: deque[_Batch] = deque()
        self._open: dict[Hashable, _Batch] = {}
        self._background = Background()

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._client.address

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in its own words."""
        return self._client.warning

    @property
    def advice(self) -> str | None:
        """Say that the engine takes no batches, if it does not."""
        return None if self._offer is None or self._offer.batches else _NOT_OFFERED

    async def predict(self, prediction: Prediction) -> Reply:
        """Run one job, in one call with others that come in time."""
        if prediction.clock is not None:
            prediction.clock.hold()
        if prediction.data_json is None:
            prediction = replace(prediction, data_json=pydantic_core.to_json(prediction.data))
        offer = self._offer or NO_BATCHES
        alone = prediction.alone or not offer.batches or bool(prediction.parameters and not offer.parameters)
        member = _Member(prediction, asyncio.get_running_loop().create_future(), alone)
        self._enqueue(member)
        try:
            return await member.reply
        finally:
            self._leave(member)

    async def cancel(self, job_id: str) -> bool:
        """Tell the engine. Few engines can stop one job of a batch."""
        return await self._client.cancel(job_id)

    async def health(self) -> Health:
        """Ask whether the model is loaded. Once it is, learn whether the engine takes batches."""
        health = await self._client.health()
        if health.ok and self._offer is None:
            await self._learn_offer()
        elif health.answered and not health.ok:
            self._offer = None  # It may come back as another version.
        if health.in_hand is None:
            return health
        # The runner counts jobs that still wait here as calls that are out at the engine.
        return replace(health, in_hand=health.in_hand + sum(len(batch.members) for batch in self._waiting))

    async def describe(self) -> Description:
        """Return what the engine says of itself."""
        return await self._client.describe()

    async def close(self) -> None:
        """Give up the calls that are out, and close the connections."""
        self._waiting.clear()
        await self._background.close()
        await self._client.close()

    def answer_waiting(self, outcome: HandedBack) -> None:
        """Answer the jobs that have not gone out with `outcome`."""
        for batch in list(self._waiting):
            for member in batch.members:
                if not member.reply.done():
                    member.reply.set_result(outcome)

    async def _learn_offer(self) -> None:
        try:
            self._offer = batch_offer((await self._client.describe()).openapi or {})
        except EnginehouseError:
            return
        if not self._offer.batches:
            _log.warning(
                _NOT_OFFERED,
                action="batch_not_offered",
                engine_address=self.address,
            )

    def _enqueue(self, member: _Member) -> None:
        prediction = member.prediction
        size = len(prediction.data_json or b"")
        seconds = prediction.clock.seconds if prediction.clock else None
        key: Hashable = member if member.alone else (seconds, pydantic_core.to_json(prediction.parameters))
        batch = self._open.get(key)
        if batch is not None and batch.size + size > BATCH_MAX_BYTES:
            self._complete(batch)
            batch = None
        if batch is None:
            batch = self._open[key] = _Batch(key)
            self._waiting.append(batch)
            batch.timer = asyncio.get_running_loop().call_later(self._max_delay_seconds, self._mark_due, batch)
        batch.members.append(member)
        batch.size += size
        member.batch = batch
        if member.alone or len(batch.members) >= self._max_size:
            self._complete(batch)
            self._serve()

    def _mark_due(self, batch: _Batch) -> None:
        """Let the batch go out: its first job has waited long enough. It grows on while no call is free."""
        batch.due = True
        self._serve()

    def _complete(self, batch: _Batch) -> None:
        """Let no more jobs join the batch."""
        batch.due = True
        if batch.timer is not None:
            batch.timer.cancel()
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]

    def _serve(self) -> None:
        for batch in [batch for batch in self._waiting if batch.due][: self._free_calls]:
            self._waiting.remove(batch)
            self._complete(batch)
            self._free_calls -= 1
            batch.call = self._background.start(self._run(batch))
            batch.call.add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._free_calls += 1
        self._serve()

    def _leave(self, member: _Member) -> None:
        """Take the job out of its batch, and close a call that no job waits for any more."""
        batch = member.batch
        if batch is None:
            return
        if batch.call is not None:
            if all(other.reply.done() for other in batch.members):
                batch.call.cancel()
            return
        batch.members.remove(member)
        if not batch.members:
            self._complete(batch)
            self._waiting.remove(batch)

    async def _run(self, batch: _Batch) -> None:
        members = [member for member in batch.members if not member.reply.done()]
        if not members:
            return
        for member in members:
            if member.prediction.clock is not None:
                member.prediction.clock.start()
        self._count_jobs(len(members))
        replies: list[Reply] | Exception | None
        try:
            replies = await self._send(members)
        except Exception as error:
            replies = error
        for index, member in enumerate(members):
            if member.reply.done():
                continue
            if replies is None:
                self._send_alone(member)
            elif isinstance(replies, list):
                member.reply.set_result(replies[index])
            else:
                member.reply.set_exception(replies)

    async def _send(self, members: list[_Member]) -> "list[Reply] | Exception | None":
        """Return a reply for each job, or None if each is to be sent alone."""
        if len(members) == 1:
            return [await self._client.predict(members[0].prediction)]
        reply = await self._client.predict_batch([member.prediction for member in members])
        if isinstance(reply, list):
            return reply
        if isinstance(reply, Rejected) or (isinstance(reply, Failed) and not reply.retryable):
            _log.warning(
                "A batch as a whole got no usable answer, so its jobs are sent one by one",
                action="batch_refused",
                job_ids=[member.prediction.job_id for member in members],
                error=reply.message,
            )
            return None
        return [reply] * len(members)

    def _send_alone(self, member: _Member) -> None:
        if member.prediction.clock is not None:
            member.prediction.clock.hold()
        member.alone = True
        self._enqueue(member)
