"""Passes the gateway's calls of extra endpoints on to a healthy replica of the engine."""

import asyncio
import fnmatch
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import aiohttp
import pydantic_core
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from yarl import URL

from enginehouse.contracts.calls import (
    ANSWERED_BY,
    BROADCAST_PARAMETER,
    CALL_ANSWER_MAX_BYTES,
    CALL_BODY_MAX_BYTES,
    CALL_PREFIX,
    CALL_SECONDS,
    EVERY_PREFIX,
    METHODS,
    PROOF_HEADER,
    REPLICA_ANSWER_MAX_BYTES,
    ReplicaAnswer,
    WorkerAnswer,
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
    Forbidden,
    InputTooLarge,
    RateLimited,
    RequestError,
)
from enginehouse.contracts.json_text import read_json
from enginehouse.contracts.proofs import EngineKey, proven_body
from enginehouse.runner.broadcasts import Broadcasts
from enginehouse.runner.clients.wire import TooLarge, read_body
from enginehouse.runner.replicas import Replica, ReplicaPool

_CONNECT_SECONDS = 2.0
_AT_ONCE = 32
"""Calls at once: they are beside the jobs, and must not take the runner's memory or the engine's connections."""
_NOT_PROVEN = "nothing proves that a gateway with the same proof key makes this call"
_STATUSES: tuple[tuple[type[EnginehouseError], int], ...] = (
    (Forbidden, 403),
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


class _Answer(NamedTuple):
    """What a replica answered."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class EngineCalls:
    """Answers `call/one/<path>`: one healthy replica gets the request at `/<path>`, and its answer is passed back.

    `call/every/info` and `call/every/update` go to every replica, an update once for each broadcast.
    """

    def __init__(
        self, spec: EngineSpec, worker: str, pool: ReplicaPool, problem: Callable[[], str | None], key: EngineKey
    ) -> None:
        """Say what `problem` returns while no replica is healthy. Take calls with a proof by `key`, and no others."""
        self._worker = worker
        self._key = key
        self._pool = pool
        self._problem = problem
        self._broadcasts = Broadcasts()
        self._closed_paths = prediction_paths(spec)
        self._one_job_each = spec.one_job_each
        self._in_hand = 0
        self._session: aiohttp.ClientSession | None = None
        one = f"/{CALL_PREFIX}"
        routes = [Route(path, self._answers(self._one), methods=METHODS) for path in (one, one + "/{path:path}")]
        every = [
            Route(f"/{EVERY_PREFIX}/{path}", self._answers(self._every), methods=[method])
            for method, path in (("GET", "info"), ("POST", "update"))
        ]
        self.app = Starlette(routes=[*routes, *every])

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _answers(
        self, answer: Callable[[Request, bytes], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answered(request: Request) -> Response:
            try:
                digest = self._proven_digest(request)
                if self._one_job_each:
                    raise RequestError("the engine runs in a pod for each job, and so takes no calls beside jobs")
                if self._in_hand >= _AT_ONCE:
                    raise RateLimited(f"the engine has {_AT_ONCE} calls in hand", retry_after_seconds=1)
                self._in_hand += 1
                try:
                    return await answer(request, await _body(request, digest))
                finally:
                    self._in_hand -= 1
            except EnginehouseError as error:
                status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
                body = pydantic_core.to_json({"code": error.code, "detail": str(error)})
                return Response(body, status, {ANSWERED_BY: "runner"}, "application/json")

        return answered

    def _proven_digest(self, request: Request) -> str:
        """Return the digest of the body of a gateway's call. Raise Forbidden if nothing proves that it is one."""
        shown, path = request.headers.get(PROOF_HEADER), _raw_path(request)[1:]
        digest = proven_body(shown, self._key, request.method, path, _query(request))
        if digest is None:
            raise Forbidden(_NOT_PROVEN)
        return digest

    async def _one(self, request: Request, body: bytes) -> Response:
        path, query = self._path(request), _query(request)
        answer = await self._ask(
            self._replica(),
            request.method,
            f"{path}{'?' + query if query else ''}",
            request_headers(request.headers.items()),
            body,
            CALL_ANSWER_MAX_BYTES,
        )
        response = Response(answer.body, answer.status)
        for name, value in answer.headers:
            response.headers.append(name, value)
        response.headers[ANSWERED_BY] = "engine"
        return response

    async def _every(self, request: Request, body: bytes) -> Response:
        """Send one request to every replica, also to those that are not healthy, and answer what each has answered."""
        broadcast = request.query_params.get(BROADCAST_PARAMETER)
        if not broadcast:
            raise RequestError(f"the query must name the broadcast: ?{BROADCAST_PARAMETER}=<id>")
        path = "/" + request.url.path.rpartition("/")[2]
        headers = request_headers(request.headers.items())

        async def ask(replica: Replica) -> ReplicaAnswer:
            address = replica.client.address
            try:
                answer = await self._ask(replica, request.method, path, headers, body, REPLICA_ANSWER_MAX_BYTES)
            except EnginehouseError as error:
                return ReplicaAnswer(replica=address, problem=str(error))
            return ReplicaAnswer(replica=address, status=answer.status, body=_json_or_text(answer.body))

        async def ask_all() -> list[ReplicaAnswer]:
            return list(await asyncio.gather(*(ask(replica) for replica in self._pool.replicas)))

        # What only asks changes nothing, so it need not be remembered.
        replicas = await (ask_all() if request.method == "GET" else self._broadcasts.once(broadcast, ask_all))
        answer = WorkerAnswer(worker=self._worker, replicas=replicas)
        return Response(answer.model_dump_json(), 200, {ANSWERED_BY: "engine"}, "application/json")

    def _path(self, request: Request) -> str:
        path = encoded_path(check_call_path(_raw_path(request).removeprefix(f"/{CALL_PREFIX}").removeprefix("/")))
        if any(fnmatch.fnmatchcase(path.lower(), closed) for closed in self._closed_paths):
            raise RequestError(f"{path} is how jobs come to this engine: POST /v1/engines/{{engine}}/jobs submits one")
        return path

    def _replica(self) -> Replica:
        healthy = [replica for replica in self._pool.replicas if replica.healthy]
        if not healthy:
            raise EngineUnavailable(self._problem() or "none of its replicas is healthy")
        return min(healthy, key=lambda replica: replica.places_taken)

    async def _ask(
        self, replica: Replica, method: str, target: str, headers: list[tuple[str, str]], body: bytes, limit: int
    ) -> _Answer:
        address = replica.client.address
        try:
            async with self._connections().request(
                method,
                URL(f"http://{address}{target}", encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                content = b"" if method == "HEAD" else await read_body(answer, limit)
        except TooLarge:
            raise EngineCallFailed(f"its answer has more than {limit} bytes") from None
        except aiohttp.ClientConnectorError:
            raise EngineUnavailable(f"nothing listens on {address}") from None
        except TimeoutError:
            raise EngineCallFailed(f"it did not answer in {CALL_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EngineCallFailed(f"its answer is not HTTP, or ended too early ({type(error).__name__})") from None
        return _Answer(answer.status, answer_headers(answer.headers.items()), content)

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


def _raw_path(request: Request) -> str:
    raw: bytes = request.scope["raw_path"]
    return raw.decode("latin-1").partition("?")[0]


def _query(request: Request) -> str:
    raw: bytes = request.scope["query_string"]
    return raw.decode("latin-1")


def _json_or_text(body: bytes) -> Any:
    try:
        return read_json(body, "the answer")
    except RequestError:
        return body.decode(errors="replace")


async def _body(request: Request, digest: str) -> bytes:
    """Return the body of a call. Raise Forbidden if it is not the one with this digest, InputTooLarge, or RequestError."""
    body = bytearray()
    try:
        async with asyncio.timeout(CALL_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > CALL_BODY_MAX_BYTES:
                    raise InputTooLarge(f"the body of a call may have {CALL_BODY_MAX_BYTES} bytes")
    except TimeoutError:
        raise RequestError(f"the body of the call did not come in {CALL_SECONDS:g} s") from None
    if hashlib.sha256(body).hexdigest() != digest:
        raise Forbidden(_NOT_PROVEN)
    return bytes(body)
