"""Check that a refusal of the gateway says what was wrong and what to do, and that it stored nothing."""

import json
from typing import Any

import httpx2
from tests.support.gateway import GatewayWorld


def problem_of(answer: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Return the problem in a refusal. It must say what was wrong and what to do, and show no inside of the gateway."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = json.loads(answer.content)
    assert body["status"] == status
    for name in ("title", "detail", "code", "advice"):
        assert isinstance(body[name], str)
        assert body[name]
    assert "Traceback" not in answer.text
    assert isinstance(body["retryable"], bool)
    if code:
        assert body["code"] == code, body
    return body


async def refused(
    world: GatewayWorld, method: str, path: str, status: int, code: str | None = None, **request: Any
) -> dict[str, Any]:
    """Send a request that must be refused and store nothing, and return its problem."""
    before, handed_over = await world.stored(), world.handed_over()
    answer = await world.client().request(method, path, **request)
    body = problem_of(answer, status, code)
    assert await world.stored() == before
    assert world.handed_over() == handed_over
    return body


def anonymous(world: GatewayWorld, headers: list[tuple[bytes, bytes]]) -> httpx2.AsyncClient:
    """Return a client that sends only these headers, and gets an answer even if the gateway fails unexpectedly."""
    transport = httpx2.ASGITransport(world.app, raise_app_exceptions=False)
    return httpx2.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)
