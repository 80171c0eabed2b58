"""The audit log: each change to what was written is seen, and writers of services, commands and many gateways agree."""

import asyncio
import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.break_ins import attempt
from tests.support.waiting import until_async

from enginehouse.audit import read as reading
from enginehouse.audit.chain import Chain, ChainDamaged, ChainTaken, open_chain, segments
from enginehouse.audit.log import AuditLog
from enginehouse.audit.read import Query, read_page
from enginehouse.audit.refusals import Refusals
from enginehouse.audit.verify import Checked, verify
from enginehouse.contracts.audit import (
    DELETED,
    FIRST_PREVIOUS,
    LINE_MAX_BYTES,
    LOST,
    STARTED,
    STOPPED,
    AuditEntry,
    Head,
    InvalidLine,
    heads_in,
    read_line,
    time_in,
    write_line,
)

FULL = AuditEntry(
    1_800_000_000.25,
    "POST /v1/engines/{engine}/quarantine",
    "FORBIDDEN",
    by="acme",
    key="eh_acme_Xk3v",
    user="root",
    tenant="umbra",
    engine="umbra--echo",
    version="v2",
    job="01890a5d-ac96-7b2a-8c4e-0123456789ab",
    status=403,
    ms=1.5,
    request_id="r-1",
    times=2,
    detail="secret NAME",
)
LARGE = 10**9


def write(folder: Path, entries: Sequence[AuditEntry], name: str = "gateway", max_bytes: int = LARGE) -> Head:
    """Append entries to a chain and return its head."""
    chain = Chain(folder, name, max_bytes=max_bytes)
    try:
        for entry in entries:
            chain.append([entry])
        return chain.head
    finally:
        chain.close()


def numbered(count: int, first: int = 0) -> list[AuditEntry]:
    return [AuditEntry(1_800_000_000 + n, f"action {n}", by="acme", tenant="acme") for n in range(first, first + count)]


def only_file(folder: Path, name: str = "gateway") -> Path:
    ((_, path),) = segments(folder / name)
    return path


def faults(folder: Path, *heads: Head) -> list[tuple[int, str]]:
    return [(fault.number, fault.what) for one in verify(folder, heads) for fault in one.faults]


def with_new_hash(line: bytes) -> bytes:
    """Return a changed line with the hash that fits it, as an attacker would write it."""
    content = line.rstrip(b"\n").rpartition(b',"hash":')[0]
    return b'%b,"hash":"%b"}\n' % (content, hashlib.sha256(content).hexdigest().encode())


@given(
    st.builds(
        AuditEntry,
        at=st.integers(0, 4_000_000_000_000).map(lambda ms: ms / 1_000),
        action=st.text(max_size=50),
        outcome=st.text(max_size=20),
        engine=st.none() | st.text(max_size=64),
        ms=st.none() | st.floats(0, 1e9),
        times=st.integers(1, 10**9),
        detail=st.none() | st.text(max_size=300),
    )
)
def test_an_entry_is_read_as_it_was_written(entry: AuditEntry) -> None:
    line, digest = write_line(entry, "/audit/host/gateway", 7, FIRST_PREVIOUS)
    found = read_line(line[:-1])
    assert (found.entry, found.writer, found.number, found.hash) == (entry, "gateway", 7, digest)
    assert line.count(b"\n") == 1
    assert time_in(line) < time_in(write_line(AuditEntry(4e9 + 1, ""), "", 1, "")[0])


def test_a_line_is_a_cloud_event() -> None:
    event = json.loads(write_line(FULL, "/audit/host/gateway", 7, FIRST_PREVIOUS)[0])
    data = event.pop("data")
    assert event["time"] == "2027-01-15T08:00:00.250Z"
    assert {event[name] for name in ("specversion", "type", "source", "id")} == {
        "1.0",
        "dev.enginehouse.audit.entry.v1",
        "/audit/host/gateway",
        "7",
    }
    assert all(re.fullmatch("[a-z0-9]+", name) for name in event)
    assert data == FULL._asdict()


