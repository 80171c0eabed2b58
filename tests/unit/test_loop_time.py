"""The event loop's time is shared step by step: whoever needs little never stands behind whoever needs much."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from enginehouse.gateway.tenants.loop_time import LoopTime

STEP = 0.0005


class Clock:
    """A clock that stands still but for the steps that are taken."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loop_time(clock: Clock) -> Iterator[LoopTime]:
    made = LoopTime(clock)
    yield made
    assert not any(party.waiting for party in made._parties.values())


class Load:
    """Requests of several parties, whose steps are noted in order."""

    def __init__(self, loop_time: LoopTime, clock: Clock) -> None:
        self._loop_time, self._clock = loop_time, clock
        self.steps: list[str] = []

    def start(self, name: str, requests: int, steps: int, seconds: float = STEP) -> list["asyncio.Task[None]"]:
        """Start requests of so many steps, each of which takes that long."""

        async def request() -> None:
            for _ in range(steps):
                self.steps.append(name)
                self._clock.now += seconds
                await asyncio.sleep(0)

        return [asyncio.create_task(self._loop_time.share(name, request())) for _ in range(requests)]


@pytest.fixture
def load(loop_time: LoopTime, clock: Clock) -> Load:
    return Load(loop_time, clock)


def longest_wait(steps: list[str], name: str) -> int:
    """Return the most steps of others between two of `name`."""
    places = [place for place, found in enumerate(steps) if found == name]
    return max(after - before - 1 for before, after in pairwise(places))


async def test_a_request_waits_in_each_pass_for_a_few_steps_of_others_only(load: Load) -> None:
    tasks = load.start("hostile", 500, 4)
    await asyncio.sleep(0)
    tasks += load.start("victim", 1, 10)
    await asyncio.gather(*tasks)
    assert Counter(load.steps) == {"hostile": 2_000, "victim": 10}
    assert longest_wait(load.steps, "victim") <= 10


async def test_many_hostile_parties_get_no_more_than_one_but_each_goes_on(load: Load) -> None:
    tasks = [task for number in range(10) for task in load.start(f"hostile-{number}", 50, 4)]
    await asyncio.sleep(0)
    tasks += load.start("victim", 1, 10)
    await asyncio.gather(*tasks)
    assert longest_wait(load.steps, "victim") <= 25
    assert longest_wait(load.steps, "hostile-0") <= 60


async def test_two_that_want_everything_get_the_same(load: Load) -> None:
    tasks = load.start("many", 400, 5) + load.start("few", 20, 100)
    await asyncio.gather(*tasks)
    middle = Counter(load.steps[500:3_000])
    assert middle["many"] == pytest.approx(middle["few"], rel=0.2)


async def test_after_a_long_step_others_have_their_time_first(load: Load) -> None:
    tasks = load.start("hostile", 3, 3, seconds=0.02) + load.start("victim", 1, 120)
    await asyncio.gather(*tasks)
    later = load.steps[load.steps.index("victim") :]
    assert longest_wait(later, "victim") <= 3
    places = [place for place, name in enumerate(later) if name == "hostile"]
    assert all(after - before >= 5 for before, after in pairwise(places))


async def test_a_lone_party_has_the_whole_loop(load: Load, loop_time: LoopTime) -> None:
    await asyncio.wait_for(asyncio.gather(*load.start("alone", 300, 5)), 10)
    assert len(load.steps) == 1_500
    for _ in range(5):
        await asyncio.sleep(0)
    assert not loop_time._parties


async def test_results_errors_and_answers_to_awaits_pass_through(loop_time: LoopTime) -> None:
    async def answer(future: "asyncio.Future[int]") -> int:
        return await future + 1

    async def refuse() -> None:
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except TimeoutError:
            raise ValueError("too slow") from None

    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(0.01, future.set_result, 41)
    assert await loop_time.share("acme", answer(future)) == 42
    with pytest.raises(ValueError, match="too slow"):
        await loop_time.share("acme", refuse())


@pytest.mark.parametrize("passes", [1, 2, 3])
async def test_who_is_canceled_ends_wherever_it_is(load: Load, loop_time: LoopTime, passes: int) -> None:
    ended: list[str] = []

    async def request() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("ended")

    others = load.start("hostile", 200, 3)
    canceled = [asyncio.create_task(loop_time.share("hostile", request())) for _ in range(20)]
    for _ in range(passes):
        await asyncio.sleep(0)
    for task in canceled:
        task.cancel()
    outcomes = await asyncio.gather(*canceled, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    await asyncio.gather(*others)
    assert len(load.steps) == 600
    assert len(ended) in (0, 20)
