"""A client over a planned server, for unit tests of the client."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

from enginehouse.client import Client
from enginehouse.client.retries import RetryPlan

JOB = "01890a5d-ac96-7b2a-8c4e-0123456789ab"
QUICK = RetryPlan(times=3, longest_retry_after_seconds=0.05)
Answer = httpx2.Response | Exception


def job(status: str = "succeeded", **fields: Any) -> httpx2.Response:
    """Return an answer with a job."""
    body = {
        "id": JOB,
        "engine": "acme--ocr",
        "status": status,
        "created_at": "2026-11-22T10:00:00Z",
        "urls": {},
        **fields,
    }
    return httpx2.Response(200, json=body)


def accepted() -> httpx2.Response:
    """Return the answer to an accepted submit."""
    return httpx2.Response(202, json={"id": JOB, "engine": "acme--ocr", "status": "queued", "urls": {}})


def problem(status: int, code: str, headers: dict[str, str] | None = None) -> httpx2.Response:
    """Return a problem+json answer."""
    body = {"status": status, "code": code, "detail": "what was wrong", "retryable": False, "advice": "do this"}
    return httpx2.Response(status, json=body, headers=headers)


class Server:
    """Gives the planned answers one after the other, and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[httpx2.Request] = []
        self._answers = list(answers)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def keys(self) -> list[str]:
        """Return the idempotency keys of the requests, in order."""
        return [request.headers["idempotency-key"] for request in self.requests]


Connect = Callable[..., tuple[Client, Server]]


@contextlib.contextmanager
def connections() -> Iterator[Connect]:
    """Give the block a function that makes a client over the planned answers. Close the clients afterwards."""
    with contextlib.ExitStack() as clients:

        def connect(*answers: Answer, retries: RetryPlan = QUICK) -> tuple[Client, Server]:
            server = Server(*answers)
            client = Client("http://gate/", "secret", retries=retries, transport=httpx2.MockTransport(server))
            return clients.enter_context(client), server

        yield connect
