"""Sends a version its own examples over HTTP, before it gets the jobs of the version that serves."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from enginehouse import examples
from enginehouse.contracts.problem import problem_text

_RESULT = b'"result"'
_SHOWN_BYTES = 300


async def wrong_example(url: str, source: Path, timeout_seconds: float) -> str | None:
    """Send a replica's /predict the examples of its folder. Return which is answered wrongly, and how; None if none is."""
    return await examples.wrong_example(source, partial(_wrong_answer, url, timeout_seconds=timeout_seconds))


async def _wrong_answer(url: str, data: Any, timeout_seconds: float) -> str | None:
    """Send an input to a replica's /predict. Return what is wrong with the answer; None if it has a result."""
    begun, end, has_result = b"", b"", False
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            httpx2.AsyncClient(timeout=None, trust_env=False) as http,
            http.stream("POST", url, json={"data": data}) as answer,
        ):
            async for part in answer.aiter_bytes():
                # The whole answer must arrive, and it is not kept.
                begun, has_result = (begun + part)[:_SHOWN_BYTES], has_result or _RESULT in end + part
                end = part[-len(_RESULT) :]
    except TimeoutError:
        return f"no answer within {timeout_seconds:g} s"
    except httpx2.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code == 200 and has_result:
        return None
    return f"HTTP {answer.status_code}: {problem_text(begun.decode(errors='replace'))}"