@attempt("changes a field of the audit log, alone or with its hash", layer="a chain of hashes")
@pytest.mark.parametrize("field", AuditEntry._fields)
@pytest.mark.parametrize("with_hash", [False, True], ids=["alone", "with its hash"])
def test_a_changed_field_is_seen(tmp_path: Path, field: str, with_hash: bool) -> None:
    write(tmp_path, [FULL, FULL, FULL])
    path = only_file(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    written = json.dumps({field: getattr(FULL, field)}, separators=(",", ":"))[1:-1].encode()
    other = json.dumps({field: 5 if isinstance(getattr(FULL, field), int | float) else "other"}, separators=(",", ":"))
    assert lines[1].count(written) == 1
    changed = lines[1].replace(written, other[1:-1].encode())
    lines[1] = with_new_hash(changed) if with_hash else changed
    path.write_bytes(b"".join(lines))
    seen = (3, "it does not continue entry 2") if with_hash else (2, "its hash does not fit its content")
    assert faults(tmp_path) == [seen]


def test_a_changed_number_or_time_is_seen(tmp_path: Path) -> None:
    write(tmp_path, numbered(3))
    path = only_file(tmp_path)
    whole = path.read_bytes()
    for old, new in ((b'"id":"2"', b'"id":"9"'), (b'{"time":"2027', b'{"time":"2026'), (b"/gateway", b"/registr")):
        path.write_bytes(whole.replace(old, new, 1))
        assert len(faults(tmp_path)) == 1


Tamper = Callable[[list[bytes]], list[bytes]]


@attempt("takes entries out of the audit log, moves, repeats, overwrites them", layer="a chain of hashes")
@pytest.mark.parametrize(
    ("tamper", "seen"),
    [
        (lambda lines: lines[:2] + lines[3:], [(3, "missing: 3")]),
        (lambda lines: lines[:1] + lines[4:], [(2, "missing: 2 to 4")]),
        (
            lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
            [(2, "missing: 2"), (2, "it stands after 3"), (3, "missing: 3")],
        ),
        (lambda lines: [*lines[:3], lines[1], *lines[3:]], [(2, "it stands after 3"), (3, "missing: 3")]),
        (lambda lines: lines[1:], [(1, "missing: 1 to 1")]),
        (lambda lines: [*lines[:2], b"rubbish\n", *lines[3:]], [(3, "the line is not an entry")]),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], [(3, "the line is not an entry")]),
    ],
    ids=["one taken out", "three taken out", "two exchanged", "one repeated", "the first", "overwritten", "put in"],
)
def test_entries_that_are_taken_out_or_moved_are_seen(
    tmp_path: Path, tamper: Tamper, seen: list[tuple[int, str]]
) -> None:
    write(tmp_path, numbered(6))
    path = only_file(tmp_path)
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    assert faults(tmp_path) == seen


@attempt("cuts off the audit log's end, or writes its chain anew", layer="heads that are kept elsewhere")
def test_only_a_head_from_elsewhere_shows_what_was_cut_off_or_written_anew(tmp_path: Path) -> None:
    head = write(tmp_path, numbered(5))
    path = only_file(tmp_path)
    whole = path.read_bytes()
    assert faults(tmp_path, *heads_in(f"the log said: {head}, and more")) == []
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert faults(tmp_path) == []
    assert faults(tmp_path, head) == [(4, "the chain ends before entry 5, which was once the last one")]
    path.unlink()
    write(tmp_path, numbered(5, first=100))
    assert faults(tmp_path) == []
    assert faults(tmp_path, head) == [(5, "its hash is another one than was reported when it was the last entry")]
    assert faults(tmp_path, Head("registry", 3, head.hash)) == [(1, "the whole chain is missing")]


def test_retention_deletes_the_oldest_files_and_says_so(tmp_path: Path) -> None:
    limit = 10 * LINE_MAX_BYTES
    write(tmp_path, numbered(900), max_bytes=limit)
    files = segments(tmp_path / "gateway")
    assert sum(path.stat().st_size for _, path in files) <= limit
    (checked,) = verify(tmp_path)
    assert checked.faults == []
    assert checked.first == files[0][0] > 1
    assert read_page(tmp_path, Query(action=DELETED), None, 1).entries
    # Somebody else deletes one file more.
    files[0][1].unlink()
    assert [what for _, what in faults(tmp_path)] == [f"missing: {files[0][0]} to {files[1][0] - 1}"]


