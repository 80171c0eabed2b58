"""Requests and event streams of the client, repeated where that is safe. `make fix` derives `sync_transport.py`."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pydantic_core

from enginehouse.client.connections import Connections
from enginehouse.client.models import JobNews
from enginehouse.client.retries import RequestFailed, RetryPlan, check_answer, check_origin, lost_request
from enginehouse.contracts.errors import RequestError, Unavailable
from enginehouse.contracts.json_text import write_json

_WAIT_MARGIN_SECONDS = 15.0
"""An answer may take this much longer than the wait that was asked for."""
_STREAM_TIMEOUT = httpx2.Timeout(30, connect=5, read=60)
"""The server sends a sign of life every 15 s. After a much longer silence it counts as gone."""


class AsyncTransport:
    """Connects to one server as one tenant. Tests replace the network by `transport`."""

    def __init__(
        self,
        url: str,
        api_key: str,
        timeout_seconds: float,
        retries: RetryPlan,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        try:
            host = urlsplit(str(httpx2.URL(url))).hostname
        except (httpx2.InvalidURL, ValueError) as error:
            raise RequestError(f"{url!r} is not a URL: {error}") from None
        self._url = url
        # A proxy cannot reach this machine's own addresses.
        self._trust_env = host not in ("127.0.0.1", "localhost", "::1")
        self._authorization = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._retries = retries
        self._timeout_seconds = timeout_seconds
        self._transport = transport
        self._process = os.getpid()
        self._connections = Connections(self._connect)

    def _connect(self) -> httpx2.AsyncClient:
        if self._transport is not None and os.getpid() != self._process:
            raise RuntimeError(
                "This client was given a `transport`, which a forked child cannot use: make it anew here"
            )
        return httpx2.AsyncClient(
            base_url=self._url,
            # One connection per waiting job, and many jobs may wait at the same time.
            limits=httpx2.Limits(max_connections=1_000, max_keepalive_connections=100),
            trust_env=self._trust_env,
            transport=self._transport,
        )

    @property
    def _http(self) -> httpx2.AsyncClient:
        return self._connections.of(asyncio.get_running_loop())

    async def aclose(self) -> None:
        """Close all connections of this process and event loop."""
        http = self._connections.take(asyncio.get_running_loop())
        if http is not None:
            await http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        wait_seconds: float = 0,
        safe: bool = True,
        signed: bool = False,
    ) -> bytes:
        """Return the body of a successful answer. Repeat the request while that is safe and the plan allows it.

        `signed`: `path` is a signed URL, perhaps of another server. It needs no key, so our key is not sent.
        """
        sent = {**({} if signed else self._authorization), **(headers or {})}
        if body is not None:
            sent["content-type"] = "application/json"
            content = write_json(body)
        timeout = httpx2.Timeout(
            self._timeout_seconds, connect=5, read=max(self._timeout_seconds, wait_seconds + _WAIT_MARGIN_SECONDS)
        )
        http, encoded = self._http, httpx2.Headers(sent, encoding="utf-8")
        request = http.build_request(method, path, content=content, params=params, headers=encoded, timeout=timeout)
        tried = 0
        while True:
            tried += 1
            try:
                answer = await self._send(http, request, safe)
                break
            except RequestFailed as failed:
                delay = self._delay(failed, tried)
            await asyncio.sleep(delay)
        if not signed:
            check_origin(answer, self._url)
        return answer.content

    def _delay(self, failed: RequestFailed, tried: int) -> float:
        """Return the seconds before the next try. Raise the error if there is no next try."""
        delay = self._retries.delay(failed.error, tried) if failed.again else None
        if delay is None:
            raise failed.error from None
        return delay

    async def _send(self, http: httpx2.AsyncClient, request: httpx2.Request, safe: bool) -> httpx2.Response:
        try:
            answer = await http.send(request)
        except httpx2.RequestError as error:
            raise lost_request(error, self._url, safe=safe) from None
        self._connections.note(answer)
        check_answer(answer.status_code, answer.content, answer.headers.get("retry-after"), safe=safe)
        return answer

    async def lines(self, method: str, path: str, *, body: Any) -> AsyncIterator[str]:
        """Return the lines of an answer as they come. The request is made once; leaving the iteration closes it."""
        sent = {**self._authorization, "content-type": "application/json"}
        try:
            async with self._http.stream(
                method, path, content=write_json(body), headers=sent, timeout=_STREAM_TIMEOUT
            ) as answer:
                self._connections.note(answer)
                await _check_stream(answer)
                async for line in answer.aiter_lines():
                    yield line
        except httpx2.RequestError as error:
            raise lost_request(error, self._url, safe=False).error from None
        except RequestFailed as failed:
            raise failed.error from None

    async def events(self, path: str) -> AsyncIterator[JobNews]:
        """Return events up to the one that is `completed`. A broken stream continues after the last event that came."""
        last, tried = "", 0
        while True:
            headers = {**self._authorization, **({"last-event-id": last} if last else {})}
            try:
                async with self._http.sse(
                    path, headers=headers, timeout=_STREAM_TIMEOUT, max_event_size=None
                ) as source:
                    self._connections.note(source.response)
                    await _check_stream(source.response)
                    async for event in source:
                        last, tried = event.id, 0
                        yield JobNews(kind=event.event, data=pydantic_core.from_json(event.data))
                        if event.event == "completed":
                            return
                lost = RequestFailed(Unavailable("The stream of events ended before the job did"), again=True)
            except httpx2.RequestError as error:
                lost = lost_request(error, self._url, safe=True)
            except RequestFailed as failed:
                lost = failed
            tried += 1
            await asyncio.sleep(self._delay(lost, tried))


async def _check_stream(answer: httpx2.Response) -> None:
    """Raise RequestFailed with the reason in the body if the server did not open the stream."""
    if answer.status_code >= 300:
        body = await answer.aread()
        check_answer(answer.status_code, body, answer.headers.get("retry-after"), safe=True)
