"""Asks every replica of all selected engines at once, and returns an answer for each."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pydantic_core
from pydantic import BaseModel, Field

from enginehouse.contracts.calls import EVERY_PREFIX
from enginehouse.contracts.engine import INLINE_MAX_BYTES, EngineState
from enginehouse.contracts.errors import EnginehouseError, RateLimited
from enginehouse.contracts.names import EngineId
from enginehouse.contracts.selector import Selector
from enginehouse.gateway.engines.calls import EngineCalls
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.tenants.limits import BytesInHand
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.sidecar.base import Invocation

_AT_ONCE = 16
_ALL_SECONDS = 90.0
"""For all engines together; each has the time of a call."""
_ANSWER_MAX_BYTES = 2 * 1024 * 1024
"""Of all replicas of one engine."""


class ReplicaAnswer(BaseModel):
    """What one replica answered."""

    replica: str
    status: int | None = Field(None, description="The replica's own status. None: it gave no answer.")
    body: Any = Field(None, description="The replica's own answer: JSON, or text.")
    problem: str | None = Field(None, description="Why it gave no answer.")


class EngineAnswer(BaseModel):
    """What the replicas of one engine answered."""

    engine: str
    version: str | None = None
    replicas: list[ReplicaAnswer] = Field(default_factory=list)
    code: str | None = Field(
        None, description="Why the engine could not be asked: ENGINE_ASLEEP, ENGINE_UNAVAILABLE, …"
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
        places = asyncio.Semaphore(_AT_ONCE)
        deadline = asyncio.get_running_loop().time() + _ALL_SECONDS
        method, path = request
        headers = [("content-type", "application/json")] if body else []
        invocation = Invocation(method, f"{EVERY_PREFIX}/{path}", "", headers, body, 0, _ANSWER_MAX_BYTES)

        async def ask(engine: KnownEngine) -> EngineAnswer:
            version = engine.card.version if engine.card else None
            try:
                async with asyncio.timeout_at(deadline), places:
                    # While it is read, a large answer counts as the largest, and then as what it is.
                    with self._bytes_in_hand.holding(caller.name) as reserve:
                        answer = await self._calls.invoke(caller, engine, replace(invocation, hold=reserve))
                    if len(answer.body) > INLINE_MAX_BYTES:
                        hold(len(answer.body))
                replicas = [ReplicaAnswer.model_validate(one) for one in pydantic_core.from_json(answer.body)]
                return EngineAnswer(engine=engine.id, version=version, replicas=replicas)
            except RateLimited as error:
                kept_back = f"It was asked, and what its replicas answered is too much to be kept: {error}"
                return EngineAnswer(engine=engine.id, version=version, code=error.code, problem=kept_back)
            except EnginehouseError as error:
                return EngineAnswer(engine=engine.id, version=version, code=error.code, problem=str(error))
            except TimeoutError:
                late = f"not asked, or not answered, in the {_ALL_SECONDS:g} s for all engines"
                return EngineAnswer(engine=engine.id, version=version, code="ENGINE_UNAVAILABLE", problem=late)

        with self._calls.counted(caller):
            return list(await asyncio.gather(*(ask(engine) for engine in self._selected(caller, selector))))

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
