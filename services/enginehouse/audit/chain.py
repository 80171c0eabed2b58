"""One writer's chain of entries: files of lines that are only appended to, and deleted whole when they are oldest."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from enginehouse.contracts.audit import (
    FIRST_PREVIOUS,
    LINE_MAX_BYTES,
    WRITER,
    AuditEntry,
    Head,
    InvalidLine,
    deletion,
    read_line,
    write_line,
)
from enginehouse.contracts.errors import EnginehouseError, Unavailable

SEGMENT_MAX_BYTES = 8 * 1024 * 1024
"""Size from which the next file is begun."""
_CHAINS_MAX = 64
_SEGMENTS = 8
"""A chain may have this many files at least, so that deleting the oldest one leaves most of it."""


class ChainTaken(EnginehouseError):
    """Another process writes the chain."""

    code = "AUDIT_CHAIN_TAKEN"


class ChainDamaged(EnginehouseError):
    """The end of the chain is not what its writer wrote."""

    code = "AUDIT_CHAIN_DAMAGED"
    retryable = False
    advice = "'enginehouse audit verify' says which entry is wrong."


def segment_name(first: int) -> str:
    """Return the name of the file whose first entry has that number. Names sort as their numbers do."""
    return f"{first:018}.jsonl"


def segments(chain: Path) -> list[tuple[int, Path]]:
    """Return the files of a chain with the number of the first entry of each, oldest first."""
    named = [path for path in chain.glob("*.jsonl") if path.stem.isdigit()]
    return sorted((int(path.stem), path) for path in named)


def chains(folder: Path) -> list[Path]:
    """Return the folders of all chains below the folder of an audit log."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if WRITER.fullmatch(path.name) and path.is_dir())


class Chain:
    """A chain that this process writes; nobody else can at the same time. Raise OSError where the disk refuses."""

    def __init__(self, folder: Path, name: str, *, max_bytes: int, wait: bool = False) -> None:
        """Go on with the chain, or begin it. Its files have `max_bytes` in all, or a little more for a moment.

        Raise ChainTaken while another process writes it, unless this may `wait`; ChainDamaged if its end is not whole.
        """
        self.name = name
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._source = f"/audit/{_host()}/{name}"
        self._max_bytes = max_bytes
        self._segment_bytes = min(SEGMENT_MAX_BYTES, max(max_bytes // _SEGMENTS, LINE_MAX_BYTES))
        self._number, self._hash, self._size, self._file = 0, FIRST_PREVIOUS, 0, -1
        self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self._take(wait)
            self._go_on()
        except BaseException:
            self.close()
            raise

    @property
    def head(self) -> Head:
        """The last entry."""
        return Head(self.name, self._number, self._hash)

    def append(self, entries: Iterable[AuditEntry]) -> None:
        """Write entries and wait until they are on the disk. Either all are written, or OSError is raised and none is."""
        number, previous = self._number, self._hash
        lines = []
        for entry in entries:
            number += 1
            line, previous = write_line(entry, self._source, number, previous)
            lines.append(line)
        content = b"".join(lines)
        try:
            _write_all(self._file, content)
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise
        self._number, self._hash, self._size = number, previous, self._size + len(content)
        if self._size >= self._segment_bytes:
            with contextlib.suppress(OSError):  # The entries are written; the next ones try it again.
                self._begin_segment()
                self._delete_oldest()

    def close(self) -> None:
        """Let another process write the chain."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def _take(self, wait: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise ChainTaken(f"Another process writes {self._folder}") from None

    def _go_on(self) -> None:
        for first, path in reversed(segments(self._folder)):
            if last := _mended_tail(path):
                try:
                    found = read_line(last)
                except InvalidLine as error:
                    raise ChainDamaged(f"The last entry in {path} cannot be continued: {error}") from None
                self._number, self._hash = found.number, found.hash
                self._open(path)
                return
            path.unlink()  # A file that was begun, and that a killed writer wrote no whole line to.
            self._number = first - 1
        if self._number:
            raise ChainDamaged(f"{self._folder} has lost its files")
        self._begin_segment()

    def _open(self, path: Path) -> None:
        opened = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size = opened, os.fstat(opened).st_size

    def _begin_segment(self) -> None:
        self._open(self._folder / segment_name(self._number + 1))

    def _delete_oldest(self) -> None:
        """Delete the oldest files beyond the limit, after an entry that says so."""
        files = segments(self._folder)
        total, surplus = sum(path.stat().st_size for _, path in files), []
        for _, path in files[:-1]:
            if total <= self._max_bytes - self._segment_bytes:
                break
            total -= path.stat().st_size
            surplus.append(path)
        if surplus:
            through = files[len(surplus)][0] - 1
            self.append([deletion(time.time(), through)])
            for path in surplus:
                path.unlink(missing_ok=True)


def open_chain(
    folder: Path, name: str, *, max_bytes: int, told: Callable[[ChainDamaged], None], wait: bool = False
) -> Chain:
    """Go on with the chain `name`, or with `name-2`, … where other processes write those before it, or they are damaged.

    `told` is told of each damaged one. With `wait`, wait for another process to let go of a chain. Raise Unavailable if
    all are taken or damaged.
    """
    for number in range(1, _CHAINS_MAX + 1):
        try:
            return Chain(folder, name if number == 1 else f"{name}-{number}", max_bytes=max_bytes, wait=wait)
        except ChainTaken:
            continue
        except ChainDamaged as error:
            told(error)
    raise Unavailable(f"All {_CHAINS_MAX} chains of {name} in {folder} are taken or damaged")


def _host() -> str:
    """Return this machine's name, with nothing in it that JSON would escape."""
    return "".join(
        letter for letter in socket.gethostname() if letter.isascii() and (letter.isalnum() or letter in ".-")
    )


def _write_all(descriptor: int, content: bytes) -> None:
    rest: Sequence[int] | memoryview = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]  # type: ignore[arg-type]


def _mended_tail(path: Path) -> bytes:
    """Return the last line of a file; a line that a killed writer has not ended is cut off. Empty if none is left."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(size - 4 * LINE_MAX_BYTES, 0)
        file.seek(start)
        tail = file.read()
        end = tail.rfind(b"\n") + 1
        if end < len(tail):
            file.truncate(start + end)
    return tail[:end].rstrip(b"\n").rpartition(b"\n")[2]
