"""Writes JSON answers, and the answers that several routes share."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pydantic_core
from fastapi import Response

from enginehouse.contracts.job import Status
from enginehouse.gateway.intake.submission import AcceptedJob
from enginehouse.gateway.jobs.view import urls
from enginehouse.web.responses import json_answer

R = TypeVar("R")
_SHOWN_AT_ONCE = 50
"""About a millisecond's work."""


async def page_answer(name: str, rows: Sequence[R], show: Callable[[R], Any], next_cursor: str | None) -> Response:
    """Answer with a page of rows, as `show` shows them, under `name`. Others have the event loop between its parts."""
    parts: list[bytes] = []
    for first in range(0, len(rows), _SHOWN_AT_ONCE):
        parts.append(pydantic_core.to_json([show(row) for row in rows[first : first + _SHOWN_AT_ONCE]])[1:-1])
        await asyncio.sleep(0)
    cursor = pydantic_core.to_json(next_cursor)
    content = b'{"%b":[%b],"next_cursor":%b}' % (name.encode(), b",".join(parts), cursor)
    return Response(content, media_type="application/json")


def accepted_view(job: AcceptedJob) -> dict[str, Any]:
    """Show a job that was just accepted."""
    return {"id": job.id, "engine": job.engine, "status": Status.QUEUED, "urls": urls(job.id)}


def accepted_answer(job: AcceptedJob) -> Response:
    """Answer 202 with the job that was accepted, and where to find it."""
    return json_answer(accepted_view(job), 202, {"Location": f"/v1/jobs/{job.id}"})
