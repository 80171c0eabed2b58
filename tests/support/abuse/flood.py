"""A program: repeats the request that it reads from its input over many connections, without a pause, until that is closed.

It prints how many answers came, by status. It is a process of its own and parses next to nothing, so that the
processor's time goes to whoever has to answer.
"""

import json
import selectors
import socket
import sys
from collections import Counter


class _Connection:
    """One connection, which always has one request open."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self._address, self._request = address, request
        self._received = b""
        self.socket = self._open()

    def _open(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=20)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.sendall(self._request)
        self._received = b""
        return made

    def read(self) -> int | None:
        """Read what came. Return the status of an answer that is complete, and send the next request; 0 if it closed."""
        part = self.socket.recv(262_144)
        if not part:
            self.socket.close()
            self.socket = self._open()
            return 0
        self._received += part
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return None
        length = next(
            (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        if len(body) < length:
            return None
        self._received = b""
        self.socket.sendall(self._request)
        return int(head[9:12])


def main(host: str, port: str, connections: str) -> None:
    """Repeat the request until the input is closed."""
    size = int(sys.stdin.buffer.readline())
    request = sys.stdin.buffer.read(size)
    statuses: Counter[int] = Counter()
    waiting = selectors.DefaultSelector()
    waiting.register(sys.stdin, selectors.EVENT_READ)
    for _ in range(int(connections)):
        one = _Connection((host, int(port)), request)
        waiting.register(one.socket, selectors.EVENT_READ, one)
    while True:
        for key, _ in waiting.select(20):
            if key.data is None:
                print(json.dumps(statuses))
                return
            before = key.data.socket
            try:
                status = key.data.read()
            except OSError:
                status = 0
                before.close()
            if status is not None:
                statuses[status] += 1
            if key.data.socket is not before:
                waiting.unregister(before)
                waiting.register(key.data.socket, selectors.EVENT_READ, key.data)


if __name__ == "__main__":
    main(*sys.argv[1:])
