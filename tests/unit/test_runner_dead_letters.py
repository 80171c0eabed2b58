"""Deliveries that are no job of this engine are dead-lettered with a reason."""

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.break_ins import attempt
from tests.support.job_events import one_job_event
from tests.support.proofs import key_of
from tests.support.runner import ENGINE, STORE, World, begin, runner_world

from enginehouse.contracts import names
from enginehouse.contracts.events import JobObjects, JobOrder
from enginehouse.contracts.job import Status
from enginehouse.contracts.moments import now


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
    for body in (json.dumps({**event, "data": "text"}).encode(), json.dumps(event).encode()[:-5]):
        assert await world.runner.receiver.deliver(body)
        assert world.dead_letters()[-1]["data"]["job_id"] == job_id


@attempt("hands an engine a job with a proof of another job, or none", layer="a proof in each order of the gateway")
async def test_what_no_gateway_has_handed_over_is_not_run_and_ends_no_job(world: World) -> None:
    event, other = (json.loads(world.event(names.new_job_id())) for _ in range(2))
    order = JobOrder.model_validate(event["data"])
    published, expires = (datetime.fromisoformat(event[name]) for name in ("time", "expirytime"))
    of_another = one_job_event(key_of("acme--other"), ENGINE, "acme", event["id"], order, expires=expires, at=published)
    proofs = [None, "", "é" * 64, other["proof"], json.loads(of_another)["proof"]]
    wrong: list[dict[str, Any]] = [{"proof": shown} for shown in proofs]
    wrong += [{"id": other["id"]}, {"tenantid": "umbra"}, {"attempt": 2}, {"handover": 2}]
    # Nor is it taken later than it was handed over, or as if it were new.
    wrong += [{name: (now() + timedelta(hours=2)).isoformat()} for name in ("time", "expirytime")]
    for change in wrong:
        for data in (event["data"], "text"):
            assert await world.runner.receiver.deliver(json.dumps({**event, **change, "data": data}).encode())
            letter = world.dead_letters()[-1]["data"]
            assert "job_id" not in letter, change
            assert ("proof" if data == event["data"] else "data") in letter["error"]["message"], change
    assert world.engine.calls == []
    assert await world.runner.receiver.deliver(json.dumps(event).encode())
    assert len(world.engine.calls) == 1, "with its own proof it runs"


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
