"""Look for inputs that an engine's schema allows and that break it. Needs the extra `fuzz`."""

import asyncio
import json
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from enginehouse.authoring.answers import Described, is_fault
from enginehouse.authoring.asking import Asked, Asker, quoted
from enginehouse.authoring.findings import Over, Report
from enginehouse.extras import needs
from enginehouse.local.steps import Steps
from enginehouse.runner.schema import predict_schemas

FUZZ_SECONDS = 30.0
_MOST_INPUTS = 500
_SHRINK_SECONDS = 10.0
"""Of these seconds, so many are kept for making a failing input smaller."""
_RESTART_SECONDS = 10.0
_SHOWN_MAX_CHARS = 2_000


class _TimeIsOver(BaseException):
    """Ends the search. Hypothesis passes on what is no Exception."""


class _Breaks(Exception):
    """An input broke the engine."""


@dataclass(slots=True)
class _Search:
    """A search in a thread of its own: Hypothesis has no async form."""

    asker: Asker
    described: Described
    loop: asyncio.AbstractEventLoop
    stop: threading.Event = field(default_factory=threading.Event)
    tried: int = 0
    smallest: Any = None
    found: Asked | None = None
    said: tuple[str, str] = ("", "")
    _until: float = 0.0
    _asking: "Future[tuple[Asked, tuple[str, str]]] | None" = None

    async def close(self, running: "asyncio.Task[None]") -> None:
        """End the search, and wait until it starts no engine any more."""
        self.stop.set()
        if self._asking:
            self._asking.cancel()
        await asyncio.wait({running})

    def run(self) -> None:
        """Try inputs until the time is over. May raise what schemathesis says of a schema that it cannot use."""
        with needs("fuzz", "--fuzz"):
            import schemathesis  # Takes seconds, so it is imported only for this.
            from hypothesis import HealthCheck, Phase, Verbosity, given, settings
            from schemathesis import GenerationMode

        operation = schemathesis.openapi.from_dict(_document(self.described))["/predict"]["POST"]
        cases = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        self._until = time.monotonic() + FUZZ_SECONDS - _SHRINK_SECONDS

        @settings(
            max_examples=_MOST_INPUTS,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,  # Its words are for whoever writes tests with it.
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def holds(case: Any) -> None:
            self._try(case.body)

        try:
            holds()
        except _TimeIsOver:
            pass
        except Exception:
            # Also what Hypothesis says of an engine that fails now and then: the input that broke it is kept.
            if self.found is None:
                raise

    def _try(self, data: Any) -> None:
        if self.stop.is_set() or time.monotonic() > self._until:
            raise _TimeIsOver
        takes = self.described.takes
        if takes is not None and not takes.is_valid(data):
            return  # The gateway would refuse it.
        self._asking = asyncio.run_coroutine_threadsafe(self._ask(data), self.loop)
        asked, said = self._asking.result()
        self.tried += 1
        if not is_fault(asked):
            return
        if self.found is None:
            self._until += _SHRINK_SECONDS
        if self.found is None or len(json.dumps(data)) <= len(json.dumps(self.smallest)):
            self.smallest, self.found, self.said = data, asked, said
        raise _Breaks

    async def _ask(self, data: Any) -> tuple[Asked, tuple[str, str]]:
        asked = await self.asker.ask(data)
        said = await self.asker.explain(data, asked.reply) if is_fault(asked) else ("", "")
        if self.asker.alone.how_it_ended() and not self.stop.is_set():
            await self._restart()
        return asked, said

    async def _restart(self) -> None:
        """Start an engine again that died of an input, so that a smaller one can be tried."""
        alone = self.asker.alone
        await alone.kill()
        await alone.start()
        give_up_at = time.monotonic() + _RESTART_SECONDS
        while not (await self.asker.client.health()).ok:
            if time.monotonic() > give_up_at or alone.how_it_ended():
                self.stop.set()
                return
            await asyncio.sleep(0.05)


async def fuzz(asker: Asker, report: Report, steps: Steps, described: Described) -> None:
    """Report the smallest input found in FUZZ_SECONDS that the schema allows and that breaks the engine."""
    if described.takes is None:
        report.note("fuzz", "Without a schema of its input there is nothing to derive inputs from")
        return
    search = _Search(asker, described, asyncio.get_running_loop())
    running = asyncio.create_task(asyncio.to_thread(search.run))
    try:
        while not (await asyncio.wait({running}, timeout=0.2))[0]:
            steps.update("fuzz", f"{search.tried} inputs derived from its schema have been tried")
    finally:
        await search.close(running)
    steps.finish("fuzz", f"{search.tried} inputs were tried")
    if (error := running.exception()) is not None:
        if isinstance(error, ImportError):
            report.failed("fuzz", str(error))
        else:
            report.note("fuzz", f"No inputs can be derived from its schema: {str(error).partition(chr(10))[0]}")
        return
    if search.found is None:
        report.ok("fuzz", f"None of {search.tried} inputs that its schema allows broke it")
        return
    said, words = search.said
    text = json.dumps(search.smallest)
    shown = text if len(text) <= _SHOWN_MAX_CHARS else quoted(search.smallest)
    report.failed("fuzz", f"An input that its schema allows {said}. The smallest such input: {shown}", words)
    if asker.alone.how_it_ended():
        raise Over


def _document(described: Described) -> dict[str, Any]:
    """Return an OpenAPI document whose request body is the input itself, with the components that it refers to."""
    assert described.openapi is not None
    schema = predict_schemas(described.openapi)[0]
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "engine", "version": "1"},
        "paths": {"/predict": {"post": {"requestBody": body, "responses": {"200": {"description": "a result"}}}}},
        "components": described.openapi.get("components", {}),
    }
