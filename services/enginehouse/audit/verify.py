"""Checks the chains of an audit log: whether each entry is what was written, in its place, and none is missing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.audit.chain import chains, segments
from enginehouse.contracts.audit import (
    FIRST_PREVIOUS,
    ChainedEntry,
    Head,
    InvalidLine,
    deleted_through,
    read_line,
)

_FAULTS_MAX = 20
"""Faults of one chain that are told. Further ones are mostly consequences."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One place at which a chain is not what was written."""

    writer: str
    number: int
    """Number of the entry that is wrong, or of the first one that is missing."""
    what: str
    meaning: str


@dataclass(slots=True)
class Checked:
    """The result for one chain."""

    writer: str
    first: int = 0
    """Number of the oldest entry that is left; 0 if there is none."""
    head: Head | None = None
    entries: int = 0
    faults: list[Fault] = field(default_factory=list)
    unfinished: bool = False
    """Whether the last line has no end: its writer is writing it, or was killed. The next start cuts it off."""

    def fault(self, number: int, what: str, meaning: str) -> None:
        """Add a fault."""
        if len(self.faults) < _FAULTS_MAX:
            self.faults.append(Fault(self.writer, number, what, meaning))


def verify(
    folder: Path, heads: Sequence[Head] = (), progress: Callable[[int, int], None] | None = None
) -> list[Checked]:
    """Check all chains below a folder, and that they still have the entries that `heads` name.

    `progress` is called with the bytes that were checked, and those that there are.
    """
    found = chains(folder)
    size = sum(path.stat().st_size for chain in found for _, path in segments(chain))
    done = 0

    def advanced(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, max(size, done))

    checked = [_ChainCheck(chain.name, heads).of_files(chain, advanced) for chain in found]
    return [*checked, *_missing(checked, heads)]


def verify_events(events: Iterable[bytes], heads: Sequence[Head] = ()) -> list[Checked]:
    """Check entries that were shipped: events in any order, each as often as it arrived, from any entry of a chain on.

    Raise InvalidLine, with the place of the event among all, for one that is no entry, or not what was written.
    """
    by_chain: dict[str, dict[bytes, int]] = {}
    for place, event in enumerate(events, 1):
        try:
            found = read_line(event)
        except InvalidLine as error:
            raise InvalidLine(f"event {place}: {error}") from None
        by_chain.setdefault(found.writer, {})[event] = found.number
    checked = [
        _ChainCheck(name, heads).of_events(sorted(numbers, key=lambda event: numbers[event]))
        for name, numbers in sorted(by_chain.items())
    ]
    return [*checked, *_missing(checked, heads)]


def _missing(checked: Iterable[Checked], heads: Iterable[Head]) -> list[Checked]:
    """Return the chains that `heads` name and that are not there."""
    missing = [Checked(writer) for writer in sorted({head.writer for head in heads} - {one.writer for one in checked})]
    for gone in missing:
        gone.fault(1, "the whole chain is missing", "Its folder was deleted, or this is the log of another deployment.")
    return missing


class _ChainCheck:
    """Goes through one chain, from its oldest entry to its newest."""

    def __init__(self, name: str, heads: Iterable[Head]) -> None:
        self.result = Checked(name)
        self._heads = {head.number: head.hash for head in heads if head.writer == name}
        self._last: ChainedEntry | None = None
        self._deleted_through = 0
        self._missed_line = False

    def of_files(self, chain: Path, advanced: Callable[[int], None]) -> Checked:
        """Check a chain that is kept whole, but for what its entries say was deleted."""
        for line in self._lines(chain, advanced):
            self._check(line)
        self._check_beginning()
        return self._finished()

    def of_events(self, events: Iterable[bytes]) -> Checked:
        """Check events in the order of their numbers, of which the first may have any."""
        for event in events:
            self._check(event)
        return self._finished()

    def _lines(self, chain: Path, advanced: Callable[[int], None]) -> Iterator[bytes]:
        for _, path in segments(chain):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue  # Retention deletes the oldest files at any moment, and an entry says so.
            *lines, rest = content.split(b"\n")
            self.result.unfinished = bool(rest)
            yield from lines
            advanced(len(content))

    def _check(self, line: bytes) -> None:
        expected = self._last.number + 1 if self._last else 0
        try:
            found = read_line(line)
        except InvalidLine as error:
            self.result.fault(
                expected or 1, str(error), "It was changed after it was written; what it said cannot be trusted."
            )
            self._missed_line = True
            return
        self.result.entries += 1
        if self._last is None and not self._missed_line:
            self.result.first = found.number
            if found.number == 1 and found.previous != FIRST_PREVIOUS:
                self.result.fault(1, "it continues another entry", "The beginning of the chain was replaced.")
        elif self._last is not None:
            self._check_place(self._last, found)
        if found.writer != self.result.writer:
            self.result.fault(
                found.number, f"it is an entry of {found.writer}", "It was moved here from another chain."
            )
        if self._heads.get(found.number, found.hash) != found.hash:
            self.result.fault(
                found.number,
                "its hash is another one than was reported when it was the last entry",
                "The chain was written anew from this entry or an earlier one on.",
            )
        self._deleted_through = max(self._deleted_through, deleted_through(found.entry))
        self._last, self._missed_line = found, False

    def _check_place(self, last: ChainedEntry, found: ChainedEntry) -> None:
        expected = last.number + 1 + self._missed_line
        if found.number > expected:
            missing = f"{expected}" if found.number == expected + 1 else f"{expected} to {found.number - 1}"
            self.result.fault(expected, f"missing: {missing}", "Entries were taken out.")
        elif found.number < expected and not self._missed_line:
            self.result.fault(
                found.number, f"it stands after {last.number}", "Entries were put in another order, or repeated."
            )
        elif found.number == expected and not self._missed_line and found.previous != last.hash:
            self.result.fault(
                found.number,
                f"it does not continue entry {last.number}",
                f"Entry {last.number} was replaced by one with a hash of its own, or this one was.",
            )

    def _check_beginning(self) -> None:
        result = self.result
        if result.first > max(self._deleted_through, 0) + 1:
            result.fault(
                self._deleted_through + 1,
                f"missing: {self._deleted_through + 1} to {result.first - 1}",
                "The oldest entries were taken out, and no entry says that retention deleted them.",
            )

    def _finished(self) -> Checked:
        result, last = self.result, self._last
        reported = max(self._heads, default=0)
        if reported > (last.number if last else 0):
            result.fault(
                (last.number if last else 0) + 1,
                f"the chain ends before entry {reported}, which was once the last one",
                "Its newest entries were cut off.",
            )
        result.head = Head(result.writer, last.number, last.hash) if last else None
        return result
