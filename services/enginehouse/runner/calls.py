"""Passes the gateway's calls of extra endpoints on to a healthy replica of the engine."""

import fnmatch
from collections.abc import Callable

import aiohttp
import pydantic_core
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from yarl import URL

from enginehouse.contracts.calls import (
    ANSWERED_BY,
    CALL_ANSWER_MAX_BYTES,
    CALL_BODY_MAX_BYTES,
    CALL_PREFIX,
    CALL_SECONDS,
    METHODS,
    answer_headers,
    check_call_path,
    encoded_path,
    request_headers,
)
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import (
    EngineCallFailed,
    EnginehouseError,
    EngineUnavailable,
    InputTooLarge,
    RateLimited,
    RequestError,
)
from enginehouse.runner.clients.wire import TooLarge, read_body
from enginehouse.runner.replicas import Replica, ReplicaPool

_CONNECT_SECONDS = 2.0
_AT_ONCE = 32
"""Calls at once: they are beside the jobs, and must not take the runner's memory or the engine's connections."""
_STATUSES: tuple[tuple[type[EnginehouseError], int], ...] = (
    (RateLimited, 429),
    (InputTooLarge, 413),
    (RequestError, 422),
    (EngineUnavailable, 503),
    (EngineCallFailed, 502),
)


def prediction_paths(spec: EngineSpec) -> list[str]:
    """Return patterns of the paths by which jobs come to the engine, in lower case: no call may go around the queue."""
    if spec.json_call is not None:
        return [spec.json_call.path.partition("?")[0].lower(), spec.json_call.health.partition("?")[0].lower()]
    if spec.protocol == "openai":
        return ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
    return ["/v2/*/infer"] if spec.protocol == "open-inference" else []


class EngineCalls:
    """Answers `call/one/<path>`: one healthy replica gets the request at `/<path>`, and its answer is passed back."""

    def __init__(self, spec: EngineSpec, pool: ReplicaPool, problem: Callable[[], str | None]) -> None:
        """Say what `problem` returns while no replica is healthy."""
        self._pool = pool
        self._problem = problem
        self._closed_paths = prediction_paths(spec)
        self._in_hand = 0
        self._session: aiohttp.ClientSession | None = None
        one = f"/{CALL_PREFIX}"
        routes = [Route(path, self._one, methods=METHODS) for path in (one, one + "/{path:path}")]
        self.app = Starlette(routes=routes)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def _one(self, request: Request) -> Response:
        try:
            if self._in_hand >= _AT_ONCE:
                raise RateLimited(f"the engine has {_AT_ONCE} calls in hand", retry_after_seconds=1)
            self._in_hand += 1
            try:
                return await self._pass_on(request)
            finally:
                self._in_hand -= 1
        except EnginehouseError as error:
            status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
            body = pydantic_core.to_json({"code": error.code, "detail": str(error)})
            return Response(body, status, {ANSWERED_BY: "runner"}, "application/json")

    async def _pass_on(self, request: Request) -> Response:
        path = self._path(request)
        body = await _bounded_body(request)
        return await self._ask(self._replica(), request, path, body)

    def _path(self, request: Request) -> str:
        raw = request.scope["raw_path"].decode("latin-1").partition("?")[0]
        path = encoded_path(check_call_path(raw.removeprefix(f"/{CALL_PREFIX}").removeprefix("/")))
        if any(fnmatch.fnmatchcase(path.lower(), closed) for closed in self._closed_paths):
            raise RequestError(f"{path} is how jobs come to this engine: POST /v1/engines/{{engine}}/jobs submits one")
        return path

    def _replica(self) -> Replica:
        healthy = [replica for replica in self._pool.replicas if replica.healthy]
        if not healthy:
            raise EngineUnavailable(self._problem() or "none of its replicas is healthy")
        return min(healthy, key=lambda replica: replica.places_taken)

    async def _ask(self, replica: Replica, request: Request, path: str, body: bytes) -> Response:
        query = request.scope["query_string"].decode("latin-1")
        url = URL(f"http://{replica.client.address}{path}{'?' + query if query else ''}", encoded=True)
        try:
            async with self._connections().request(
                request.method,
                url,
                data=body or None,
                headers=request_headers(request.headers.items()),
                allow_redirects=False,
            ) as answer:
                content = b"" if request.method == "HEAD" else await read_body(answer, CALL_ANSWER_MAX_BYTES)
        except TooLarge:
            raise EngineCallFailed(f"its answer has more than {CALL_ANSWER_MAX_BYTES} bytes") from None
        except aiohttp.ClientConnectorError:
            raise EngineUnavailable(f"nothing listens on {replica.client.address}") from None
        except TimeoutError:
            raise EngineCallFailed(f"it did not answer in {CALL_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineCallFailed(f"its answer is not HTTP, or ended too early ({type(error).__name__})") from None
        response = Response(content, answer.status)
        for name, value in answer_headers(answer.headers.items()):
            response.headers.append(name, value)
        response.headers[ANSWERED_BY] = "engine"
        return response

    def _connections(self) -> aiohttp.ClientSession:
        # The engine is not trusted: it gets no cookies back, no redirect is followed, and no answer is unpacked.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=CALL_SECONDS, sock_connect=_CONNECT_SECONDS),
                headers={"Accept-Encoding": "identity", "User-Agent": "enginehouse"},
                skip_auto_headers=("Content-Type", "Accept"),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > CALL_BODY_MAX_BYTES:
            raise InputTooLarge(f"the body of a call may have {CALL_BODY_MAX_BYTES} bytes")
    return bytes(body)
