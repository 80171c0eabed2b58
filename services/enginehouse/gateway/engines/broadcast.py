"""Asks every replica of all selected engines at once, and returns an answer for each."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from pydantic import BaseModel, Field, ValidationError

from enginehouse.contracts.calls import (
    BROADCAST_PARAMETER,
    BROADCAST_SECONDS,
    EVERY_PREFIX,
    ReplicaAnswer,
    WorkerAnswer,
)
from enginehouse.contracts.engine import INLINE_MAX_BYTES, EngineState
from enginehouse.contracts.errors import EnginehouseError, EngineUnavailable, RateLimited, Unavailable
from enginehouse.contracts.names import EngineId, Slot
from enginehouse.contracts.selector import Selector
from enginehouse.gateway.engines.calls import EngineCalls
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.each_worker import EachWorker
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.tenants.limits import BytesInHand
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.sidecar.base import Invocation

_AT_ONCE = 16
_ANSWER_MAX_BYTES = 2 * 1024 * 1024
"""Of all replicas of one worker."""
_NOT_REACHED = "no call reached another worker, or none was answered in time"


class EngineAnswer(BaseModel):
    """What the replicas of one engine answered."""

    engine: str
    version: str | None = None
    replicas: list[ReplicaAnswer] = Field(default_factory=list)
    answered: list[str] = Field(default_factory=list, description="Workers whose replicas were asked.")
    unanswered: list[str] = Field(
        default_factory=list, description="Living workers that were not reached, or have not answered in time."
    )
    code: str | None = Field(
        None, description="Why not every worker has answered: ENGINE_ASLEEP, ENGINE_UNAVAILABLE, …"
    )
    problem: str | None = Field(None, description="The same in words.")


class Broadcasts:
    """Sends one request to `/info` or `/update` of every replica of many engines."""

    def __init__(self, catalogue: Catalogue, calls: EngineCalls, bytes_in_hand: BytesInHand) -> None:
        self._catalogue = catalogue
        self._calls = calls
        self._bytes_in_hand = bytes_in_hand

    async def send(
        self, caller: Caller, selector: Selector, request: tuple[str, str], body: bytes, hold: Callable[[int], None]
    ) -> list[EngineAnswer]:
        """Send `request`, a method and a path, to the engines selected among the caller's own; an administrator's: all.

        Versions on trial are not asked. One engine that fails hides no other. Raise RateLimited if the tenant has too many calls
        in hand, TenantSuspended if it is suspended.
        """
        places, loop = asyncio.Semaphore(_AT_ONCE), asyncio.get_running_loop()
        deadline = loop.time() + BROADCAST_SECONDS
        method, path = request
        headers = [("content-type", "application/json")] if body else []
        query = f"{BROADCAST_PARAMETER}={uuid4().hex}"
        invocation = Invocation(method, f"{EVERY_PREFIX}/{path}", query, headers, body, 0, _ANSWER_MAX_BYTES)

        async def ask(engine: KnownEngine) -> EngineAnswer:
            async with places:
                if loop.time() >= deadline:
                    late = f"not asked in the {BROADCAST_SECONDS:g} s for all engines"
                    return _answer(engine, EngineUnavailable.code, late)
                try:
                    slot = await self._calls.slot(engine, caller)
                except EnginehouseError as error:
                    return _answer(engine, error.code, str(error))
                asked = self._each_worker(caller, engine, slot, invocation, hold)
                await asked.ask(deadline)
                return _answer(engine, *_why_incomplete(asked), asked)

        with self._calls.counted(caller):
            return list(await asyncio.gather(*(ask(engine) for engine in self._selected(caller, selector))))

    def _each_worker(
        self, caller: Caller, engine: KnownEngine, slot: Slot, invocation: Invocation, hold: Callable[[int], None]
    ) -> EachWorker:
        counted: set[str] = set()
        began = time.monotonic()

        async def living() -> set[str]:
            with contextlib.suppress(Unavailable):  # While the store is away, those that were known last.
                # Read anew once: nobody would say that a worker which has just come was not asked.
                await self._catalogue.read_workers(engine, since=began)
            return {worker.worker for worker in engine.workers if worker.slot == slot}

        async def call() -> WorkerAnswer:
            # While it is read, a large answer counts as the largest, and then as what it is.
            with self._bytes_in_hand.holding(caller.name) as reserve:
                answer = await self._calls.invoke(engine, slot, replace(invocation, hold=reserve))
            try:
                said = WorkerAnswer.model_validate_json(answer.body)
            except ValidationError:
                raise EngineUnavailable(f"{engine.id}: the answer of its runner cannot be understood") from None
            if len(answer.body) > INLINE_MAX_BYTES and said.worker not in counted:
                hold(len(answer.body))
                counted.add(said.worker)
            return said

        return EachWorker(living, call)

    def _selected(self, caller: Caller, selector: Selector) -> list[KnownEngine]:
        found = [
            engine
            for engine in self._catalogue
            if engine.state != EngineState.RETIRED
            and not engine.is_trial
            and (caller.is_admin or engine.tenant == caller.name)
            and selector.selects(
                engine.tenant,
                EngineId.parse(engine.id).engine,
                engine.card.version if engine.card else None,
                engine.card.labels if engine.card else {},
            )
        ]
        return sorted(found, key=lambda engine: engine.id)


def _answer(
    engine: KnownEngine, code: str | None, problem: str | None, asked: EachWorker | None = None
) -> EngineAnswer:
    answers = asked.answers if asked else {}
    return EngineAnswer(
        engine=engine.id,
        version=engine.card.version if engine.card else None,
        replicas=[replica for worker in sorted(answers) for replica in answers[worker]],
        answered=sorted(answers),
        unanswered=sorted(asked.missing) if asked else [],
        code=code,
        problem=problem,
    )


def _why_incomplete(asked: EachWorker) -> tuple[str | None, str | None]:
    """Return a code and words for why not every worker has answered; None if every one has."""
    if asked.answers and not asked.missing:
        return None, None
    failure = asked.failures[-1] if asked.failures else EngineUnavailable(_NOT_REACHED)
    why = (
        f"what its replicas answered is too much to be kept: {failure}" if isinstance(failure, RateLimited) else failure
    )
    workers = len(asked.answers) + len(asked.missing)
    return failure.code, f"{len(asked.answers)} of {workers} workers answered: {why}"
