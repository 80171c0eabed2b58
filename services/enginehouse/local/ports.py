"""Reserve ports on 127.0.0.1, so that stacks that start at the same moment share none."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from enginehouse.local.errors import LocalError

LOWEST, HIGHEST = 11_000, 31_999
"""Below 32768: from there on the kernel gives ports to outgoing connections, which could take a reserved one."""


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"enginehouse-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether nothing listens on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


class PortPool:
    """Reserves ports. While this pool is open, no other pool on this machine hands out the same port.

    A port is held by a lock on a file with its number; the kernel releases the lock when this process dies. Holding the
    socket itself is not possible: the child that will listen must be able to bind, and to bind again after a crash.
    """

    def __init__(self) -> None:
        self._locks: dict[int, int] = {}

    def take(self, preferred: int | None = None) -> int:
        """Return the preferred port if it is free, else any that is, reserved until `release` or `close`."""
        if preferred is not None and preferred not in self._locks and self._lock(preferred):
            return preferred
        for port in random.sample(range(LOWEST, HIGHEST + 1), 2_000):
            if port not in self._locks and self._lock(port):
                return port
        raise LocalError(f"no free port between {LOWEST} and {HIGHEST} on 127.0.0.1", "Stop programs that hold them.")

    def release(self, *ports: int) -> None:
        """Release these ports."""
        for port in ports:
            descriptor = self._locks.pop(port, None)
            if descriptor is not None:
                os.close(descriptor)

    def close(self) -> None:
        """Release every port."""
        self.release(*list(self._locks))

    def _lock(self, port: int) -> bool:
        descriptor = os.open(_folder() / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        if not is_free(port):
            os.close(descriptor)
            return False
        self._locks[port] = descriptor
        return True
