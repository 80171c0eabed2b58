"""Send commands to Redis: to judge what it refuses, and to delete streams and keys. It needs no client library."""

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

from enginehouse.broker.errors import BrokerError

T = TypeVar("T")

VALUE_MAX_BYTES = 8 * 1024 * 1024
"""Most bytes of a key or a value in our own Redis. An event of 4 MiB, the most that is read, fits, also as base64."""
LOG_ENTRIES = 32
"""Refused commands that our own Redis remembers. Each holds its whole key, which is as long as its sender likes."""
LOG_MAX_BYTES = 16 * 1024 * 1024
_WORD_MAX_BYTES = 200
_REFUSALS = re.compile(r"^acl_access_denied_\w+:(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Address of Redis, and the credentials of one of its users."""

    host: str
    port: int
    password: str = field(repr=False)
    user: str = ""
    """Empty: Redis' user `default`, its administrator."""

    def environment(self) -> dict[str, str]:
        """Return the variables that components read by `envRef`. Bundles hold no address and no secret."""
        username = {"ENGINEHOUSE_REDIS_USERNAME": self.user} if self.user else {}
        address = {"ENGINEHOUSE_REDIS_HOST": f"{self.host}:{self.port}"}
        return {**address, **username, "ENGINEHOUSE_REDIS_PASSWORD": self.password}

    def login(self) -> list[str]:
        """Return the command that logs in; empty if this Redis wants none."""
        return ["AUTH", *([self.user] if self.user else []), self.password] if self.password else []


_DELETE_PAGE = """
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', 1000)
for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
return redis.status_reply(page[1])
"""
"""Deletes a page of the keys that match, and answers where the next page begins; 0 after the last."""


_TRIM = """
local function parts(id)
  local ms, seq = string.match(id, '(%d+)-(%d+)')
  return tonumber(ms), tonumber(seq)
end
if redis.call('XLEN', KEYS[1]) == 0 then return redis.status_reply('empty') end
local least
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local found = {}
  for place = 1, #group, 2 do found[group[place]] = group[place + 1] end
  local ms, seq
  if found['pending'] > 0 then
    ms, seq = parts(redis.call('XPENDING', KEYS[1], found['name'])[2])
  else
    ms, seq = parts(found['last-delivered-id'])
    seq = seq + 1
  end
  if not least or ms < least[1] or (ms == least[1] and seq < least[2]) then least = {ms, seq} end
end
if least then redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', least[1], least[2])) end
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
return redis.status_reply(first and first[1] or 'empty')
"""
"""Deletes from a stream what all its groups have acknowledged, and answers with the id of the oldest entry that is left."""


def trim_acknowledged(address: RedisAddress, streams: Sequence[str]) -> dict[str, float]:
    """Delete from these streams all that is acknowledged. Raise BrokerError.

    Return the moment of the oldest entry that is left in each stream, in seconds since the epoch; no empty streams.
    """
    oldest = [answer.lstrip("+") for answer in commands(address, [["EVAL", _TRIM, "1", stream] for stream in streams])]
    return {
        stream: int(entry.partition("-")[0]) / 1000
        for stream, entry in zip(streams, oldest, strict=True)
        if entry != "empty"
    }


def forget_history(address: RedisAddress) -> None:
    """Make Redis write its append-only file anew, which holds deleted data until then. Raise BrokerError."""
    commands(address, [["BGREWRITEAOF"]])


def delete(address: RedisAddress, keys: Sequence[str], prefix: str = "") -> None:
    """Delete these keys, and all that begin with `prefix`, page by page: others go on meanwhile. Raise BrokerError."""
    commands(address, [["UNLINK", *keys]])
    if not prefix:
        return
    pattern = re.sub(r"([\\*?\[\]])", r"\\\1", prefix) + "*"
    cursor = "0"
    while (cursor := commands(address, [["EVAL", _DELETE_PAGE, "0", cursor, pattern]])[0].lstrip("+")) != "0":
        pass


def commands(address: RedisAddress, sent: Sequence[Sequence[str]]) -> list[str]:
    """Send commands that are answered with one line each, and return the lines. Raise BrokerError if one is refused."""
    lines = _lines(address, sent)
    if refused := next((line for line in lines if not line or line.startswith("-")), None):
        raise BrokerError(f"Redis refuses a command: {refused or 'no answer'}", "Its operator knows what is allowed.")
    return lines


def answer(address: RedisAddress, command: Sequence[str]) -> str:
    """Send a command that is answered with one line, and return it, a refusal too. Raise BrokerError."""
    return _lines(address, [command])[0]


def acl_log(address: RedisAddress) -> tuple[list[dict[str, str]], bool]:
    """Return the newest entries of ACL LOG, their texts cut short, and whether that is all of them. Raise BrokerError.

    No more than LOG_MAX_BYTES are read.
    """
    return _read(address, ["ACL", "LOG", str(LOG_ENTRIES)], _entries)


def refusals(address: RedisAddress) -> int | None:
    """Return how many commands and logins Redis has refused; None before Redis 7.2, which does not say. Raise BrokerError."""
    found = _REFUSALS.findall(_read(address, ["INFO", "stats"], lambda lines: _word(lines, LOG_MAX_BYTES)[0]))
    return sum(map(int, found)) if found else None


def _read(address: RedisAddress, command: Sequence[str], read: Callable[[BinaryIO], T]) -> T:
    """Send a command and return what `read` makes of its answer. Raise BrokerError."""
    login = address.login()
    try:
        with socket.create_connection((address.host, address.port), 5) as connection:
            connection.sendall(_encoded([*([login] if login else []), command]))
            with connection.makefile("rb") as lines:
                if login:
                    lines.readline()
                return read(lines)
    except (OSError, ValueError) as error:
        said = f"Redis does not answer {' '.join(command)}: {error}"
        raise BrokerError(said, "'enginehouse status' shows what runs.") from None


def _entries(lines: BinaryIO) -> tuple[list[dict[str, str]], bool]:
    head = lines.readline()
    if not head.startswith(b"*"):
        raise ValueError(head[:_WORD_MAX_BYTES].decode(errors="replace").strip() or "no answer")
    entries, left = list[dict[str, str]](), LOG_MAX_BYTES
    for _ in range(int(head[1:])):
        words = []
        for _ in range(int(lines.readline()[1:])):
            word, size = _word(lines)
            words.append(word)
            left -= size
            if left < 0:  # Its user decides how long they are, and is counted by the newest ones already.
                return entries, False
        entries.append(dict(zip(words[::2], words[1::2], strict=True)))
    return entries, True


def _word(lines: BinaryIO, max_bytes: int = _WORD_MAX_BYTES) -> tuple[str, int]:
    """Return the beginning of a number or text, and its size."""
    head = lines.readline(100)
    if not head.startswith(b"$"):
        return head[1:].decode(errors="replace").strip(), len(head)
    size = min(int(head[1:]) + 2, LOG_MAX_BYTES)
    return lines.read(size)[:-2][:max_bytes].decode(errors="replace"), size


def _lines(address: RedisAddress, sent: Sequence[Sequence[str]]) -> list[str]:
    """Log in and send the commands. Return a line for each, or for all the line that refuses the login."""
    login = address.login()
    try:
        lines = [line.decode(errors="replace") for line in _ask(address, [*([login] if login else []), *sent])]
    except OSError as error:
        raise BrokerError(f"Redis does not answer: {error}", "'enginehouse status' shows what runs.") from None
    if login and lines[0] != "+OK":
        return [lines[0]] * len(sent)
    return lines[-len(sent) :]


def _ask(address: RedisAddress, commands: Sequence[Sequence[str]], timeout_seconds: float = 5) -> list[bytes]:
    """Send commands that are answered with one line each, and return the lines."""
    with socket.create_connection((address.host, address.port), timeout_seconds) as connection:
        connection.sendall(_encoded(commands))
        with connection.makefile("rb") as lines:
            return [lines.readline().rstrip() for _ in commands]


def _encoded(commands: Sequence[Sequence[str]]) -> bytes:
    return "".join(
        f"*{len(command)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
        for command in commands
    ).encode()


def answers(address: RedisAddress, timeout_seconds: float = 1) -> bool:
    """Return whether Redis is up, has loaded its data and accepts the password."""
    login = " ".join(address.login())
    hello = f"{login}\r\nPING\r\n" if login else "PING\r\n"
    try:
        with socket.create_connection((address.host, address.port), timeout_seconds) as connection:
            connection.sendall(hello.encode())
            connection.settimeout(timeout_seconds)
            answer = b""
            while answer.count(b"\n") < hello.count("\n"):
                part = connection.recv(256)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    return answer.endswith(b"+PONG\r\n") and b"-" not in answer
