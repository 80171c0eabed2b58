"""The server's side of an HTTP connection: bounded in time and number, and strict about what a request's head is.

uvicorn's own protocol waits for a request for ever, keeps any number of connections, and adds the trailers of a chunked
body to the request's headers after they were checked.
"""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger()

_OPEN_FILES = 16_384
_MOST_CONNECTIONS = 4_096
_LOG_PAUSE_SECONDS = 60.0
_KEEPALIVE: Mapping[str, int] = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""The system asks a silent peer whether it is still there: one that vanished without a word is gone after two minutes."""
_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def allow_open_files() -> None:
    """Let this process have more open files than the cautious default, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _default_connections() -> int:
    """Return a third of the open files that this process may have: it needs the others for its own work."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(min(soft // 3, _MOST_CONNECTIONS), 16)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a server bears from its peers."""

    head_seconds: float = 20.0
    """Time for a request's line and headers: from the connection, or from the first byte of a later request."""
    body_seconds: float = 30.0
    """In each such time, at least `body_bytes` of a body that is being read must arrive."""
    body_bytes: int = 8 * 1024
    write_seconds: float = 60.0
    """Time for a peer to take what waits for it: a reader that stands still for longer loses its connection."""
    connections: int = field(default_factory=_default_connections)
    """Most connections at a time. One more takes the place of the one that has waited longest without a request."""


class StrictProtocol(HttpToolsProtocol):
    """Reads requests within the limits. `limits` is set by a subclass for each server."""

    limits: ConnectionLimits
    _full_logged_at = float("-inf")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._check_seconds = min(self.limits.head_seconds, self.limits.body_seconds, self.limits.write_seconds) / 8
        self._checking: asyncio.TimerHandle | None = None
        self._was_overdue = False
        self._idle_since = self.loop.time()
        self._head_since: float | None = None
        self._window_since: float | None = None
        """The beginning of the span in which enough of a body must arrive; None while no body is being read."""
        self._window_bytes = 0
        self._stuck_since: float | None = None
        """Since when the peer takes nothing of an answer, or has not let the connection close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it if the server has no room."""
        self.transport = transport
        if len(self.connections) >= self.limits.connections and not self._displace():
            transport.abort()
            return
        super().connection_made(transport)
        self._head_since = self._idle_since
        _ask_for_signs_of_life(transport)
        self._checking = self.loop.call_later(self._check_seconds, self._check)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._checking:
            self._checking.cancel()
        super().connection_lost(exc)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _displace(self) -> bool:
        """End the connection that has waited longest without a request; return False if all have one."""
        if self.loop.time() - StrictProtocol._full_logged_at > _LOG_PAUSE_SECONDS:
            StrictProtocol._full_logged_at = self.loop.time()
            log.warning(
                f"All {self.limits.connections} connections are taken; new ones displace those without a request",
                action="connections_full",
            )
        idle = [other for other in self.connections if isinstance(other, StrictProtocol) and other._is_idle()]
        if not idle:
            return False
        longest = min(idle, key=lambda other: other._idle_since)
        self.connections.discard(longest)
        longest.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        """Read on, and note that something came."""
        self._window_bytes += len(data)
        super().data_received(data)
        if self._head_since is None and self._window_since is None and self._is_idle():
            # Bytes that begin no request, such as empty lines, have ended uvicorn's wait for the next one.
            self._head_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        if self._head_since is None:
            self._head_since = self.loop.time()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note a header. Trailers come by this way as well, and are dropped: nobody has checked them."""
        if self._window_since is None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Refuse a body whose end other servers could see elsewhere; otherwise begin the request."""
        codings = [value for name, value in self.headers if name == b"transfer-encoding"]
        if codings:
            if codings[0].strip().lower() != b"chunked" or len(codings) > 1:
                raise httptools.HttpParserError("the only transfer coding is chunked")
            if any(name == b"content-length" for name, _ in self.headers):
                raise httptools.HttpParserError("Transfer-Encoding and Content-Length exclude each other")
            if self.parser.get_http_version() != "1.1":
                raise httptools.HttpParserError("HTTP/1.0 has no Transfer-Encoding")
        self._head_since = None
        self._window_since, self._window_bytes = self.loop.time(), 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request's body."""
        self._window_since = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """Log nothing: strangers would write the log."""

    def pause_writing(self) -> None:
        """Note that the peer does not keep up."""
        self._stuck_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the peer has caught up."""
        self._stuck_since = None
        super().resume_writing()

    def _check(self) -> None:
        """End the connection if it was overdue at two checks in a row.

        One is not enough: after a pause of the whole process, the bytes that came meanwhile are still to be read.
        """
        now = self.loop.time()
        overdue = self._is_overdue(now)
        if overdue and self._was_overdue:
            waits_for_head = self._head_since is not None and self._is_idle() and not self.transport.is_closing()
            if waits_for_head:
                self.transport.write(_TIMED_OUT)
                self.transport.close()
            else:
                self.transport.abort()
                return
        self._was_overdue = overdue
        self._checking = self.loop.call_later(self._check_seconds, self._check)

    def _is_overdue(self, now: float) -> bool:
        if self.transport.is_closing() and self._stuck_since is None:
            self._stuck_since = now
        if self._stuck_since is not None and now - self._stuck_since > self.limits.write_seconds:
            return True
        if self.flow.read_paused:
            # The server itself does not read now.
            self._window_since = None if self._window_since is None else now
            self._window_bytes = 0
            return False
        if self._head_since is not None and now - self._head_since > self.limits.head_seconds:
            return True
        if self._window_since is None or now - self._window_since < self.limits.body_seconds:
            return False
        if self._window_bytes < self.limits.body_bytes:
            return True
        self._window_since, self._window_bytes = now, 0
        return False


def _ask_for_signs_of_life(transport: asyncio.Transport) -> None:
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if option := getattr(socket, name, None):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
