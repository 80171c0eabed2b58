"""Stand-ins for "the internet" and "the metadata address": listeners in a network namespace, which this machine reaches.

No packet leaves the machine. Needs root and Linux.
"""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.waiting import until

INTERNET, METADATA, PORT = "198.51.100.7", "169.254.169.254", 80
"""The first is an address of documentation (RFC 5737), which nobody has."""
_HOST, _NAME = "198.51.100.6", "eh-break-ins"
_ACCEPT = f"""
import socket
server = socket.create_server(("0.0.0.0", {PORT}))
while True:
    server.accept()[0].close()
"""


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True, timeout=30)


@contextmanager
def stand_ins() -> Iterator[list[str]]:
    """Let both addresses answer on port 80 for the length of the block, and return them."""
    with ExitStack() as stack:
        # What a run before this one has left behind, if that was killed.
        _ip("netns", "del", _NAME, check=False)
        _ip("netns", "add", _NAME)
        stack.callback(_ip, "netns", "del", _NAME)
        _ip("link", "add", _NAME, "type", "veth", "peer", "name", "inside", "netns", _NAME)
        _ip("addr", "add", f"{_HOST}/32", "dev", _NAME)
        _ip("link", "set", _NAME, "up")
        for address in (INTERNET, METADATA):
            _ip("-n", _NAME, "addr", "add", f"{address}/32", "dev", "inside")
        _ip("-n", _NAME, "link", "set", "inside", "up")
        _ip("-n", _NAME, "route", "add", "default", "dev", "inside")
        for address in (INTERNET, METADATA):
            # The route goes with its device.
            _ip("route", "add", f"{address}/32", "dev", _NAME)
        listener = subprocess.Popen(["ip", "netns", "exec", _NAME, sys.executable, "-c", _ACCEPT])
        stack.callback(listener.wait)
        stack.callback(listener.kill)
        for address in (INTERNET, METADATA):
            until(lambda address=address: _answers(address), f"{address} answers this machine")  # type: ignore[misc]
        yield [INTERNET, METADATA]


def _answers(address: str) -> bool:
    try:
        socket.create_connection((address, PORT), 2).close()
    except OSError:
        return False
    return True
