"""Writes a job's events as server-sent events."""

from collections.abc import AsyncIterator, Sequence

import pydantic_core

from enginehouse.gateway.jobs.follow import FollowEvent

_BEGINNING, _STILL_HERE = b": following\n\n", b": still here\n\n"
"""Comments without content, which keep proxies from closing the connection."""


def _encode(event: FollowEvent) -> bytes:
    text = pydantic_core.to_json(event.data).decode()
    return f"id: {event.sequence}\nevent: {event.kind}\ndata: {text}\n\n".encode()


async def encode_events(followed: AsyncIterator[Sequence[FollowEvent]]) -> AsyncIterator[bytes]:
    """Write the events that `follow` yields; write a comment for an empty group."""
    comment = _BEGINNING
    async for events in followed:
        yield b"".join(_encode(event) for event in events) or comment
        comment = _STILL_HERE
