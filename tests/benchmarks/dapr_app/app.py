"""Bare Dapr: a job and its reply as events on two topics, each app behind a sidecar of its own, and nothing else.

The same bare ASGI as the floor's, with the same client and the same calls as Enginehouse's sidecars get. No ledger, no
record, no promise: what travels over Dapr cannot cost less. ROLE says which of the two apps this is.
"""

import asyncio
import itertools
import json
import os
from typing import Any

import aiohttp
import pydantic_core

PUBSUB, JOBS, REPLIES = "bus", "jobs", "replies"
waiting: dict[str, asyncio.Future[Any]] = {}
ids = itertools.count()
session: aiohttp.ClientSession


async def publish(topic: str, event_id: str, data: Any) -> None:
    event = {"specversion": "1.0", "id": event_id, "type": "job", "source": "/bare", "data": data}
    path = f"publish/{PUBSUB}/{topic}?metadata.rawPayload=true"
    async with session.post(path, data=pydantic_core.to_json(event)) as answer:
        assert answer.status < 300, await answer.text()


async def submitted(body: bytes, *, waits: bool) -> tuple[int, Any]:
    event_id, data = str(next(ids)), json.loads(body)["input"]
    if not waits:
        await publish(JOBS, event_id, data)
        return 202, {"id": event_id}
    future = waiting[event_id] = asyncio.get_running_loop().create_future()
    try:
        await publish(JOBS, event_id, data)
        return 200, {"status": "succeeded", "output": await future}
    finally:
        del waiting[event_id]


async def delivered(body: bytes) -> tuple[int, Any]:
    event = pydantic_core.from_json(body)
    if os.environ["ROLE"] == "worker":
        await publish(REPLIES, event["id"], event["data"])
    elif (future := waiting.get(event["id"])) and not future.done():
        future.set_result(event["data"])
    return 200, {"status": "SUCCESS"}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["path"] == "/jobs":
        waits = any(name == b"prefer" for name, _ in scope["headers"])
        status, content = await submitted(body, waits=waits)
    elif scope["path"] == "/delivered":
        status, content = await delivered(body)
    else:
        status, content = 200, {"ok": True}
    text = pydantic_core.to_json(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _lifespan(receive: Any, send: Any) -> None:
    global session
    await receive()
    headers = {"dapr-api-token": os.environ["DAPR_API_TOKEN"], "Content-Type": "application/cloudevents+json"}
    base = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/"
    session = aiohttp.ClientSession(base_url=base, headers=headers, connector=aiohttp.TCPConnector(limit=0))
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await session.close()
    await send({"type": "lifespan.shutdown.complete"})