def test_a_chain_goes_on_after_its_writer_was_killed_while_writing(tmp_path: Path) -> None:
    write(tmp_path, numbered(2))
    path = only_file(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"time":"2027-01-')
    (checked,) = verify(tmp_path)
    assert (checked.faults, checked.unfinished, checked.entries) == ([], True, 2)
    write(tmp_path, numbered(1))
    (checked,) = verify(tmp_path)
    assert (checked.faults, checked.unfinished, checked.entries) == ([], False, 3)


def test_two_writers_have_chains_of_their_own(tmp_path: Path) -> None:
    damaged = list[ChainDamaged]()
    first, second = (open_chain(tmp_path, "gateway", max_bytes=LARGE, told=damaged.append) for _ in range(2))
    with pytest.raises(ChainTaken):
        Chain(tmp_path, "gateway", max_bytes=LARGE)
    for chain in (first, second, first):
        chain.append(numbered(2))
        assert chain.head.number in (2, 4)
    first.close()
    again = open_chain(tmp_path, "gateway", max_bytes=LARGE, told=damaged.append)
    assert [chain.head.writer for chain in (second, again)] == ["gateway-2", "gateway"]
    second.close()
    again.close()
    assert [(one.writer, one.entries, one.faults) for one in verify(tmp_path)] == [
        ("gateway", 4, []),
        ("gateway-2", 2, []),
    ]


def test_a_damaged_end_is_kept_as_it_is_and_another_chain_begun(tmp_path: Path) -> None:
    write(tmp_path, numbered(3))
    path = only_file(tmp_path)
    content = path.read_bytes()[:-10] + b"damaged!}\n"
    path.write_bytes(content)
    damaged = list[ChainDamaged]()
    chain = open_chain(tmp_path, "gateway", max_bytes=LARGE, told=damaged.append)
    assert chain.head.writer == "gateway-2"
    chain.close()
    assert len(damaged) == 1
    assert path.read_bytes() == content
    assert faults(tmp_path) == [(3, "the line is not an entry")]


def test_entries_are_written_although_no_new_file_can_be_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(tmp_path, "gateway", max_bytes=1)

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "open", refuse)
        for entry in numbered(40):
            chain.append([entry])
    assert only_file(tmp_path).stat().st_size > LINE_MAX_BYTES
    chain.append(numbered(1))
    assert len(segments(tmp_path / "gateway")) == 1
    chain.append(numbered(1))
    chain.close()
    (checked,) = verify(tmp_path)
    assert (checked.faults, checked.first) == ([], 42)


def test_a_moved_entry_is_seen(tmp_path: Path) -> None:
    write(tmp_path, numbered(2))
    (tmp_path / "registry").mkdir()
    os.rename(only_file(tmp_path), tmp_path / "registry" / only_file(tmp_path).name)
    assert faults(tmp_path) == [(1, "it is an entry of gateway"), (2, "it is an entry of gateway")]


def all_pages(folder: Path, query: Query, limit: int) -> tuple[list[str], int]:
    """Return the actions on all pages, and the number of pages."""
    found, pages, cursor = list[str](), 0, None
    while True:
        page = read_page(folder, query, cursor, limit)
        assert len(page.entries) <= limit
        found += [one.entry.action for one in page.entries]
        pages, cursor = pages + 1, page.next_cursor
        if cursor is None:
            return found, pages


@pytest.fixture
def two_chains(tmp_path: Path) -> Path:
    """Fill two chains, in several files, with entries that alternate in time."""
    entries = numbered(40)
    write(tmp_path, entries[0::2], "gateway")
    write(tmp_path, entries[1::2], "registry")
    return tmp_path


@pytest.mark.parametrize("limit", [1, 7, 40, 100])
def test_pages_have_every_entry_once_newest_first(two_chains: Path, limit: int) -> None:
    found, _ = all_pages(two_chains, Query(), limit)
    assert found == [f"action {n}" for n in reversed(range(40))]


