"""The floor over HTTP: a bare ASGI app around the bus; no framework, no validation, no authentication."""

import json
from typing import Any

from bus import Bus

bus = Bus()


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if scope["method"] != "POST":
        await _answer(send, 200, b'{"ok":true}')
    elif any(name == b"prefer" for name, _ in scope["headers"]):
        data = json.dumps(json.loads(body)["input"]).encode()
        await _answer(send, 200, b'{"status":"succeeded","output":' + await bus.run(data) + b"}")
    else:
        data = json.dumps(json.loads(body)["input"]).encode()
        await _answer(send, 202, b'{"id":"' + await bus.publish(data) + b'"}')


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    bus.start()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await bus.close()
    await send({"type": "lifespan.shutdown.complete"})
