"""Serves the calls of gRPC: takes one message of a caller with a key, within bounds, and answers errors as statuses.

Every call is taken as a stream of one message, which is the same on the wire: so a caller without a key is refused before
its message is read, and a tenant's messages are read a few at a time, since their sizes are not known before.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import structlog

from enginehouse.audit.calls import Call
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import EnginehouseError, RequestError, Unavailable
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.inference.infer import InferFailed
from enginehouse.gateway.rpc.calls import Calls
from enginehouse.gateway.rpc.statuses import status_of
from enginehouse.open_inference.messages import SERVICE

log = structlog.get_logger()

_CALLS_AT_ONCE = 1_000
_READS_AT_ONCE = 4
"""Messages of a tenant that are being read at the same time: as many of the largest as its bytes in hand may be."""
_READ_SECONDS = 20.0
_CLOSE_SECONDS = 10.0
_DETAIL_MAX_CHARS = 1_500
_METADATA_MAX_BYTES = 16 * 1024
_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", _METADATA_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", 2 * _METADATA_MAX_BYTES),
    ("grpc.max_concurrent_streams", 128),
    ("grpc.max_allowed_incoming_connections", 1_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A caller that pings more often than every 30 s is disconnected.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
    ("grpc.http2.max_ping_strikes", 2),
    # A small message could become a large one.
    ("grpc.compression_enabled_algorithms_bitset", 1),
]


class RpcServer(grpc.GenericRpcHandler):
    """The listener for gRPC. Made inside the event loop that uses it; it answers while it is `within` something."""

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        """Take the address; raise Unavailable if another process has it."""
        self._gateway = gateway
        self._calls = Calls(gateway)
        self._reading: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_READS_AT_ONCE))
        limit = ("grpc.max_receive_message_length", gateway.settings.body_max_bytes)
        self._server = grpc.aio.server(options=[*_OPTIONS, limit], maximum_concurrent_rpcs=_CALLS_AT_ONCE)
        self._server.add_generic_rpc_handlers((self,))
        try:
            address = f"[{host}]" if ":" in host else host
            self.port: int = self._server.add_insecure_port(f"{address}:{port}")
        except RuntimeError as error:
            raise Unavailable(
                f"port {port} of {host} cannot be taken for gRPC; ENGINEHOUSE_GATEWAY_GRPC_PORT sets another one"
            ) from error

    @asynccontextmanager
    async def within(self, running: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
        """Answer as long as the block runs, inside of `running`."""
        async with running:
            await self._server.start()
            try:
                yield
            finally:
                await self.stop()

    async def stop(self) -> None:
        """Take no more calls, and end those that are not answered after a while. May be called again."""
        await self._server.stop(_CLOSE_SECONDS)

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers a call, as soon as its headers are there; None if there is no such call."""
        name = handler_call_details.method.removeprefix(f"/{SERVICE}/")
        open_call, call = self._calls.without_key.get(name), self._calls.with_key.get(name)
        if open_call is not None:
            return grpc.stream_unary_rpc_method_handler(_answering(open_call))
        if call is None:
            return None

        gateway = self._gateway

        async def answer(messages: AsyncIterator[bytes], context: Any) -> bytes:
            with gateway.audit.recording(f"gRPC {name}") as recorded:
                return await self._answer(call, messages, context, recorded)

        return grpc.stream_unary_rpc_method_handler(_answering(answer))

    async def _answer(
        self, call: Callable[..., Awaitable[bytes]], messages: AsyncIterator[bytes], context: Any, recorded: Call
    ) -> bytes:
        gateway = self._gateway
        authorization = dict(context.invocation_metadata() or ()).get("authorization")
        caller = gateway.tenants.authenticate(authorization if isinstance(authorization, str) else None)
        recorded.by, recorded.key, recorded.is_operator = caller.name, caller.key_id, caller.is_admin
        with gateway.open_requests.counted(caller), ExitStack() as held:
            hold = held.enter_context(gateway.bytes_in_hand.holding(caller.name))
            message = await self._read(caller.name, messages)
            if len(message) > INLINE_MAX_BYTES:
                hold(len(message))
            answering = call(caller, message, context, held.close)
            del message
            return await gateway.loop_time.share(caller.name, answering)  # type: ignore[arg-type]

    async def _read(self, tenant: str, messages: AsyncIterator[bytes]) -> bytes:
        try:
            async with asyncio.timeout(_READ_SECONDS), self._reading[tenant]:
                async for message in messages:
                    return message
        except TimeoutError:
            raise RequestError(f"The message did not arrive within {_READ_SECONDS:g} s") from None
        raise RequestError("The call has no message")


def _answering(answer: Callable[..., Awaitable[bytes]]) -> Callable[..., Awaitable[bytes]]:
    """Return `answer` with its errors told as statuses."""

    async def answered(messages: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            return await answer(messages, context)
        except EnginehouseError as error:
            await _refuse(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            log.exception("A call of gRPC failed", action="request_failed")
            await context.abort(
                grpc.StatusCode.UNKNOWN, "The gateway failed unexpectedly; the operator's log explains why"
            )
        raise AssertionError("a refused call does not go on")

    return answered


async def _refuse(context: Any, error: EnginehouseError) -> None:
    trailing = [("enginehouse-code", error.reason if isinstance(error, InferFailed) else error.code)]
    if isinstance(error, InferFailed):
        trailing.append(("enginehouse-job-id", error.job_id))
    if error.retry_after_seconds is not None:
        trailing.append(("retry-after", f"{error.retry_after_seconds:.0f}"))
    await context.abort(status_of(error), str(error)[:_DETAIL_MAX_CHARS], tuple(trailing))
