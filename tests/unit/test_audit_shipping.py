"""Entries of all chains are shipped: in order, at least once, from where the last shipper stopped, and never lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.waiting import until_async

from enginehouse.audit import ship
from enginehouse.audit.chain import Chain, segments
from enginehouse.audit.ship import CURSOR_FILE, Shipper
from enginehouse.audit.verify import verify_events
from enginehouse.contracts.audit import AuditEntry, Head, InvalidLine, read_line
from enginehouse.contracts.errors import Unavailable


class Broker:
    """Takes events, unless it is away; `left` says how many more it takes before it goes away."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.left = 10**9
        self.asked = 0

    async def publish(self, line: bytes) -> None:
        await asyncio.sleep(0)
        self.asked += 1
        if not self.left:
            raise Unavailable("the broker is away")
        self.left -= 1
        self.taken.append(line)

    def numbers(self, chain: str = "gateway") -> list[int]:
        found = map(read_line, self.taken)
        return [one.number for one in found if one.writer == chain]


@pytest.fixture
def broker() -> Broker:
    return Broker()


@asynccontextmanager
async def shipping(folder: Path, broker: Broker) -> AsyncIterator[None]:
    task = asyncio.create_task(Shipper(folder, broker.publish, first_backoff_seconds=0.01).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def write(folder: Path, count: int, name: str = "gateway", max_bytes: int = 10**9) -> None:
    chain = Chain(folder, name, max_bytes=max_bytes)
    for number in range(count):
        chain.append([AuditEntry(1_800_000_000 + number, f"action {number}", detail="x" * 250)])
    chain.close()


async def test_entries_of_all_chains_arrive_in_order_and_verify_by_themselves(tmp_path: Path, broker: Broker) -> None:
    write(tmp_path, 300)
    async with shipping(tmp_path, broker):
        await until_async(lambda: len(broker.taken) == 300)
        write(tmp_path, 3, "commands")
        write(tmp_path, 2)
        await until_async(lambda: len(broker.taken) == 305)
    assert broker.numbers() == [*range(1, 303)]
    assert broker.numbers("commands") == [1, 2, 3]
    found = verify_events(broker.taken[::-1] + broker.taken[:7])
    assert [(one.writer, one.entries, one.faults) for one in found] == [("commands", 3, []), ("gateway", 302, [])]


async def test_another_shipper_goes_on_where_the_last_one_stopped(tmp_path: Path, broker: Broker) -> None:
    write(tmp_path, 10)
    async with shipping(tmp_path, broker):
        await until_async(lambda: (tmp_path / "gateway" / CURSOR_FILE).exists())
    write(tmp_path, 5)
    async with shipping(tmp_path, broker):
        await until_async(lambda: len(broker.taken) == 15)
    assert broker.numbers() == [*range(1, 16)]


async def test_nothing_is_lost_while_the_broker_is_away_and_it_is_asked_less_and_less(
    tmp_path: Path, broker: Broker
) -> None:
    broker.left = 4
    write(tmp_path, 10)
    async with shipping(tmp_path, broker):
        await until_async(lambda: broker.asked >= 8)
        assert broker.asked < 30
        broker.left = 10**9
        await until_async(lambda: len(broker.taken) == 10)
    assert broker.numbers() == [*range(1, 11)]


async def test_what_the_broker_did_not_take_is_shipped_after_a_restart(tmp_path: Path, broker: Broker) -> None:
    broker.left = 4
    write(tmp_path, 10)
    async with shipping(tmp_path, broker):
        await until_async(lambda: broker.asked >= 6)
    broker.left = 10**9
    async with shipping(tmp_path, broker):
        await until_async(lambda: len(broker.taken) == 10)
    assert broker.numbers() == [*range(1, 11)]


async def test_one_process_ships_at_a_time_and_another_takes_over(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ship, "_TURN_SECONDS", 0.01)
    write(tmp_path, 3)
    other = Broker()
    async with shipping(tmp_path, other), shipping(tmp_path, broker):
        await until_async(lambda: len(other.taken) == 3 and (tmp_path / "gateway" / CURSOR_FILE).exists())
        write(tmp_path, 3)
        await until_async(lambda: len(other.taken) == 6)
        assert broker.taken == []
    async with shipping(tmp_path, broker):
        write(tmp_path, 1)
        await until_async(lambda: len(broker.taken) == 1)
    assert broker.numbers() == [7]


async def test_entries_in_several_files_are_shipped_also_where_retention_deleted_the_oldest(
    tmp_path: Path, broker: Broker
) -> None:
    write(tmp_path, 300, max_bytes=16 * 8 * 1024)
    (oldest, _), *others = segments(tmp_path / "gateway")
    assert oldest > 1
    assert others
    (tmp_path / "gateway" / CURSOR_FILE).write_text(f"gateway:1:{'0' * 64}")
    last = read_line(others[-1][1].read_bytes().splitlines()[-1]).number
    async with shipping(tmp_path, broker):
        await until_async(lambda: broker.numbers()[-1:] == [last])
    assert broker.numbers() == [*range(oldest, last + 1)]
    assert [one.faults for one in verify_events(broker.taken)] == [[]]


async def test_a_chain_that_was_written_anew_is_shipped_again_and_does_not_verify(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 5)
    async with shipping(tmp_path, broker):
        await until_async(lambda: len(broker.taken) == 5 and (tmp_path / "gateway" / CURSOR_FILE).exists())
    for _, path in segments(tmp_path / "gateway"):
        path.unlink()
    chain = Chain(tmp_path, "gateway", max_bytes=10**9)
    chain.append([AuditEntry(1_800_000_000, "something else")])
    chain.close()
    async with shipping(tmp_path, broker):
        await until_async(lambda: len(broker.taken) == 6)
    (found,) = verify_events(broker.taken)
    assert found.faults


async def test_a_line_that_is_not_what_was_written_is_missing_for_subscribers(tmp_path: Path, broker: Broker) -> None:
    write(tmp_path, 5)
    ((_, path),) = segments(tmp_path / "gateway")
    path.write_bytes(path.read_bytes().replace(b"action 2", b"action 7"))
    async with shipping(tmp_path, broker):
        await until_async(lambda: broker.numbers()[-1:] == [5])
    (found,) = verify_events(broker.taken)
    assert [(fault.number, fault.what) for fault in found.faults] == [(3, "missing: 3")]


def test_events_from_the_middle_of_a_chain_verify_and_changed_ones_do_not(tmp_path: Path) -> None:
    write(tmp_path, 9)
    ((_, path),) = segments(tmp_path / "gateway")
    lines = path.read_bytes().splitlines()
    (found,) = verify_events(lines[3:])
    assert (found.first, found.entries, found.faults) == (4, 6, [])
    newest, other = read_line(lines[-1]), Head("commands", 3, "0" * 64)
    cut, gone = verify_events(lines[3:-1], [Head("gateway", newest.number, newest.hash), other])
    assert [fault.number for fault in cut.faults] == [9]
    assert (gone.writer, [fault.what for fault in gone.faults]) == ("commands", ["the whole chain is missing"])
    with pytest.raises(InvalidLine, match="event 2: its hash does not fit"):
        verify_events([lines[0], lines[1].replace(b"action 1", b"action 8")])
