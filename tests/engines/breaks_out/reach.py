"""Says which network interfaces and names a build sees."""

import json
import socket
import sys


def name() -> str:
    """Say whether a name is found."""
    try:
        return str(socket.getaddrinfo("example.com", 80))
    except OSError as error:
        return type(error).__name__


with open("/proc/net/route") as routes:
    json.dump(
        {"interfaces": [found for _, found in socket.if_nameindex()], "routes": routes.readlines()[1:], "name": name()},
        sys.stdout,
    )
