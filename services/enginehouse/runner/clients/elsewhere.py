"""Reads large answers, and makes requests of large inputs, in bounded processes, so that they hold up no other job."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pydantic_core

from enginehouse.checkers import Checkers, TooCostly
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import Unavailable
from enginehouse.runner.clients.answers import malformed, read_apart
from enginehouse.runner.clients.base import Prediction, Reply
from enginehouse.runner.outcome import HandedBack, Rejected

_CPU_SECONDS = 10.0
"""Most processor time for reading one answer, or for making one request."""
_NO_TIME_DELAY_SECONDS = 5.0
T = TypeVar("T")


class Elsewhere:
    """Works for the client of one replica. Jobs wait for their turn in a process, so their clocks are held."""

    def __init__(self, checkers: Checkers) -> None:
        self._checkers = checkers

    async def make(
        self, prediction: Prediction, make: Callable[..., T | Rejected], *more: Any, always: bool = False
    ) -> T | Reply:
        """Return the request that `make(input, job_id, parameters, *more)` makes of a job, or the reply if it makes none.

        A large input, which is text, is parsed in another process; with `always` every input is. The job's clock then
        starts anew.
        """
        if prediction.data_json is None and not always:
            return make(prediction.data, prediction.job_id, prediction.parameters, *more)
        text = pydantic_core.to_json(prediction.data) if prediction.data_json is None else prediction.data_json
        _hold([prediction])
        arguments = (text, prediction.job_id, prediction.parameters, *more)
        try:
            made = await self._checkers.run(prediction.tenant, _CPU_SECONDS, from_text, make, *arguments)
        except TooCostly:
            return Rejected("to make the engine's request of it took too much processor time or memory")
        except Unavailable:
            return HandedBack("the machine has no time to make the engine's request", _NO_TIME_DELAY_SECONDS)
        if prediction.clock is not None:
            prediction.clock.start()
        return made

    async def read(
        self,
        predictions: Sequence[Prediction],
        read: Callable[..., Any],
        body: bytes,
        *more: Any,
        always: bool = False,
    ) -> Any:
        """Return `read(body, *more)`, the answer to `predictions`. A large one is read in another process, or `always`."""
        if len(body) <= INLINE_MAX_BYTES and not always:
            return read(body, *more)
        _hold(predictions)
        try:
            return await self._checkers.run(predictions[0].tenant, _CPU_SECONDS, read_apart, read, body, *more)
        except TooCostly:
            return malformed(f"to read its {len(body)} bytes took too much processor time or memory")
        except Unavailable:
            return HandedBack("the machine has no time to read the engine's answer", _NO_TIME_DELAY_SECONDS)


def _hold(predictions: Sequence[Prediction]) -> None:
    for prediction in predictions:
        if prediction.clock is not None:
            prediction.clock.hold()


def from_text(make: Callable[..., T | Rejected], text: bytes, *more: Any) -> T | Rejected:
    """Return `make(input, *more)` of an input that is JSON text: for another process."""
    return make(pydantic_core.from_json(text), *more)
