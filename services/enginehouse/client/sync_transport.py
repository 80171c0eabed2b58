"""Derived from `async_transport.py` by `make fix`: do not edit."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pydantic_core

from enginehouse.client.models import JobNews
from enginehouse.client.retries import RequestFailed, RetryPlan, check_answer, lost_request
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.json_text import write_json

_WAIT_MARGIN_SECONDS = 15.0
"""An answer may take this much longer than the wait that was asked for."""
_STREAM_TIMEOUT = httpx2.Timeout(30, connect=5, read=60)
"""The server sends a sign of life every 15 s. After a much longer silence it counts as gone."""


class Transport:
    """Connects to one server as one tenant. Tests replace the network by `transport`."""

    def __init__(
        self,
        url: str,
        api_key: str,
        timeout_seconds: float,
        retries: RetryPlan,
        transport: httpx2.BaseTransport | None,
    ) -> None:
        self._url = url
        self._authorization = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._retries = retries
        self._timeout_seconds = timeout_seconds
        self._http = httpx2.Client(
            base_url=url,
            # One connection per waiting job, and many jobs may wait at the same time.
            limits=httpx2.Limits(max_connections=1_000, max_keepalive_connections=100),
            # A proxy cannot reach this machine's own addresses.
            trust_env=urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1"),
            transport=transport,
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(
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
        encoded = httpx2.Headers(sent, encoding="utf-8")
        request = self._http.build_request(
            method, path, content=content, params=params, headers=encoded, timeout=timeout
        )
        tried = 0
        while True:
            tried += 1
            try:
                return self._send(request, safe)
            except RequestFailed as failed:
                delay = self._delay(failed, tried)
            time.sleep(delay)

    def _delay(self, failed: RequestFailed, tried: int) -> float:
        """Return the seconds before the next try. Raise the error if there is no next try."""
        delay = self._retries.delay(failed.error, tried) if failed.again else None
        if delay is None:
            raise failed.error from None
        return delay

    def _send(self, request: httpx2.Request, safe: bool) -> bytes:
        try:
            answer = self._http.send(request)
        except httpx2.TransportError as error:
            raise lost_request(error, self._url, safe=safe) from None
        check_answer(answer.status_code, answer.content, answer.headers.get("retry-after"), safe=safe)
        return answer.content

    def events(self, path: str) -> Iterator[JobNews]:
        """Return events up to the one that is `completed`. A broken stream continues after the last event that came."""
        last, tried = "", 0
        while True:
            headers = {**self._authorization, **({"last-event-id": last} if last else {})}
            try:
                with self._http.sse(path, headers=headers, timeout=_STREAM_TIMEOUT, max_event_size=None) as source:
                    _check_stream(source.response)
                    for event in source:
                        last, tried = event.id, 0
                        yield JobNews(kind=event.event, data=pydantic_core.from_json(event.data))
                        if event.event == "completed":
                            return
                lost = RequestFailed(Unavailable("The stream of events ended before the job did"), again=True)
            except httpx2.TransportError as error:
                lost = lost_request(error, self._url, safe=True)
            except RequestFailed as failed:
                lost = failed
            tried += 1
            time.sleep(self._delay(lost, tried))


def _check_stream(answer: httpx2.Response) -> None:
    """Raise RequestFailed with the reason in the body if the server did not open the stream."""
    if answer.status_code >= 400:
        body = answer.read()
        check_answer(answer.status_code, body, answer.headers.get("retry-after"), safe=True)
