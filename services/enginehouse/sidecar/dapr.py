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

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import CONTENT_TYPE
from enginehouse.sidecar.base import Conflict, Metadata, NotPermitted, StateItem, Unavailable
from enginehouse.sidecar.gather import Gather

_FIRST_WRITE = common_v1.StateOptions(
    concurrency=common_v1.StateOptions.CONCURRENCY_FIRST_WRITE,
    consistency=common_v1.StateOptions.CONSISTENCY_STRONG,
)
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_READY_POLL_SECONDS = 0.05
# Of calls that go together. A sidecar takes 4 MiB unless told otherwise.
_GATHER_MAX = 64
_GATHER_MAX_BYTES = 2 * 1024 * 1024


def _first_write(key: str, value: bytes, ttl_seconds: int, etag: str | None) -> Any:
    return common_v1.StateItem(
        key=key,
        value=value,
        etag=None if etag is None else common_v1.Etag(value=etag),
        options=_FIRST_WRITE,
        metadata={"ttlInSeconds": str(ttl_seconds)},
    )


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
        bounds = {"at_most": _GATHER_MAX, "at_most_bytes": _GATHER_MAX_BYTES}
        self._publishing = Gather(self._publish_gathered, len, **bounds)
        self._saving = Gather(self._save_gathered, lambda item: len(item.value), **bounds)

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
        await self._publishing.do((pubsub, topic), event)

    async def _publish_gathered(self, to: tuple[str, str], events: Sequence[bytes]) -> list[Exception | None]:
        pubsub, topic = to
        if len(events) > 1:
            landed = await self.publish_many(pubsub, topic, events)
            return [
                None if ok else Unavailable(f"sidecar: {topic}: the broker did not take the event") for ok in landed
            ]
        await self._call(
            "PublishEvent",
            api_v1.PublishEventRequest(pubsub_name=pubsub, topic=topic, data=events[0], data_content_type=CONTENT_TYPE),
        )
        return [None]

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
        await self._saving.do(store, _first_write(key, value, ttl_seconds, None))

    async def replace(self, store: str, key: str, value: bytes, etag: str, ttl_seconds: int) -> None:
        """First-write a key over exactly the version `etag`; Conflict if it has another by now."""
        await self._saving.do(store, _first_write(key, value, ttl_seconds, etag))

    async def _save_gathered(self, store: str, items: Sequence[Any]) -> list[Exception | None]:
        if len(items) > 1 and len({item.key for item in items}) == len(items):
            try:
                await self._call("SaveState", api_v1.SaveStateRequest(store_name=store, states=items))
                return [None] * len(items)
            except (Conflict, Unavailable):
                # Some were not written, and a sidecar does not say which: each tells for itself.
                return list(await asyncio.gather(*(self._save_again(store, item) for item in items)))
        return list(await asyncio.gather(*(self._save_one(store, item) for item in items)))

    async def _save_one(self, store: str, item: Any) -> Exception | None:
        try:
            await self._call("SaveState", api_v1.SaveStateRequest(store_name=store, states=[item]))
            return None
        except (Conflict, Unavailable) as error:
            if isinstance(error, Conflict) or item.HasField("etag"):
                return error
            # Redis answers "somebody was first" with the same internal error as any other failure to write.
            try:
                present = await self.read(store, item.key)
            except EnginehouseError as failure:
                return failure
            return error if present is None else Conflict(f"{store}: {item.key} exists")

    async def _save_again(self, store: str, item: Any) -> Exception | None:
        """After a failed write of several, in which this one may have been written."""
        error = await self._save_one(store, item)
        if not isinstance(error, Conflict):
            return error
        try:
            present = await self.read(store, item.key)
        except EnginehouseError as failure:
            return failure
        return None if present is not None and present.value == item.value else error

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
