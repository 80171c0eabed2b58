"""Several jobs share an event where their engine works them off in a moment; each goes its own way all the same."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, Clock, GatewayWorld, gateway_world, impatient
from tests.support.ledger import new_job
from tests.support.scripted_runner import lose, succeed

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.events import JobEvent, Order
from enginehouse.contracts.job import Status
from enginehouse.contracts.moments import now
from enginehouse.gateway.handover.grouping import Grouping, divide, room_to_fill
from enginehouse.gateway.ledger.rows import JobRow


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


def _sizes(world: GatewayWorld) -> list[int]:
    """Return how many jobs each event handed over."""
    return [len(read_event(JobEvent, body).jobs) for body in world.dapr.published[names.job_topic(ECHO)]]


async def _submit_at_once(world: GatewayWorld, number: int) -> list[str]:
    """Accept jobs that wait, and then make room for all of them."""
    waiting = [new_job("acme", ECHO, window=0) for _ in range(number)]
    await asyncio.gather(*(world.gateway.ledger.insert(job) for job in waiting))
    for job in waiting:
        world.gateway.dispatcher.note_waiting(job.row)
    world.gateway.dispatcher.wake(ECHO)
    return [job.row.id for job in waiting]


async def _one_has_ended(world: GatewayWorld, **beat: Any) -> None:
    """Let the gateway learn how long a job takes (0.01 s), and what the worker takes."""
    await world.runner.beat(**beat)
    await world.gateway.catalogue.read_card(ECHO)
    await world.until_status(await world.submit(), Status.SUCCEEDED)
    assert _sizes(world) == [1]


async def test_jobs_that_wait_together_share_events_and_each_gets_its_own_result(world: GatewayWorld) -> None:
    await _one_has_ended(world, concurrency=2)
    ids = await _submit_at_once(world, 8)
    for job_id in ids:
        await world.until_status(job_id, Status.SUCCEEDED)
    assert _sizes(world) == [1, 8]
    assert [event.id for event in world.runner.events][1:] == ids


async def test_a_worker_of_before_that_says_nothing_gets_events_of_one_job(world: GatewayWorld) -> None:
    await _one_has_ended(world, jobs_per_event=1)
    await _submit_at_once(world, 8)
    await world.idle()
    assert set(_sizes(world)) == {1}


async def test_no_event_is_shared_before_it_is_known_how_long_jobs_take(world: GatewayWorld) -> None:
    await world.runner.beat()
    await world.gateway.catalogue.read_card(ECHO)
    await _submit_at_once(world, 8)
    await world.idle()
    assert set(_sizes(world)) == {1}


async def test_jobs_of_an_event_that_got_lost_come_again_one_by_one(world: GatewayWorld, clock: Clock) -> None:
    await _one_has_ended(world)
    world.runner.answer = lose
    ids = await _submit_at_once(world, 6)
    await world.idle()
    assert _sizes(world) == [1, 6]
    world.runner.answer = succeed
    for job_id in ids:
        await world.aged(job_id, 20)
    await world.runner.beat(idle_for=20)
    await world.sweep()
    for job_id in ids:
        await world.until_status(job_id, Status.SUCCEEDED)
    assert _sizes(world)[2:] == [1] * 6


async def test_if_the_broker_takes_no_event_all_its_jobs_wait_again(world: GatewayWorld) -> None:
    await _one_has_ended(world)
    for method in ("publish", "publish_many"):
        world.dapr.fail(method)
    ids = await _submit_at_once(world, 6)
    for job_id in ids:
        await world.until_status(job_id, Status.SUCCEEDED)
    assert len(world.runner.events) == 7


async def test_jobs_that_end_one_by_one_make_room_for_groups(tmp_path: Path, clock: Clock) -> None:
    async with gateway_world(tmp_path, pace=impatient(clock), window_min=16, window_factor=1) as world:
        await _one_has_ended(world, concurrency=4)
        ids = await _submit_at_once(world, 160)
        for job_id in ids:
            await world.until_status(job_id, Status.SUCCEEDED)
        assert len(world.runner.events) == 161
        # A quarter of the window at a time, or whatever is left at the end.
        assert sum(_sizes(world)) / len(_sizes(world)) >= 3


def _beat(**fields: int) -> Heartbeat:
    values = {"concurrency": 4, "jobs_per_event": 64, **fields}
    return Heartbeat(worker="w", slot="a", version="v1", healthy=True, subscribed=True, at=now(), **values)


def _row(number: int, **fields: Any) -> JobRow:
    row = new_job("acme", ECHO).row
    return row._replace(id=str(number), **fields)


def _known(*seconds: float) -> Grouping:
    grouping = Grouping()
    for one in seconds:
        grouping.note_end(_row(0, predict_time=one))
    return grouping


@pytest.mark.parametrize(
    ("seconds", "workers", "window", "expected"),
    [
        ([], [_beat()], 512, 1),
        ([0.001], [], 512, 1),
        ([0.001], [_beat()], 512, 64),
        ([0.01], [_beat()], 512, 20),
        ([0.01], [_beat(), _beat(concurrency=1)], 512, 5),
        ([0.01], [_beat(), _beat(jobs_per_event=1)], 512, 1),
        ([0.01] * 50 + [2.0], [_beat()], 512, 1),
        ([0.001] * 50 + [2.0] + [0.001] * 50, [_beat(concurrency=1)], 512, 1),
        ([0.001] * 50 + [2.0] + [0.001] * 50, [_beat(concurrency=64)], 512, 64),
        ([0.0], [_beat()], 512, 64),
        ([0.001], [_beat()], 32, 16),
        ([0.001], [_beat(concurrency=1)] * 8, 32, 2),
        ([0.001], [_beat()], 1, 1),
    ],
    ids="unknown none fast 10ms two old slow-at-last slow-of-one slow-of-many no-time window many probe".split(),
)
def test_an_event_has_as_many_jobs_as_a_worker_works_off_in_50_ms(
    seconds: list[float], workers: list[Heartbeat], window: int, expected: int
) -> None:
    assert _known(*seconds).jobs_per_event(ECHO, workers, window) == expected


def test_a_long_job_is_forgotten_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grouping, clock = _known(*[0.001] * 50, 2.0), time.monotonic()
    assert grouping.jobs_per_event(ECHO, [_beat()], 512) == 1
    monkeypatch.setattr(time, "monotonic", lambda: clock + 60)
    for _ in range(100):
        grouping.note_end(_row(0, predict_time=0.001))
    assert grouping.jobs_per_event(ECHO, [_beat()], 512) > 32


def test_a_window_is_filled_again_before_a_worker_has_nothing_to_do() -> None:
    assert room_to_fill([_beat()], 128, 64) == 32
    assert room_to_fill([_beat()], 128, 8) == 8
    assert room_to_fill([_beat(), _beat()], 10, 64) == 2
    assert room_to_fill([_beat()], 4, 64) == 1
    assert room_to_fill([], 32, 1) == 1


def _groups(rows: Sequence[JobRow], jobs_per_event: int = 64, size: int = 100) -> list[list[int]]:
    orders = [Order(row.id, "acme", 1, now(), b"x" * size) for row in rows]
    return [[int(row.id) for row in rows[group]] for group in divide(rows, orders, jobs_per_event)]


def test_jobs_are_divided_in_their_order_and_what_came_before_goes_alone() -> None:
    rows = [_row(1), _row(2), _row(3, hand_overs=2), _row(4, hand_overs=1), _row(5), _row(6, attempts=1), _row(7)]
    assert _groups(rows) == [[1, 2], [3], [4, 5], [6], [7]]
    assert _groups(rows[:1] + rows[2:3]) == [[1], [3]]
    few = [_row(number) for number in range(5)]
    assert _groups(few, 2) == [[0, 1], [2, 3], [4]]
    assert _groups(few, size=100_000) == [[0, 1], [2, 3], [4]]
    assert _groups(few[:2], size=400_000) == [[0], [1]]
    assert _groups([]) == []
