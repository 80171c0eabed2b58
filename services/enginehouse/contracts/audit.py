"""The audit log's entries: what one says, how it is written as a line, and the hash that chains it to the one before.

A line is a CloudEvent in JSON, so that whatever ships log files can ship these as events. Its last attribute, `hash`, is
the SHA-256 of all bytes of the line before it; `previoushash` is among these. So the bytes as they are written are the
canonical form: nothing is serialised again to be checked.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import pydantic_core
from pydantic import TypeAdapter, ValidationError

ENTRY_TYPE = "dev.enginehouse.audit.entry.v1"
FIRST_PREVIOUS = "0" * 64
"""The `previoushash` of a chain's first entry."""
LINE_MAX_BYTES = 8 * 1024
"""No line is longer: every text in an entry is bounded."""
DETAIL_MAX_CHARS = 300
AUDIT_MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Default limit of each chain: about four million entries, two for a job."""

STARTED, STOPPED = "started", "stopped"
"""Actions of the writer itself. A start without a stop before it: the process was killed, or the machine lost power."""
LOST = "entries lost"
"""Action of an entry that stands for entries that could not be written; `times` says how many."""
DELETED = "entries deleted"
"""Action of an entry that says up to which number retention deletes the oldest ones."""
REFUSED = "refused calls"
"""Action of an entry that stands for many refused calls of one sender; `times` says how many."""
JOB_ENDED = "job ended"
DISCONNECTED = "DISCONNECTED"
"""Outcome of a call whose caller left before the answer."""

_HEAD = re.compile(rb'\{"time":"([0-9T:.-]{23})Z","specversion":"1\.0"')
_TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_TAIL_LENGTH = len(',"hash":""}') + 64
_THROUGH = re.compile(r"through (\d{1,18})")


class AuditEntry(NamedTuple):
    """One call, one administrative act, or the end of one job. Holds no payload and no secret."""

    at: float
    """When it was over, in seconds since the epoch: a call that took `ms` began so long before."""
    action: str
    """Method and route (`POST /v1/jobs/{job_id}/cancel`), command (`enginehouse tenant revoke`), or what a part did."""
    outcome: str = "ok"
    """`ok`, the code of the problem, or the final status of a job."""
    by: str | None = None
    """Tenant of the key that was shown. None: no key, or a command of this machine."""
    key: str | None = None
    """Id of that key: its first characters, as `enginehouse tenant list` shows it."""
    user: str | None = None
    """User of the machine who gave the command."""
    tenant: str | None = None
    """Tenant whom it concerns, who may read the entry as well."""
    engine: str | None = None
    version: str | None = None
    """Version of the engine that worked on the job."""
    job: str | None = None
    status: int | None = None
    """HTTP status of the answer."""
    ms: float | None = None
    """How long it took, in milliseconds; for the end of a job, since it was accepted."""
    request_id: str | None = None
    """`X-Request-Id` of the answer, which the logs have as well."""
    times: int = 1
    """How many of its kind the entry stands for."""
    detail: str | None = None
    """What an administrative act changed, by names only."""


@dataclass(frozen=True, slots=True)
class ChainedEntry:
    """An entry with its place in the chain of its writer."""

    writer: str
    """Name of the chain: `gateway`, `gateway-2`, `registry`, `supervisor`, `commands`."""
    number: int
    previous: str
    hash: str
    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain at some moment. Kept elsewhere, it shows whether entries were cut off or rewritten."""

    writer: str
    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.writer}:{self.number}:{self.hash}"


class InvalidLine(ValueError):
    """A line that is no entry, or no longer the one that was written."""


_ENTRY: TypeAdapter[AuditEntry] = TypeAdapter(AuditEntry)
WRITER = re.compile(r"[a-z][a-z0-9-]{0,40}")
"""Names of chains."""
HEAD_PATTERN = re.compile(r"\b([a-z][a-z0-9-]{0,40}):(\d{1,18}):([0-9a-f]{64})\b")


def heads_in(text: str) -> list[Head]:
    """Return all heads that a text names, such as a log."""
    return [Head(writer, int(number), digest) for writer, number, digest in HEAD_PATTERN.findall(text)]


def stamp_of(at: float) -> str:
    """Write a moment as all lines do: UTC, in milliseconds, always of the same length."""
    second, ms = divmod(int(at * 1_000), 1_000)
    return f"{_second(second)}.{ms:03}Z"


@lru_cache(maxsize=16)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()[:19]


def write_line(entry: AuditEntry, source: str, number: int, previous: str) -> tuple[bytes, str]:
    """Write an entry as the line of that number, and return the line and its hash."""
    data = {name: value for name, value in zip(AuditEntry._fields, entry, strict=True) if value is not None}
    content = (
        f'{{"time":"{stamp_of(entry.at)}","specversion":"1.0","type":"{ENTRY_TYPE}","source":"{source}",'
        f'"id":"{number}","previoushash":"{previous}","data":'
    ).encode() + pydantic_core.to_json(data)
    digest = hashlib.sha256(content).hexdigest()
    return b'%b,"hash":"%b"}\n' % (content, digest.encode()), digest


def time_in(line: bytes) -> bytes:
    """Return the moment at which a line begins, to put lines in order without reading them whole."""
    return line[9:32]


def read_line(line: bytes) -> ChainedEntry:
    """Read a line without its newline; raise InvalidLine if its hash does not fit or it is no entry."""
    found = _TAIL.fullmatch(line, len(line) - _TAIL_LENGTH) if len(line) > _TAIL_LENGTH else None
    if found is None or not _HEAD.match(line):
        raise InvalidLine("the line is not an entry")
    if hashlib.sha256(line[:-_TAIL_LENGTH]).hexdigest().encode() != found[1]:
        raise InvalidLine("its hash does not fit its content")
    try:
        read: dict[str, Any] = pydantic_core.from_json(line)
        writer = str(read["source"]).rpartition("/")[2]
        # A newer version may have written more fields.
        known = {name: value for name, value in read["data"].items() if name in AuditEntry._fields}
        return ChainedEntry(writer, int(read["id"]), read["previoushash"], read["hash"], _ENTRY.validate_python(known))
    except (AttributeError, KeyError, TypeError, ValueError, ValidationError):
        raise InvalidLine("the line is not an entry") from None


def deleted_through(entry: AuditEntry) -> int:
    """Return the number up to which an entry says that retention deleted entries; 0 for any other entry."""
    found = _THROUGH.fullmatch(entry.detail or "") if entry.action == DELETED else None
    return int(found[1]) if found else 0


def deletion(at: float, through: int) -> AuditEntry:
    """Return the entry that says up to which number retention deletes entries."""
    return AuditEntry(at, DELETED, detail=f"through {through}")
