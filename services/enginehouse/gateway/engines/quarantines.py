"""Says which engines are quarantined, and when that changes, for whoever runs them and has to stop them."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Sequence

from pydantic import BaseModel, Field

from enginehouse.contracts.engine import EngineState
from enginehouse.gateway.engines.catalogue import Catalogue

_LOOK_SECONDS = 1.0
"""What other gateways decide wakes nobody here: the catalogue takes it over from the ledger, and it is noticed so soon."""


class Quarantine(BaseModel):
    """An engine that must not run, or whose version on trial must not be promoted."""

    engine: str = Field(
        description="`<tenant>--<engine>`; with `@trial`, its version on trial alone, which may run, without jobs."
    )
    reason: str
    by_operator: bool = Field(description="Whether only an operator may resume it: a new version of it does not.")


class Quarantines(BaseModel):
    """All engines and versions on trial that are quarantined."""

    tag: str = Field(description="Stands for this list. Another list has another.")
    quarantines: list[Quarantine]


class QuarantineList:
    """Reads the quarantines from the catalogue, and waits for a change of them."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._changed = asyncio.Event()

    def note_change(self) -> None:
        """Wake those who wait: the state of an engine has changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def now(self) -> Quarantines:
        """Return the engines that are quarantined now, by id."""
        quarantined = [engine for engine in self._catalogue if engine.state == EngineState.QUARANTINED]
        found = [
            Quarantine(engine=engine.id, reason=engine.reason or "no reason is known", by_operator=engine.by_operator)
            for engine in sorted(quarantined, key=lambda engine: engine.id)
        ]
        return Quarantines(tag=_tag(found), quarantines=found)

    async def other_than(
        self, tag: str | None, seconds: float, *, is_gone: Callable[[], Awaitable[bool]]
    ) -> Quarantines:
        """Return the quarantines as soon as `tag` does not stand for them, after `seconds`, or if the caller is gone."""
        deadline = asyncio.get_running_loop().time() + seconds
        while (found := self.now()).tag == tag:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or await is_gone():
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_SECONDS)):
                    await self._changed.wait()
        return found


def _tag(found: Sequence[Quarantine]) -> str:
    return hashlib.sha256("\n".join(each.model_dump_json() for each in found).encode()).hexdigest()[:16]
