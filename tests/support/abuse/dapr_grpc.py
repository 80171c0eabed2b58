"""Calls Dapr's gRPC API with the few messages that attempts need, without a package of generated code."""

from collections.abc import Callable
from typing import Any

import grpc

Fields = dict[int, "int | str | bytes | Fields"]
"""A message of protobuf: the number of each field, and its number, text, bytes or message."""


def message(fields: Fields) -> bytes:
    """Write a message."""
    parts = []
    for number, value in fields.items():
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(value))
            continue
        body = value.encode() if isinstance(value, str) else message(value) if isinstance(value, dict) else value
        parts.append(_varint(number << 3 | 2) + _varint(len(body)) + body)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


_PREFIX = "/dapr.proto.runtime.v1.Dapr/"


def call(port: int, token: str | None, method: str, fields: Fields) -> tuple[str, bytes]:
    """Make a call. Return the name of its status, and the answer's bytes or what was wrong."""
    metadata = (("dapr-api-token", token),) if token else ()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        make: Any = channel.unary_unary(_PREFIX + method)
        return _answer(lambda: make(message(fields), metadata=metadata, timeout=10))


_V1, _GET, _POST = 1, 1, 3
"""Numbers of Dapr's: the version of its messages, and the verbs of HTTP."""


def call_as_sidecar(port: int, path: str, body: bytes | None = None, caller: str | None = None) -> tuple[str, bytes]:
    """Call an app by the port between sidecars, as a sidecar does that names `caller` or nobody: POST `body`, else GET.

    Return the name of the call's status, and the bytes with the app's answer or what was wrong.
    """
    verb = _GET if body is None else _POST
    named: Fields = {2: {1: "dapr-caller-app-id", 2: {1: caller}}} if caller else {}
    invoked: Fields = {1: path, 2: {2: body or b""}, 3: "application/json", 4: {1: verb}}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        make: Any = channel.unary_unary("/dapr.proto.internals.v1.ServiceInvocation/CallLocal")
        return _answer(lambda: make(message({1: _V1, **named, 3: invoked}), timeout=10))


def subscribe(port: int, token: str, component: str, topic: str) -> tuple[str, bytes]:
    """Subscribe to a topic by a stream. Return `OK` and the first answer, or the status and what was wrong."""
    first = message({1: {1: component, 2: topic}})
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        make: Any = channel.stream_stream(f"{_PREFIX}SubscribeTopicEventsAlpha1")
        return _answer(lambda: next(make(iter([first]), metadata=(("dapr-api-token", token),), timeout=10)))


def _answer(make: Callable[[], bytes]) -> tuple[str, bytes]:
    try:
        return "OK", make()
    except grpc.RpcError as error:
        return error.code().name, str(error.details()).encode()
