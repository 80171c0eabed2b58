"""Items that come during a call go together in the next call, and each still gets its own result."""

import asyncio
from collections.abc import Sequence

import pytest

from enginehouse.sidecar.gather import Gather


class Line:
    """Sends batches, each at the test's command."""

    def __init__(self, at_most: int = 10, at_most_bytes: int = 1_000, in_flight: int = 1) -> None:
        self.sent: list[tuple[str, list[bytes]]] = []
        self.go = asyncio.Semaphore(0)
        self.gather: Gather[str, bytes, None] = Gather(
            self._send, size=len, at_most=at_most, at_most_bytes=at_most_bytes, in_flight=in_flight
        )

    async def _send(self, key: str, items: Sequence[bytes]) -> list[Exception | None]:
        self.sent.append((key, list(items)))
        await self.go.acquire()
        if b"breaks" in items:
            raise RuntimeError("all of them")
        return [ValueError("bad") if item == b"bad" else None for item in items]

    def start(self, *items: bytes, key: str = "k") -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.gather.do(key, item)) for item in items]

    def release(self) -> None:
        for _ in range(100):
            self.go.release()


async def settled(tasks: list[asyncio.Task[None]]) -> list[object]:
    return list(await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20))


async def test_what_comes_meanwhile_goes_together() -> None:
    line = Line()
    first = line.start(b"1")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert line.sent == [("k", [b"1"])]
    rest = line.start(b"2", b"3")
    other = line.start(b"4", key="other")
    line.release()
    await settled(first + rest + other)
    assert sorted(line.sent) == [("k", [b"1"]), ("k", [b"2", b"3"]), ("other", [b"4"])]


async def test_who_comes_again_at_once_is_served_again() -> None:
    line = Line()
    line.release()
    async with asyncio.timeout(5):
        for _ in range(10):
            await line.gather.do("k", b"1")
    assert len(line.sent) == 10


async def test_a_slow_call_does_not_hold_up_the_next() -> None:
    line = Line(in_flight=2)
    slow = line.start(b"slow")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = line.start(b"2", b"3")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    third = line.start(b"4")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [items for _, items in line.sent] == [[b"slow"], [b"2", b"3"]]
    line.release()
    await settled(slow + others + third)
    assert line.sent[-1] == ("k", [b"4"])


async def test_a_batch_has_its_bounds_and_a_large_item_goes_alone() -> None:
    line = Line(at_most=2, at_most_bytes=5)
    line.release()
    await settled(line.start(b"1", b"2", b"3", b"four", b"x" * 99, b"5"))
    assert [items for _, items in line.sent] == [[b"1", b"2"], [b"3", b"four"], [b"x" * 99], [b"5"]]


async def test_each_gets_its_own_outcome() -> None:
    line = Line()
    line.release()
    outcomes = await settled(line.start(b"1", b"bad", b"2"))
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]


async def test_a_failure_of_the_call_is_everybodys_in_it_and_nobody_elses() -> None:
    line = Line(at_most=2)
    line.release()
    outcomes = await settled(line.start(b"1", b"breaks", b"2"))
    assert [type(outcome) for outcome in outcomes] == [RuntimeError, RuntimeError, type(None)]


@pytest.mark.parametrize("victim", [0, 1])
async def test_one_who_no_longer_waits_does_not_disturb_the_others(victim: int) -> None:
    line = Line()
    tasks = line.start(b"1", b"2", b"3")
    await asyncio.sleep(0)
    tasks.pop(victim).cancel()
    line.release()
    assert await settled(tasks) == [None, None]


async def test_owners_take_turns_where_more_are_waiting_than_a_call_takes() -> None:
    sent: list[list[str]] = []
    go = asyncio.Event()

    async def send(_: str, items: Sequence[str]) -> list[None]:
        sent.append(list(items))
        await go.wait()
        return [None] * len(items)

    gather: Gather[str, str, None] = Gather(send, at_most=3, owner=lambda item: item[0])
    items = ("a1", *(f"a{n}" for n in range(2, 7)), "b1", "c1")
    tasks = [asyncio.create_task(gather.do("k", item)) for item in items]
    await asyncio.sleep(0)
    go.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert sent == [["a1", "b1", "c1"], ["a2", "a3", "a4"], ["a5", "a6"]]


async def test_what_belongs_to_nobody_comes_before_all_that_wait() -> None:
    sent: list[list[str]] = []

    async def send(_: str, items: Sequence[str]) -> list[None]:
        sent.append(list(items))
        await asyncio.sleep(0)
        return [None] * len(items)

    gather: Gather[str, str, None] = Gather(send, at_most=2, owner=lambda item: item.strip("0123456789"))
    await asyncio.wait_for(asyncio.gather(*(gather.do("k", item) for item in ("a1", "a2", "b1", "1", "2"))), 5)
    assert sent == [["1", "2"], ["a1", "b1"], ["a2"]]
