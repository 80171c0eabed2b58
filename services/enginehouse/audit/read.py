"""Reads entries back, newest first and in bounded pages."""

import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pydantic_core

from enginehouse.audit.chain import chains, segments
from enginehouse.contracts.audit import ChainedEntry, InvalidLine, read_line, stamp_of, time_in

CURSOR_PATTERN = r"[a-z][a-z0-9-]{0,40}:[0-9]{1,18}(?:,[a-z][a-z0-9-]{0,40}:[0-9]{1,18})*"
PAGE_MAX_BYTES = 16 * 1024 * 1024
"""A page looks through so much at most. It may then have fewer entries than asked for, or none, and yet a cursor."""
_NEWEST = 10**18 - 1
_LATEST_SECONDS = 2.5e11
_PACE_LINES = 500
_DISORDER_SECONDS = 60.0
"""How much earlier than its predecessor an entry may be, because a clock was put right."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries are wanted: those that fit every part that is set."""

    concerns: str | None = None
    """Made by a key of this tenant, or concerning it."""
    tenant: str | None = None
    engine: str | None = None
    job: str | None = None
    action: str | None = None
    """A part of the action, in any case of letters: `quarantine`, `DELETE`."""
    outcome: str | None = None
    since: float | None = None
    until: float | None = None

    def may_fit(self) -> Callable[[bytes], bool]:
        """Return a quick look at a line: where it says no, the line is not wanted, and need not be read whole."""
        exact = (self.concerns, self.tenant, self.engine, self.job, self.outcome)
        needles = [pydantic_core.to_json(text) for text in exact if text is not None]
        action = None if self.action is None else pydantic_core.to_json(self.action.lower())[1:-1]

        def look(line: bytes) -> bool:
            for needle in needles:
                if needle not in line:
                    return False
            return action is None or action in line.lower()

        return look

    def fits(self, found: ChainedEntry) -> bool:
        """Say whether an entry is wanted. Its time was looked at before."""
        entry = found.entry
        return (
            (self.concerns is None or self.concerns in (entry.by, entry.tenant))
            and (self.tenant is None or self.tenant in (entry.by, entry.tenant))
            and (self.engine is None or self.engine == entry.engine)
            and (self.job is None or self.job == entry.job)
            and (self.outcome is None or self.outcome == entry.outcome)
            and (self.action is None or self.action.lower() in entry.action.lower())
        )


@dataclass(frozen=True, slots=True)
class Page:
    """Entries, newest first."""

    entries: list[ChainedEntry]
    next_cursor: str | None
    """Where to go on; None at the end."""


class _Look(NamedTuple):
    """A look at a line of a chain."""

    writer: str
    place: int
    """The line's number, while nobody took lines out of its file."""
    line: bytes
    may_fit: bool
    seen_bytes: int
    """Size of this line and of those that were passed over before it."""


def check_cursor(cursor: str) -> str:
    """Return a cursor that may be one of a page; raise ValueError if it cannot be."""
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise ValueError("it must be the `next_cursor` of the page before, unchanged")
    return cursor


def read_page(folder: Path, query: Query, cursor: str | None, limit: int) -> Page:
    """Return the next page of the wanted entries below a folder of chains. `cursor` matches CURSOR_PATTERN.

    Lines that are no entries are passed over: `verify` reports them.
    """
    before = _before(cursor)
    # Chains that the cursor does not name have been read to their beginnings.
    places = {
        chain.name: before.get(chain.name, _NEWEST) for chain in chains(folder) if not cursor or chain.name in before
    }
    since, until = (None if at is None else _stamp(at) for at in (query.since, query.until))
    oldest = b"" if query.since is None else _stamp(query.since - _DISORDER_SECONDS)
    entries, left, may_fit = list[ChainedEntry](), PAGE_MAX_BYTES, query.may_fit()
    looks = (_backwards(folder / writer, place, may_fit) for writer, place in places.items())
    for look in heapq.merge(*looks, key=lambda look: time_in(look.line), reverse=True):
        at = time_in(look.line)
        if at < oldest:
            break
        if len(entries) == limit or left <= 0:
            return Page(entries, ",".join(f"{writer}:{place}" for writer, place in places.items() if place > 1))
        left -= look.seen_bytes
        places[look.writer] = look.place
        if look.may_fit and (since is None or at >= since) and (until is None or at < until):
            entries += _wanted(look.line, query)
    return Page(entries, None)


def _stamp(at: float) -> bytes:
    """Write a moment as lines begin with it; one that no calendar has becomes the nearest one in which entries are."""
    return stamp_of(min(max(at, 0), _LATEST_SECONDS))[:-1].encode()


def _before(cursor: str | None) -> dict[str, int]:
    named = (part.partition(":") for part in (cursor or "").split(",") if part)
    return {writer: int(place) for writer, _, place in named}


def _backwards(chain: Path, before: int, may_fit: Callable[[bytes], bool]) -> Iterator[_Look]:
    """Go through the whole lines of a chain whose place is before that one, the newest first.

    Return those that may fit, and now and then another one, so that chains are read at the same pace.
    """
    seen = 0
    for first, path in reversed(segments(chain)):
        if first >= before:
            continue
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return  # Retention has just deleted it, and those before it.
        for place in range(min(first + len(lines), before) - 1, first - 1, -1):
            line = lines[place - first]
            seen += len(line)
            fits = may_fit(line)
            if fits or place == first or place % _PACE_LINES == 0:
                yield _Look(chain.name, place, line, fits, seen)
                seen = 0


def _wanted(content: bytes, query: Query) -> list[ChainedEntry]:
    try:
        found = read_line(content)
    except InvalidLine:
        return []
    return [found] if query.fits(found) else []
