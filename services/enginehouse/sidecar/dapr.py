"""A real Dapr sidecar, over gRPC.

Decision, 2026-11-22: the official package's generated stubs are used directly. Its client class reads the token and the
timeout from process-wide settings, blocks in its constructor, and passes every call through four interceptors; the
stubs take a deadline and a token per call and are what that class calls in the end.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc.aio
from dapr.proto import api_service_v1, api_v1, common_v1
from google.protobuf.empty_pb2 import Empty

from enginehouse.contracts.events import CONTENT_TYPE
from enginehouse.sidecar.base import Conflict, Metadata, NotPermitted, StateItem, Unavailable

_FIRST_WRITE = common_v1.StateOptions(
    concurrency=common_v1.StateOptions.CONCURRENCY_FIRST_WRITE,
    consistency=common_v1.StateOptions.CONSISTENCY_STRONG,
)
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_READY_POLL_SECONDS = 0.05


def _translate(error: grpc.aio.AioRpcError) -> Exception:
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return NotPermitted(details)
    if error.code() is grpc.StatusCode.ABORTED:
        return Conflict(details)
    return Unavailable(f"sidecar: {details}")


class DaprSidecar:
    """The sidecar at 127.0.0.1:`grpc_port`. Made before, started inside, the event loop that uses it."""

    def __init__(self, grpc_port: int, api_token: str, *, timeout_seconds: float = 10) -> None:
        self._address = f"127.0.0.1:{grpc_port}"
        self._metadata = (("dapr-api-token", api_token),)
        self._timeout = timeout_seconds
        self._channel: grpc.aio.Channel | None = None
        self._stub: Any = None

    async def start(self, timeout_seconds: float = 60) -> None:
        """Wait until the sidecar answers; Unavailable when it does not in time."""
        self._channel = grpc.aio.insecure_channel(
            self._address,
            options=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                # A sidecar that restarts is back in a second or two: do not sit out the default two minutes.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1_000),
            ],
        )
        self._stub = api_service_v1.DaprStub(self._channel)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            try:
                await self.metadata()
                return
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(
                        f"no Dapr sidecar answers at {self._address} after {timeout_seconds:g} s: "
                        "is daprd running, with this DAPR_GRPC_PORT and DAPR_API_TOKEN?"
                    ) from None
                await asyncio.sleep(_READY_POLL_SECONDS)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def _call(self, method: str, request: Any) -> Any:
        call = getattr(self._stub, method)(request, metadata=self._metadata, timeout=self._timeout)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise _translate(error) from None

    async def publish(self, pubsub: str, topic: str, event: bytes) -> None:
        """Publish one structured CloudEvent; the broker has it when this returns."""
        await self._call(
            "PublishEvent",
            api_v1.PublishEventRequest(pubsub_name=pubsub, topic=topic, data=event, data_content_type=CONTENT_TYPE),
        )

    async def publish_many(self, pubsub: str, topic: str, events: Sequence[bytes]) -> list[bool]:
        """Publish several in one call; for each, in order, whether the broker has it."""
        entries = [
            api_v1.BulkPublishRequestEntry(entry_id=str(index), event=event, content_type=CONTENT_TYPE)
            for index, event in enumerate(events)
        ]
        answer = await self._call(
            "BulkPublishEvent", api_v1.BulkPublishRequest(pubsub_name=pubsub, topic=topic, entries=entries)
        )
        failed = {entry.entry_id for entry in answer.failedEntries}
        return [str(index) not in failed for index in range(len(events))]

    async def read(self, store: str, key: str) -> StateItem | None:
        """The present value, or None."""
        answer = await self._call(
            "GetState",
            api_v1.GetStateRequest(store_name=store, key=key, consistency=common_v1.StateOptions.CONSISTENCY_STRONG),
        )
        return StateItem(answer.data, answer.etag) if answer.etag else None

    async def read_many(self, store: str, keys: Sequence[str]) -> dict[str, StateItem]:
        """The present values of those keys that exist."""
        if not keys:
            return {}
        answer = await self._call(
            "GetBulkState", api_v1.GetBulkStateRequest(store_name=store, keys=list(keys), parallelism=8)
        )
        for item in answer.items:
            if item.error:
                raise Unavailable(f"sidecar: {item.error}")
        return {item.key: StateItem(item.data, item.etag) for item in answer.items if item.etag}

    async def create(self, store: str, key: str, value: bytes, ttl_seconds: int) -> None:
        """First-write a key that must not exist; Conflict if it does."""
        try:
            await self._save(store, key, value, ttl_seconds, etag=None)
        except Unavailable:
            # Redis answers "somebody was first" with the same internal error as any other failure to write.
            if await self.read(store, key) is not None:
                raise Conflict(f"{store}: {key} exists") from None
            raise

    async def replace(self, store: str, key: str, value: bytes, etag: str, ttl_seconds: int) -> None:
        """First-write a key over exactly the version `etag`; Conflict if it has another by now."""
        await self._save(store, key, value, ttl_seconds, etag=common_v1.Etag(value=etag))

    async def _save(self, store: str, key: str, value: bytes, ttl_seconds: int, *, etag: common_v1.Etag | None) -> None:
        item = common_v1.StateItem(
            key=key, value=value, etag=etag, options=_FIRST_WRITE, metadata={"ttlInSeconds": str(ttl_seconds)}
        )
        await self._call("SaveState", api_v1.SaveStateRequest(store_name=store, states=[item]))

    async def put(self, store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        """Last-write a key that decides nothing."""
        metadata = {} if ttl_seconds is None else {"ttlInSeconds": str(ttl_seconds)}
        item = common_v1.StateItem(key=key, value=value, metadata=metadata)
        await self._call("SaveState", api_v1.SaveStateRequest(store_name=store, states=[item]))

    async def delete(self, store: str, key: str) -> None:
        """Remove a key, whether it exists or not."""
        await self._call("DeleteState", api_v1.DeleteStateRequest(store_name=store, key=key))

    async def metadata(self) -> Metadata:
        """What the sidecar has loaded at present."""
        answer = await self._call("GetMetadata", Empty())
        return Metadata(
            app_id=answer.id,
            components=frozenset(component.name for component in answer.registered_components),
            subscribed_topics=frozenset(subscription.topic for subscription in answer.subscriptions),
        )
