"""Gives each process and each event loop HTTP connections of its own."""

import os
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable
from socket import socket
from typing import Any, Generic, TypeVar

import httpx2

Http = TypeVar("Http")


class Connections(Generic[Http]):
    """The HTTP clients of one transport, each made by `connect` when a process or an event loop first needs it.

    Two processes that share a connection get each other's answers. So a forked child leaves the connections that it
    inherited to its parent, and opens its own.
    """

    def __init__(self, connect: Callable[[], Http]) -> None:
        self._connect = connect
        self._by_loop: dict[AbstractEventLoop | None, Http] = {}
        self._sockets = weakref.WeakSet[socket]()
        _ALL.add(self)

    def of(self, loop: AbstractEventLoop | None) -> Http:
        """Return the HTTP client of an event loop; None: the one of all threads of this process."""
        return self._by_loop.get(loop) or self._open(loop)

    def _open(self, loop: AbstractEventLoop | None) -> Http:
        for other in list(self._by_loop):
            if other is not None and other.is_closed():
                # The connections of a loop that is closed can neither be used nor closed any more.
                self._by_loop.pop(other, None)
        return self._by_loop.setdefault(loop, self._connect())

    def take(self, loop: AbstractEventLoop | None) -> Http | None:
        """Return the HTTP client of an event loop to the caller, who closes it. The next call of `of` opens another."""
        return self._by_loop.pop(loop, None)

    def note(self, answer: httpx2.Response) -> None:
        """Remember the socket that an answer came through."""
        stream = answer.extensions.get("network_stream")
        found = stream.get_extra_info("socket") if stream else None
        # An event loop shows a stand-in of its socket, which nobody else may close.
        if isinstance(found, socket):
            self._sockets.add(found)

    def leave_to_parent(self) -> None:
        """Forget the connections that this forked child has inherited. The server and the parent do not notice."""
        # Kept, because the finalizers of an event loop would act on what the parent uses.
        _INHERITED.append(self._by_loop)
        self._by_loop = {}
        for inherited in list(self._sockets):
            # This closes the child's descriptor and sends nothing, not even over TLS. An open descriptor would keep
            # the connection up when the parent closes it.
            inherited.close()
        self._sockets.clear()


_ALL = weakref.WeakSet[Connections[Any]]()
_INHERITED: list[dict[AbstractEventLoop | None, Any]] = []


def _leave_all_to_parent() -> None:
    for connections in list(_ALL):
        connections.leave_to_parent()


if hasattr(os, "register_at_fork"):  # Windows has no fork.
    os.register_at_fork(after_in_child=_leave_all_to_parent)
