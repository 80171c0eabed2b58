"""Ask an engine under test for predictions, as its runner would, and say what is wrong with an answer."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import httpx2
import pydantic_core

from enginehouse.authoring.alone import EngineAlone
from enginehouse.authoring.findings import advice
from enginehouse.contracts.job import JobErrorCode
from enginehouse.contracts.json_text import first_fault
from enginehouse.contracts.names import new_job_id
from enginehouse.runner.clients.base import Busy, Closed, EngineClient, Prediction, Reply, Unreachable
from enginehouse.runner.clients.http import HttpEngine
from enginehouse.runner.clock import Clock
from enginehouse.runner.outcome import Failed, HandedBack, Rejected, Succeeded, TimedOut

_RAW_MAX_BYTES = 64 * 1024
_QUOTED_MAX_CHARS = 80
_RAW_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer to one input, and how long it took."""

    reply: Reply | TimedOut
    seconds: float

    @property
    def output(self) -> Any:
        """Return the result of a reply that is one."""
        assert isinstance(self.reply, Succeeded)
        text = self.reply.output_json
        return self.reply.output if text is None else pydantic_core.from_json(text)


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks one engine."""

    alone: EngineAlone
    client: EngineClient
    http: httpx2.AsyncClient

    async def ask(self, data: Any) -> Asked:
        """Return the answer to one input, within the engine's execution time."""
        self.alone.mark()
        clock = Clock(self.alone.spec.execution_timeout_seconds)
        try:
            async with clock.running():
                reply: Reply | TimedOut = await self.client.predict(Prediction(new_job_id(), data, clock=clock))
        except TimeoutError:
            reply = TimedOut(clock.seconds)
        return Asked(reply, clock.elapsed)

    async def ask_batch(self, inputs: list[Any]) -> list[Reply | TimedOut]:
        """Return the answer to each input of one call; a single answer if the call as a whole failed."""
        assert isinstance(self.client, HttpEngine), "batches belong to protocol predict"
        self.alone.mark()
        seconds = self.alone.spec.execution_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                replies = await self.client.predict_batch([Prediction(new_job_id(), data) for data in inputs])
        except TimeoutError:
            return [TimedOut(seconds)]
        return [*replies] if isinstance(replies, list) else [replies]

    async def explain(self, data: Any, reply: Reply | TimedOut) -> tuple[str, str]:
        """Say why a reply is no result, and what would be right. Return that, and the engine's words if they tell more."""
        words = self.alone.words()
        match reply:
            case TimedOut(seconds):
                return f"gave no answer within execution_timeout_seconds of engine.yaml, which is {seconds:g} s", words
            case Rejected(message):
                return f"is refused: {message}", ""
            case Failed(message) if reply.code is JobErrorCode.MALFORMED_ANSWER:
                return await self._explain_malformed(data, message), ""
            case Failed(message):
                return f"fails: {message}{advice(words, self.alone)}", words
            case Busy():
                return "is not taken: it answers 429 or 503, though it has no other job", words
            case Closed(message) | Unreachable(message):
                ended = self.alone.how_it_ended() if await self.alone.has_ended() else None
                said = f"ends the engine, with {ended.rstrip('.')}" if ended else f"has no answer: {message}"
                return said + advice(words, self.alone), words
            case HandedBack(reason):
                return f"has no answer: {reason}", words
        return "has an answer that cannot be used", words

    async def _explain_malformed(self, data: Any, message: str) -> str:
        """Say where an answer is wrong. The runner's own reader says only that it is."""
        try:
            body = await self._raw_answer(data)
            answer = json.loads(body)  # Python reads NaN and Infinity.
        except (httpx2.HTTPError, ValueError, RecursionError):
            return f"fails: {message}"
        if isinstance(answer, dict) and "error" in answer:
            return f"fails: {message}"  # Its author's words, which name the place.
        if not isinstance(answer, dict) or "result" not in answer:
            shown = quoted(answer)
            return f'is answered with {shown}. An answer must be {{"result": …}}, so here {{"result": {shown}}}'
        fault = first_fault(answer["result"], "result")
        return f"has an answer that is not JSON: {fault}. Use null instead" if fault else f"fails: {message}"

    async def _raw_answer(self, data: Any) -> bytes:
        body = bytearray()
        request = {"id": new_job_id(), "data": data}
        async with self.http.stream("POST", f"{self.alone.url}/predict", json=request, timeout=_RAW_SECONDS) as answer:
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _RAW_MAX_BYTES:
                    break
        return bytes(body)


def quoted(value: Any) -> str:
    """Return a value as short JSON text, for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _QUOTED_MAX_CHARS else f"{text[:_QUOTED_MAX_CHARS]}…"
