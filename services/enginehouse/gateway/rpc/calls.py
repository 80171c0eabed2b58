"""The calls of `inference.GRPCInferenceService`: each translates messages, and does no more."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import DecodeError

from enginehouse import __version__
from enginehouse.contracts.cloud_event import valid_traceparent
from enginehouse.contracts.errors import Forbidden, InvalidHeader, RequestError
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.inference.infer import MAX_SECONDS
from enginehouse.gateway.inference.models import EXTENSIONS, SERVER_NAME
from enginehouse.gateway.inference.requests import Infer, model_of, read_rpc, write_rpc
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.open_inference.messages import MESSAGES

_MAX_KEY_LENGTH = 255
Release = Callable[[], None]
"""Ends the count of a message's bytes as bytes in hand, once the message is not needed any longer."""


class Calls:
    """What each call does."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.without_key: dict[str, Callable[[AsyncIterator[bytes], Any], Awaitable[bytes]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
        }
        """Calls that anybody may make. Their messages are empty, and are not read."""
        self.with_key: dict[str, Callable[[Caller, bytes, Any, Release], Awaitable[bytes]]] = {
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._refuse_loading,
            "RepositoryModelUnload": self._refuse_loading,
        }

    async def _live(self, _: AsyncIterator[bytes], context: Any) -> bytes:
        return _written("ServerLiveResponse", live=True)

    async def _ready(self, _: AsyncIterator[bytes], context: Any) -> bytes:
        return _written("ServerReadyResponse", ready=await self._gateway.is_ready())

    async def _server_metadata(self, _: AsyncIterator[bytes], context: Any) -> bytes:
        return _written("ServerMetadataResponse", name=SERVER_NAME, version=__version__, extensions=EXTENSIONS)

    async def _model_ready(self, caller: Caller, message: bytes, context: Any, release: Release) -> bytes:
        asked = _read("ModelReadyRequest", message)
        engine = self._gateway.models.find(asked.name, asked.version, caller)
        return _written("ModelReadyResponse", ready=await self._gateway.models.is_ready(engine))

    async def _model_metadata(self, caller: Caller, message: bytes, context: Any, release: Release) -> bytes:
        asked = _read("ModelMetadataRequest", message)
        shown = self._gateway.models.metadata(asked.name, self._gateway.models.find(asked.name, asked.version, caller))
        made = MESSAGES["ModelMetadataResponse"](name=shown.name, versions=shown.versions, platform=shown.platform)
        for part in ("inputs", "outputs"):
            for tensor in getattr(shown, part):
                getattr(made, part).add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"])
        return bytes(made.SerializeToString())

    async def _index(self, caller: Caller, message: bytes, context: Any, release: Release) -> bytes:
        asked = _read("RepositoryIndexRequest", message)
        made = MESSAGES["RepositoryIndexResponse"]()
        for entry in await self._gateway.models.index(caller, ready=asked.ready):
            made.models.add(**entry._asdict())
        return bytes(made.SerializeToString())

    async def _refuse_loading(self, caller: Caller, message: bytes, context: Any, release: Release) -> bytes:
        raise Forbidden(
            "Engines are neither loaded nor unloaded by a call: 'enginehouse engines deploy' and 'enginehouse engines "
            "remove' do that"
        )

    async def _infer(self, caller: Caller, message: bytes, context: Any, release: Release) -> bytes:
        gateway, metadata = self._gateway, dict(context.invocation_metadata() or ())
        key = _text(metadata, "idempotency-key")
        if key is not None and not 1 <= len(key) <= _MAX_KEY_LENGTH:
            raise InvalidHeader(f"idempotency-key must have 1 to {_MAX_KEY_LENGTH} characters here")
        name, version = await gateway.bodies.read(caller.name, model_of, message)
        engine = gateway.models.find(name, version, caller)
        asked: Infer = await gateway.inference.read(caller, engine, read_rpc, message)
        del message
        left = context.time_remaining()
        row = await gateway.inference.run(
            caller,
            engine,
            asked,
            seconds=MAX_SECONDS if left is None else min(max(left, 0.001), MAX_SECONDS),
            idempotency_key=key,
            traceparent=valid_traceparent(_text(metadata, "traceparent")),
        )
        asked = asked.without_input()
        release()  # So that the output's bytes are not counted beside those of the message.
        context.set_trailing_metadata((("enginehouse-job-id", row.id),))
        return await gateway.inference.write(caller, name, row, asked, write_rpc)


def _text(metadata: dict[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return value if isinstance(value, str) else None


def _read(name: str, message: bytes) -> Any:
    try:
        return MESSAGES[name].FromString(message)
    except DecodeError:
        raise RequestError(f"The message cannot be read as a {name}") from None


def _written(name: str, /, **fields: Any) -> bytes:
    return bytes(MESSAGES[name](**fields).SerializeToString())
