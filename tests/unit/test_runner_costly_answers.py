"""What takes long to read or check takes no time of the engine's, waits by tenant, and ends no job on a busy machine."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.clocks import Clocks
from tests.support.runner import World, patient_batch, runner_world

from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.job import Status
from enginehouse.runner.blame import Blame
from enginehouse.runner.outcome import HandedBack

TEXT = "x" * 500_000


class SlowChecks:
    """Stands for checkers whose processes have so much to do that the time of each job runs out meanwhile."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.owners: list[str] = []
        self.are_unavailable = False
        self.begun_at = 0.0
        self._clocks = Clocks(monkeypatch)
        monkeypatch.setattr(world.runner._checkers, "run", self.run)

    async def run(self, owner: str, _: float, check: Callable[..., Any], *arguments: Any) -> Any:
        self.owners.append(owner)
        if self.are_unavailable:
            raise Unavailable("too much is checked now")
        self.begun_at = time.monotonic()
        self._clocks.run_out()
        await asyncio.sleep(0.1)
        return check(*arguments)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path, execution_timeout_seconds=30) as made:
        made.runner.pool.tenants.blame = Blame()
        yield made


@pytest.fixture
def checks(world: World, monkeypatch: pytest.MonkeyPatch) -> SlowChecks:
    return SlowChecks(world, monkeypatch)


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_an_answer_that_has_arrived_runs_out_of_no_time_while_it_is_read(
    world: World, checks: SlowChecks, kind: str
) -> None:
    async def predict(_: web.Request) -> web.StreamResponse:
        return web.Response(text=f'{{"result":"{TEXT}"}}', content_type=kind)

    world.engine.predict = predict
    began = time.monotonic()
    record = await world.run(tenant="umbra")
    assert (record.status, record.output) == (Status.SUCCEEDED, TEXT)
    assert record.predict_time is not None
    assert record.predict_time <= checks.begun_at - began
    assert checks.owners == ["umbra"]
    assert world.runner.pool.held_back_seconds("umbra") == 0


async def test_the_answer_to_a_batch_runs_out_of_no_time_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with runner_world(tmp_path, batch=patient_batch(2)) as world:
        checks = SlowChecks(world, monkeypatch)
        records = await asyncio.gather(*(world.run(TEXT, tenant="umbra") for _ in range(2)))
        assert [record.status for record in records] == [Status.SUCCEEDED] * 2
        assert (len(world.engine.batches), checks.owners) == (1, ["umbra"])


async def test_a_line_that_is_no_answer_gives_its_engine_no_more_time(world: World, checks: SlowChecks) -> None:
    async def predict(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(f'{{"log":{{"result":"{TEXT}"}}}}\n'.encode())
        await asyncio.Event().wait()
        raise AssertionError

    world.engine.predict = predict
    assert (await world.run()).status is Status.TIMED_OUT
    assert len(checks.owners) == 1


async def test_an_answer_that_a_busy_machine_cannot_read_counts_no_attempt(world: World, checks: SlowChecks) -> None:
    checks.are_unavailable = True
    record = await world.run(TEXT)
    assert (record.status, record.attempt, record.error) == (Status.QUEUED, 0, None)
    assert record.retry_at is not None


async def test_an_input_that_a_busy_machine_cannot_check_counts_no_attempt(world: World, checks: SlowChecks) -> None:
    checks.are_unavailable = True
    assert isinstance(await world.runner.objects._as_json(b"[" * 500_000, "umbra"), HandedBack)
    assert checks.owners == ["umbra"]
