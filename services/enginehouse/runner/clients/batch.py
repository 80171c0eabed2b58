"""Puts waiting jobs together into calls of an engine that takes several at once; each job settles by itself.

Decisions, 2026-11-22. Jobs of other parameters, or of another execution clock, never share a call: one call, one clock.
The clock runs from the moment that the call goes out. An answer to the whole call that would end its jobs for good (a
rejection, nonsense, too much) is not taken for an answer to each: they are asked one by one. A call that failed is a
failed attempt of each, and the next attempts go alone, so that one job which kills its engine takes others along once
at most.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pydantic_core
import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.runner.clients.base import BatchClient, Health, Prediction, Reply
from enginehouse.runner.outcome import Failed, HandedBack, Rejected
from enginehouse.runner.schema import batch_offered

_log = structlog.get_logger(__name__)

BATCH_MAX_BYTES = 4 * 1024 * 1024
"""Inputs of one call together; a single larger one goes alone."""


@dataclass(slots=True, eq=False)
class _Member:
    """A job on its way to the engine."""

    prediction: Prediction
    reply: asyncio.Future[Reply]
    alone: bool
    batch: "_Batch | None" = None


@dataclass(slots=True, eq=False)
class _Batch:
    """Jobs that go out in one call."""

    key: Hashable
    members: list[_Member] = field(default_factory=list)
    size: int = 0
    """Bytes of the inputs."""
    due: bool = False
    timer: asyncio.TimerHandle | None = None
    call: "asyncio.Task[None] | None" = None


class BatchingEngine:
    """One engine replica, through a client that can batch. At most `calls` calls are out at once."""

    def __init__(
        self,
        client: BatchClient,
        *,
        calls: int,
        max_size: int,
        max_delay_seconds: float,
        count: Callable[[int], object],
    ) -> None:
        self._client = client
        self._free = calls
        self._max_size = max_size
        self._max_delay = max_delay_seconds
        self._count = count
        self._offers: tuple[bool, bool] | None = None
        self._waiting: deque[_Batch] = deque()
        self._open: dict[Hashable, _Batch] = {}
        self._background = Background()

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._client.address

    async def predict(self, prediction: Prediction) -> Reply:
        """Run one job, with others if there are any in time."""
        if prediction.clock is not None:
            prediction.clock.hold()
        if prediction.data_json is None:
            prediction = replace(prediction, data_json=pydantic_core.to_json(prediction.data))
        batched, with_parameters = self._offers or (False, False)
        alone = prediction.alone or not batched or bool(prediction.parameters and not with_parameters)
        member = _Member(prediction, asyncio.get_running_loop().create_future(), alone)
        self._enqueue(member)
        try:
            return await member.reply
        finally:
            self._leave(member)

    async def cancel(self, job_id: str) -> bool:
        """Tell the engine; one job of a batch is rarely to be stopped."""
        return await self._client.cancel(job_id)

    async def health(self) -> Health:
        """Whether the model is loaded. Once it is, what the engine offers is known, too."""
        health = await self._client.health()
        if health.ok and self._offers is None:
            await self._learn()
        elif health.answered and not health.ok:
            self._offers = None  # It may come back as another version.
        if health.in_hand is None:
            return health
        # To the runner, what still waits here is out at the engine, too.
        return replace(health, in_hand=health.in_hand + sum(len(batch.members) for batch in self._waiting))

    async def openapi(self) -> Mapping[str, Any] | None:
        """The engine's own description."""
        return await self._client.openapi()

    async def close(self) -> None:
        """Give up the calls that are out, and let go of the connections."""
        self._waiting.clear()
        await self._background.close()
        await self._client.close()

    def turn_away(self, outcome: HandedBack) -> None:
        """Answer with `outcome` what has not gone out."""
        for batch in list(self._waiting):
            for member in batch.members:
                if not member.reply.done():
                    member.reply.set_result(outcome)

    async def _learn(self) -> None:
        try:
            self._offers = batch_offered(await self._client.openapi() or {})
        except EnginehouseError:
            return
        if not self._offers[0]:
            _log.warning(
                "batch.max_size is above 1, and the engine offers no POST /predict/batch: jobs go one by one",
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
            batch.timer = asyncio.get_running_loop().call_later(self._max_delay, self._ripen, batch)
        batch.members.append(member)
        batch.size += size
        member.batch = batch
        if member.alone or len(batch.members) >= self._max_size:
            self._complete(batch)
            self._serve()

    def _ripen(self, batch: _Batch) -> None:
        """It has waited long enough; while no call is free, it goes on growing."""
        batch.due = True
        self._serve()

    def _complete(self, batch: _Batch) -> None:
        """Nothing more joins it."""
        batch.due = True
        if batch.timer is not None:
            batch.timer.cancel()
        if self._open.get(batch.key) is batch:
            del self._open[batch.key]

    def _serve(self) -> None:
        for batch in [batch for batch in self._waiting if batch.due][: self._free]:
            self._waiting.remove(batch)
            self._complete(batch)
            self._free -= 1
            batch.call = self._background.start(self._run(batch))
            batch.call.add_done_callback(self._ended)

    def _ended(self, _: "asyncio.Task[None]") -> None:
        self._free += 1
        self._serve()

    def _leave(self, member: _Member) -> None:
        """Nobody waits for this job any more; a call that nobody waits for is closed."""
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
        self._count(len(members))
        replies: list[Reply] | Exception | None
        try:
            replies = await self._ask(members)
        except Exception as error:
            replies = error
        for index, member in enumerate(members):
            if member.reply.done():
                continue
            if replies is None:
                self._ask_alone(member)
            elif isinstance(replies, list):
                member.reply.set_result(replies[index])
            else:
                member.reply.set_exception(replies)

    async def _ask(self, members: list[_Member]) -> "list[Reply] | Exception | None":
        """A reply for each; None: each is to be asked alone."""
        if len(members) == 1:
            return [await self._client.predict(members[0].prediction)]
        reply = await self._client.predict_batch([member.prediction for member in members])
        if isinstance(reply, list):
            return reply
        if isinstance(reply, Rejected) or (isinstance(reply, Failed) and not reply.retryable):
            _log.warning(
                "A batch as a whole got no usable answer, so its jobs are asked one by one",
                action="batch_refused",
                jobs=len(members),
                error=reply.message,
            )
            return None
        return [reply] * len(members)

    def _ask_alone(self, member: _Member) -> None:
        if member.prediction.clock is not None:
            member.prediction.clock.hold()
        member.alone = True
        self._enqueue(member)
