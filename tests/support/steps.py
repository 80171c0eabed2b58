"""An engine that works step by step, and jobs that wait for it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web
from tests.support.runner import World, begin, echo
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.job import JobRecord
from enginehouse.runner import blame as blame_module
from enginehouse.runner.blame import Blame


class Steps:
    """An engine's predict that ends one call at each step, the oldest one first."""

    def __init__(self, world: World) -> None:
        self.begun: list[Any] = []
        self._ends: list[asyncio.Event] = []
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        end = asyncio.Event()
        self.begun.append((await request.json())["data"])
        self._ends.append(end)
        await end.wait()
        return await echo(request)

    async def end_one(self) -> None:
        """End the oldest call, and wait until its place has gone to the next job."""
        begun = len(self.begun)
        self._ends.pop(0).set()
        await until_async(lambda: len(self.begun) > begun)

    def end_all(self) -> None:
        """End every call that is out."""
        while self._ends:
            self._ends.pop(0).set()


async def wait_in_line(world: World, tenant: str, jobs: int, **options: Any) -> list["asyncio.Task[bool]"]:
    """Deliver jobs, and wait until each has a place or waits for one, or has ended. Return their deliveries."""
    pool, options = world.runner.pool, {"data": tenant, **options}

    def in_line() -> int:
        waiting = sum(len(line) for asker, line in pool._waiting.items() if asker.tenant == tenant)
        return waiting + pool.tenants.held(tenant)

    # That a job is in hand is too little: on a slow machine its record is read before it asks for a place.
    before = in_line()
    tasks = [begin(world, names.new_job_id(), tenant=tenant, **options) for _ in range(jobs)]
    await until_async(lambda: in_line() - before + sum(task.done() for task in tasks) >= jobs)
    return tasks


def records_of(world: World, tasks: Sequence["asyncio.Task[bool]"]) -> list[JobRecord]:
    """Return the records of the jobs of these deliveries, which may have ended long ago."""
    return [world.record(task.get_name()) for task in tasks]


async def finish(steps: Steps, tasks: list["asyncio.Task[bool]"]) -> None:
    """End every call until all deliveries are answered."""
    while not all(task.done() for task in tasks):
        steps.end_all()
        await asyncio.sleep(0.005)
    assert all(task.result() for task in tasks)


async def dies(request: web.Request) -> web.StreamResponse:
    """End the connection, as an engine does that is killed by its input."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Leaps:
    """The time that blame knows. It stands still, so that no hold ends because a machine is slow, and the test leaps over it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(blame_module, "_now", lambda: self.seconds)


def blame_of(world: World) -> Blame:
    """Return what the runner of a shared engine knows against tenants."""
    blame = world.runner.pool.tenants.blame
    assert blame is not None
    return blame
