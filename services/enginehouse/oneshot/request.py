"""The head of a request in HTTP/1.1, as far as whoever passes it on must know it."""

import asyncio
import re
from dataclasses import dataclass

HEAD_MAX_BYTES = 64 * 1024
_CANCEL = re.compile(rb"POST /predict/[^/?# ]+/cancel HTTP/1\.[01]")
_OF_ONE_CONNECTION = (b"connection", b"keep-alive", b"proxy-connection")


class Malformed(Exception):
    """It is no request that can be passed on."""


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before the body of a request."""

    method: bytes
    lines: tuple[bytes, ...]
    """The request line, and the headers without those that are about the connection."""
    length: int
    """Bytes of the body."""

    @property
    def only_asks(self) -> bool:
        """Say whether the request is no call: it brings nothing, and begins no work."""
        return self.method in (b"GET", b"HEAD")

    @property
    def cancels(self) -> bool:
        """Say whether the request tells the engine that nobody waits for its job any more. It brings nothing either."""
        return not self.length and _CANCEL.fullmatch(self.lines[0]) is not None

    @property
    def to_pass_on(self) -> bytes:
        """Return the head for a connection of its own, which ends with the answer."""
        return b"\r\n".join([*self.lines, b"Connection: close", b"", b""])


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Read the head of a request. Raise Malformed, or an error of the connection (EOFError, OSError)."""
    try:
        text = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise Malformed(f"its head has more than {HEAD_MAX_BYTES} bytes") from None
    first, *headers = text[:-4].split(b"\r\n")
    method, _, rest = first.partition(b" ")
    if not method.isalpha() or not rest.endswith((b" HTTP/1.1", b" HTTP/1.0")):
        raise Malformed("its first line is none of HTTP/1.1")
    kept, length = [first], 0
    for line in headers:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name != name.strip() or name == b"transfer-encoding":
            raise Malformed("its body must come with a Content-Length" if colon else "a header has no name")
        if name == b"content-length":
            if not value.strip().isdigit():
                raise Malformed("its Content-Length is no number")
            length = int(value)
        if name not in _OF_ONE_CONNECTION:
            kept.append(line)
    head = Head(method, tuple(kept), length)
    if head.only_asks and length:
        raise Malformed("it asks, and has a body")
    return head