def test_a_page_looks_through_a_bounded_part(two_chains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PAGE_MAX_BYTES", 2_000)
    monkeypatch.setattr(reading, "_PACE_LINES", 3)
    found, pages = all_pages(two_chains, Query(action="ACTION 3"), 100)
    assert found == [f"action {n}" for n in (*range(39, 29, -1), 3)]
    assert pages > 3


def test_filters_hold_together(tmp_path: Path) -> None:
    entries = [FULL, *numbered(3), AuditEntry(1_800_000_002, "job ended", "failed", tenant="umbra", engine="acme--x")]
    write(tmp_path, entries)

    def found(**parts: Any) -> int:
        return len(read_page(tmp_path, Query(**parts), None, 100).entries)

    assert found(concerns="acme") == 4
    assert found(concerns="umbra") == 2
    assert found(concerns="umbra", tenant="acme") == 1
    assert found(engine="acme--x", outcome="failed") == 1
    assert found(job=FULL.job, action="quaran") == 1
    assert found(since=1_800_000_001, until=1_800_000_002) == 1
    assert found(tenant='a"b') == found(engine="action 1") == 0


async def test_entries_wait_while_the_disk_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path, "gateway", max_bytes=LARGE)
    monkeypatch.setattr("enginehouse.audit.log._WAITING_MAX", 3)

    tries = []

    def refuse(descriptor: int) -> None:
        tries.append(descriptor)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "fdatasync", refuse)
        running = asyncio.create_task(log.run())
        log.record(*numbered(5))
        await until_async(lambda: tries)
        log.record(*numbered(2, first=5))
        await until_async(lambda: len(log._waiting) == 3)
    running.cancel()
    await log.close()
    assert [one.faults for one in verify(tmp_path)] == [[]]
    written = read_page(tmp_path, Query(), None, 100).entries
    # Three of the seven are kept, and the start is lost with the others.
    assert sorted(one.entry.action for one in written) == ["action 0", "action 1", "action 2", LOST, STOPPED]
    assert [one.entry.times for one in written if one.entry.action == LOST] == [5]


async def test_starts_and_stops_are_entries_and_a_kill_shows_by_a_missing_one(tmp_path: Path) -> None:
    for _ in range(2):
        log = AuditLog(tmp_path, "registry", max_bytes=LARGE)
        running = asyncio.create_task(log.run())
        await asyncio.sleep(0)
        running.cancel()
        await log.close()
    assert all_pages(tmp_path, Query(), 100)[0] == [STOPPED, STARTED, STOPPED, STARTED]


def test_refused_calls_of_one_sender_are_counted_beyond_a_rate() -> None:
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    assert sum(refusals.has_room(None) for _ in range(1_000)) == 50
    assert refusals.has_room("acme")
    assert refusals.due() == []
    now[0] = 61
    (summary,) = refusals.due()
    assert (summary.times, summary.by, summary.outcome, summary.ms) == (950, None, "REFUSED", 61_000)
    assert refusals.due() == []
    assert refusals.has_room(None)


def test_senders_are_forgotten_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.audit.refusals._SENDERS_MAX", 10)
    now = [0.0]
    refusals = Refusals(lambda: now[0])
    assert sum(refusals.has_room(f"t{n}") for n in range(1_000)) == 10 + 50
    now[0] = 1_000
    refusals.due()
    assert refusals._senders == {}


def test_a_field_of_a_newer_version_is_passed_over() -> None:
    line = write_line(FULL, "/audit/host/gateway", 7, FIRST_PREVIOUS)[0]
    assert read_line(with_new_hash(line.replace(b'"data":{', b'"data":{"new":[1],'))[:-1]).entry == FULL


def test_nonsense_is_no_entry() -> None:
    line = write_line(FULL, "/audit/host/gateway", 7, FIRST_PREVIOUS)[0][:-1]
    for wrong in (
        b"",
        b"{}",
        line[:-1],
        line[1:],
        line + b" ",
        with_new_hash(line.replace(b'"id":"7"', b'"id":"x"')),
        with_new_hash(line.partition(b'"data":')[0] + b'"data":[],"hash":"'),
    ):
        with pytest.raises(InvalidLine):
            read_line(wrong.rstrip(b"\n"))


def test_checked_tells_at_most_twenty_faults_of_a_chain(tmp_path: Path) -> None:
    write(tmp_path, numbered(60))
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"action", b"Action"))
    (checked,) = verify(tmp_path)
    assert isinstance(checked, Checked)
    assert len(checked.faults) == 20


@pytest.mark.parametrize("turns", range(6))
async def test_it_ends_when_told_to_also_while_an_entry_arrives(tmp_path: Path, turns: int) -> None:
    """A stop that got lost would keep the process from ending."""
    log = AuditLog(tmp_path, "gateway", max_bytes=LARGE)
    writing = asyncio.create_task(log.run())
    await until_async(lambda: read_page(tmp_path, Query(), None, 10).entries, "it writes")
    log.record(AuditEntry(1.0, STARTED))
    for _ in range(turns):
        await asyncio.sleep(0)
    writing.cancel()
    ended, _ = await asyncio.wait([writing], timeout=5)
    assert ended
    await log.close()
