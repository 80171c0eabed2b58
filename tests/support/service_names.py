"""A resolver that knows a headless service, in place of the system's."""

import socket
from typing import Any


class Names:
    """What DNS says of the engine's service `host`. Everything else is looked up as ever."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.addresses: list[str] = []
        self.error: OSError | None = None
        self.asked = 0
        self._real = socket.getaddrinfo

    def getaddrinfo(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        """Answer as the system's resolver does."""
        if host != self._host:
            return self._real(host, port, *rest, **options)
        self.asked += 1
        if self.error:
            raise self.error
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.addresses
        ]
