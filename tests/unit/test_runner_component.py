"""A runner may have a pub/sub component of another name than its engine's: it publishes through that alone."""

import json
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.support.runner import ENGINE, STORE, World, runner_world
from tests.support.waiting import until_async

from enginehouse.contracts import events, names
from enginehouse.contracts.engine import Heartbeat
from enginehouse.sidecar.fake import FakeDapr

_OF_SLOT = f"jobs-{ENGINE}--a"


def _types(world: World) -> set[str]:
    return {json.loads(event)["type"] for event in world.dapr.published[names.COMPLETIONS_TOPIC]}


async def test_all_that_a_runner_publishes_goes_through_the_component_of_its_slot(tmp_path: Path) -> None:
    dapr = FakeDapr()
    dapr.missing.add(names.jobs_component(ENGINE))
    async with runner_world(tmp_path, dapr=dapr, jobs_component=_OF_SLOT) as world:

        async def stream(_: web.Request) -> web.StreamResponse:
            await until_async(lambda: events.JOB_STARTED in _types(world))
            lines = [json.dumps(line) for line in ({"log": "begun"}, {"result": 7})]
            return web.Response(text="\n".join(lines), headers={"Content-Type": "application/x-ndjson"})

        world.engine.predict = stream
        assert (await world.run()).output == 7
        assert await world.runner.receiver.deliver(b"no job")
        assert world.dead_letters()
        await until_async(lambda: events.ENGINE_ANNOUNCED in _types(world))
        await world.runner.drain()
        assert _types(world) == {
            events.ENGINE_ANNOUNCED,
            events.JOB_STARTED,
            events.JOB_PROGRESS,
            events.JOB_COMPLETED,
            events.WORKER_LEFT,
        }


async def test_a_runner_receives_jobs_through_the_component_of_its_slot(tmp_path: Path) -> None:
    dapr = FakeDapr()

    async def beat(world: World) -> Any:
        await world.runner.heartbeats.beat()
        return Heartbeat.model_validate_json(dapr.stores[STORE][names.worker_key("worker-1")].value)

    async with runner_world(tmp_path, dapr=dapr, jobs_component=_OF_SLOT) as world:
        dapr.subscribe(names.job_topic(ENGINE), world.runner.receiver.deliver)
        dapr.components.add(names.jobs_component(ENGINE))
        assert not (await beat(world)).subscribed
        dapr.components.add(_OF_SLOT)
        assert (await beat(world)).subscribed
