"""Calls of an engine's extra endpoints: which paths, which headers, how large, and where its runner takes them."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pydantic import Field

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.text import control_character

CALL_BODY_MAX_BYTES = 1024 * 1024
CALL_ANSWER_MAX_BYTES = 8 * 1024 * 1024
CALL_SECONDS = 30.0
"""Time in which an engine must have answered."""
CALL_HEAD_MAX_BYTES = 3 * 1024
"""Path, query and headers together: a sidecar takes 4 KiB."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

CALL_PREFIX = "call/one"
"""Path of a runner's listener for the gateway, without the slash before it: a path of the engine follows."""
EVERY_PREFIX = "call/every"
"""The same for every replica of a worker at once: `info` or `update` follows, and the answer is a WorkerAnswer."""
BROADCAST_PARAMETER = "broadcast"
"""Query parameter with the id of a broadcast. A worker sends an update to its replicas once, however often it arrives."""
BROADCAST_SECONDS = 90.0
"""Time of a broadcast to all engines together."""
REPLICA_ANSWER_MAX_BYTES = 16 * 1024
"""Most bytes of one replica's answer to what is sent to every replica."""
ANSWERED_BY = "X-Enginehouse-Answer"
"""Header of every answer of a runner to the gateway: `engine` or `runner`. A sidecar's own errors have none."""

PROOF_HEADER = "X-Enginehouse-Proof"
"""Header of every call of a gateway to a runner: shows by the engine's proof key that it is a gateway's."""


class ReplicaAnswer(WireModel):
    """What one replica answered."""

    replica: str
    status: int | None = Field(None, description="The replica's own status. None: it gave no answer.")
    body: Any = Field(None, description="The replica's own answer: JSON, or text.")
    problem: str | None = Field(None, description="Why it gave no answer.")


class WorkerAnswer(WireModel):
    """What a worker answers to a broadcast."""

    worker: str
    replicas: list[ReplicaAnswer] | None = Field(
        description="None: it is asking its replicas, because it got the same broadcast before."
    )


_PLAIN = "/!$&'()*+,:=@~"
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_FORBIDDEN = re.compile(r"[%\\?#;]")

_NEVER_SENT = frozenset(
    "authorization cookie cookie2 host content-length expect forwarded via x-real-ip"  # Whose the call is, and whence.
    " connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding upgrade"
    " accept-encoding user-agent".split()
)
_NEVER_SENT_PREFIXES = ("dapr-", "grpc-", "x-enginehouse-", "x-forwarded-")
_ANSWERED = frozenset(
    "accept-ranges allow content-disposition content-encoding content-language content-range content-type etag"
    " last-modified retry-after vary".split()
)


def check_call_path(raw: str) -> str:
    """Return the decoded path of a call of an extra endpoint, without a slash before it. `raw` is percent-encoded.

    Raise RequestError for a path that two parts on its way could read in two ways, and for those of jobs and health.
    """
    if _LONE_PERCENT.search(raw):
        raise RequestError("The path has a '%' without two hexadecimal digits; write the character '%' as %25")
    if "%2f" in raw.lower():
        raise RequestError("The path has an encoded slash; a segment of it must not contain one")
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise RequestError("The path is not UTF-8 when its percent signs are decoded") from None
    forbidden = _FORBIDDEN.search(path)
    if found := control_character(path) or (forbidden and forbidden[0]):
        raise RequestError(
            f"The path has {found} once it is decoded: it may contain no control character and none of % \\ ? # ;"
        )
    segments = path.split("/")
    if path and not all(segments):
        raise RequestError("The path has an empty segment, or a slash at its end; name each segment")
    if "." in segments or ".." in segments:
        raise RequestError("The path has a segment '.' or '..'; name the endpoint by its own path")
    if segments[0].lower() == "predict":
        raise RequestError("/predict is not called directly: POST /v1/engines/{engine}/jobs submits a job")
    if path.lower() == "healthz":
        raise RequestError("/healthz is not called directly: GET /v1/engines/{engine} shows the engine's health")
    return path


def encoded_path(path: str) -> str:
    """Return a path that `check_call_path` returned, percent-encoded and with a slash before it."""
    return "/" + quote(path, safe=_PLAIN)


def request_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers that an engine may see: no credentials, none of the platform, none for one connection only."""
    given = [(name.lower(), value) for name, value in headers]
    nominated = {part.strip().lower() for name, value in given if name == "connection" for part in value.split(",")}
    return [
        (name, value)
        for name, value in given
        if name not in _NEVER_SENT and name not in nominated and not name.startswith(_NEVER_SENT_PREFIXES)
    ]


def answer_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers of an engine's answer that a caller gets: those that describe its body or the resource.

    The rest could act on the gateway's origin (cookies, redirects, `Clear-Site-Data`) or on a proxy (`X-Accel-Redirect`,
    `Cache-Control: public`).
    """
    return [(name.lower(), value) for name, value in headers if name.lower() in _ANSWERED]
