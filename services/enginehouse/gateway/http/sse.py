"""Writes a job's events as server-sent events."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from enginehouse.contracts.errors import RateLimited
from enginehouse.gateway.jobs.follow import Followers, FollowEvent
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.web.problems import problem

_BEGINNING, _STILL_HERE = b": following\n\n", b": still here\n\n"
"""Comments without content, which keep proxies from closing the connection."""
STREAM_HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from holding a stream's events back or keeping them."""


def _encode(event: FollowEvent) -> bytes:
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (event.sequence, event.kind.encode(), event.data)


async def _encoded(followed: AsyncIterator[Sequence[FollowEvent]]) -> AsyncIterator[bytes]:
    """Write the events that are followed; write a comment for an empty group."""
    comment = _BEGINNING
    async for events in followed:
        yield b"".join(_encode(event) for event in events) or comment
        comment = _STILL_HERE


class EventStream(StreamingResponse):
    """Streams a job's events after the event `after`. Answers 429 if too many streams are open."""

    def __init__(self, followers: Followers, caller: Caller, job_id: str, after: int) -> None:
        events: Any = _encoded(followers.follow(caller, job_id, after))
        super().__init__(events, media_type="text/event-stream", headers=STREAM_HEADERS)
        self._counted = followers.counted(caller, job_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the job or the connection ends: exactly so long, the stream counts."""
        try:
            with self._counted:
                await super().__call__(scope, receive, send)
        except RateLimited as error:
            await problem(error, scope=scope)(scope, receive, send)
