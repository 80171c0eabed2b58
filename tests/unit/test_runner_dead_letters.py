"""Deliveries that are no job of this engine are dead-lettered with a reason."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.runner import ENGINE, STORE, World, begin, runner_world

from enginehouse.contracts import names
from enginehouse.contracts.events import JobObjects
from enginehouse.contracts.job import Status


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with runner_world(tmp_path) as made:
        yield made


def _changed(world: World, **changes: Any) -> bytes:
    return json.dumps({**json.loads(world.event(names.new_job_id())), **changes}).encode()


async def test_garbage_is_dead_lettered_with_a_reason_and_the_engine_goes_on(world: World) -> None:
    garbage = {
        b"\xff\x00": "JSON",
        b"[]": "object",
        b"{}": "id",
        _changed(world, engineid="acme--other"): "not this engine",
        _changed(world, id="../../etc/passwd"): "not a job id",
        _changed(world, type="something.else"): "type",
        _changed(world, attempt=0): "attempt",
        _changed(world, data="text"): "data",
        _changed(world, expirytime="tomorrow"): "expirytime",
    }
    for body, said in garbage.items():
        assert await world.runner.receiver.deliver(body)
        letter = world.dead_letters()[-1]
        assert letter["engineid"] == ENGINE
        assert letter["data"]["reason"] == "UNPARSABLE"
        assert said in letter["data"]["error"]["message"], letter
        assert letter["data"]["event"] == body.decode("utf-8", "replace")
    assert len({letter["id"] for letter in world.dead_letters()}) == len(garbage)
    assert world.engine.calls == []
    assert (await world.run()).status is Status.SUCCEEDED


@pytest.mark.parametrize("cut", [0, 40])
async def test_a_dead_letter_holds_no_signature(world: World, cut: int) -> None:
    url = "https://store.example/acme/outputs/1.json?X-Amz-Credential=me&X-Amz-Signature=5ec2e7"
    objects = JobObjects(input_url=url, output_url=url)
    body = world.event(names.new_job_id(), objects=objects).replace(b"job.requested", b"something.else")
    assert await world.runner.receiver.deliver(body[: len(body) - cut])
    said = world.dead_letters()[-1]["data"]["event"]
    assert "https://store.example/acme/outputs/1.json?..." in said
    assert "Credential" not in said
    assert "5ec2e7" not in said


async def test_a_dead_letter_names_the_job_that_it_was(world: World) -> None:
    job_id = names.new_job_id()
    event = json.loads(world.event(job_id))
    for body in (json.dumps({**event, "attempt": 0}).encode(), json.dumps(event).encode()[:-5]):
        assert await world.runner.receiver.deliver(body)
        assert world.dead_letters()[-1]["data"]["job_id"] == job_id


async def test_the_same_garbage_is_the_same_dead_letter(world: World) -> None:
    await world.runner.receiver.deliver(b"{}")
    await world.runner.receiver.deliver(b"{}")
    assert len({letter["id"] for letter in world.dead_letters()}) == 1


async def test_garbage_is_not_acknowledged_before_it_is_dead_lettered(world: World) -> None:
    world.dapr.fail("publish", on=names.DEAD_LETTERS_TOPIC)
    assert not await world.runner.receiver.deliver(b"{}")
    assert await world.runner.receiver.deliver(b"{}")


async def test_a_record_that_cannot_be_read_is_dead_lettered(world: World) -> None:
    job_id = names.new_job_id()
    await world.sidecar.put(STORE, job_id, b"not a record")
    assert await begin(world, job_id, attempt=2)
    assert world.dead_letters()[-1]["data"]["reason"] == "UNPARSABLE"
    assert world.dead_letters()[-1]["data"]["job_id"] == job_id
