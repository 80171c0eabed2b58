"""Completions are hints: one that is late, repeated, lost or nonsense loses no job and stops no other."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, PRIVATE, Clock, GatewayWorld, gateway_world, impatient, sweep_in
from tests.support.proofs import key_of
from tests.support.scripted_runner import ScriptedRunner, never, succeed, succeed_untold
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import (
    JOB_COMPLETED,
    WORKER_LEFT,
    HandedJob,
    ProgressData,
    completion_event,
    progress_event,
)
from enginehouse.contracts.job import Status
from enginehouse.contracts.proofs import proves
from enginehouse.gateway.ledger import read
from enginehouse.sidecar.base import StateItem
from enginehouse.sidecar.fake import FakeSidecar


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_one_that_got_lost_is_found_by_the_sweep(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = succeed_untold
    job_id = await world.submit()
    waiting = asyncio.create_task(world.job(job_id, wait=30))
    await world.delivered(job_id)
    await until_async(lambda: world.record(job_id))
    assert (await world.job(job_id))["status"] == "queued"
    await sweep_in(world, clock, 3)
    assert (await asyncio.wait_for(waiting, 20))["status"] == "succeeded"
    assert len(world.runner.events) == 1


async def test_one_that_comes_while_the_store_is_away_is_made_up_for(world: GatewayWorld) -> None:
    async def succeed_while_the_store_is_away(runner: ScriptedRunner, event: HandedJob) -> bool:
        world.dapr.fail("read_many", on=event.id)
        return await succeed(runner, event)

    world.runner.answer, world.runner.brings_records = succeed_while_the_store_is_away, False
    job_id = await world.submit()
    await world.delivered(job_id)
    await until_async(lambda: not world.dapr.failures["read_many"])
    await world.idle()
    assert (await world.job(job_id))["status"] == "queued"
    await world.aged(job_id, 3)
    await world.sweep()
    assert (await world.job(job_id))["status"] == "succeeded"


async def test_an_error_that_nobody_foresaw_does_not_stop_those_that_follow(world: GatewayWorld) -> None:
    async def succeed_unforeseen(runner: ScriptedRunner, event: HandedJob) -> bool:
        world.dapr.fail("read_many", RuntimeError("nobody foresaw this"), on=event.id)
        return await succeed(runner, event)

    world.runner.answer, world.runner.brings_records = succeed_unforeseen, False
    ids = [await world.submit(number) for number in range(5)]
    for job_id in ids:
        await world.until_status(job_id, Status.SUCCEEDED)
    await world.idle()


@attempt("publishes nonsense as a completion", layer="what proves nothing does nothing")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b'{"type":"x"}',
        b'{"type":"dev.enginehouse.job.completed.v1","engineid":"acme--echo","subject":"not an id"}',
        b'{"type":"dev.enginehouse.job.completed.v1","engineid":5,"subject":"01890a5d-ac96-7b2a-8c4e-0123456789ab"}',
        b'{"type":"dev.enginehouse.engine.announced.v1","engineid":"no engine","subject":"a"}',
        b'{"type":"dev.enginehouse.engine.announced.v1","engineid":"acme--none","subject":"a"}',
    ],
)
async def test_nonsense_is_acknowledged_and_forgotten(world: GatewayWorld, body: bytes) -> None:
    before = await world.stored()
    assert await world.gateway.hints.deliver(body)
    assert await world.stored() == before
    await world.until_status(await world.submit(), Status.SUCCEEDED)


@attempt("forges the completion of a job that nobody submitted", layer="the ledger names the jobs")
async def test_those_of_a_job_that_nobody_accepted_are_acknowledged(world: GatewayWorld) -> None:
    before, job_id = await world.stored(), names.new_job_id()
    await world.runner.tell("dev.enginehouse.job.completed.v1", job_id, Status.SUCCEEDED, 1)
    await world.idle()
    assert await world.stored() == before
    assert (await world.client().get(f"/v1/jobs/{job_id}")).status_code == 404


@attempt("writes a record that cannot be read or kept", layer="each record is bounded, and read for itself")
@pytest.mark.parametrize(
    "record",
    [
        b"no record",
        b'{"status":"failed","attempt":9999999999999999999}',
        b'{"status":"failed","attempt":-1}',
        b'{"status":"failed","attempt":1,"finished_at":"9999-12-31T23:59:59Z"}',
        b'{"status":"failed","attempt":1,"started_at":"0001-01-01T00:00:00+14:00"}',
        b'{"status":"failed","attempt":1,"predict_time":1e999}',
    ],
    ids=range(6),
)
async def test_a_record_that_cannot_be_read_stops_no_other(world: GatewayWorld, record: bytes) -> None:
    world.runner.answer = never
    broken, fine = await world.submit(1), await world.submit(2)
    for job_id in (broken, fine):
        await world.until_status(job_id, Status.RUNNING)
    await world.sidecar.put(names.results_component(ECHO), broken, record)
    for job_id in (broken, fine):
        await world.runner.tell("dev.enginehouse.job.completed.v1", job_id, Status.SUCCEEDED, 1)
    await world.runner.records.change(
        fine, 60, lambda present: present and present.model_copy(update={"status": Status.SUCCEEDED})
    )
    await world.runner.tell("dev.enginehouse.job.completed.v1", fine, Status.SUCCEEDED, 1)
    await world.until_status(fine, Status.SUCCEEDED)
    assert (await world.job(broken))["status"] == "running"


async def _lines(world: GatewayWorld, job_id: str) -> list[Any]:
    _, events = await world.gateway.ledger.read(read.followed, job_id, 0, 100)
    return [json.loads(event.value) for event in events if event.kind == "log"]


@attempt("speaks in the name of another engine's runner", layer="a proof of its runner in each event")
async def test_an_event_without_its_engines_proof_does_nothing(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.delivered(job_id)
    line = ProgressData(kind="log", value="forged", sequence=1_000_001)
    events = [
        progress_event(key_of("umbra--other"), ECHO, job_id, line),
        completion_event(key_of("umbra--other"), ECHO, WORKER_LEFT, "a", None),
        progress_event(key_of(ECHO), ECHO, job_id, line).replace(b".1000001", b".1000002"),
        progress_event(key_of(ECHO), ECHO, job_id, line).replace(b'"proof"', b'"other"'),
    ]
    of_another_line = progress_event(key_of(ECHO), ECHO, job_id, line).replace(
        b'"sequence":1000001', b'"sequence":1000002'
    )
    with capture_logs() as logs:
        for event in events:
            assert await world.gateway.hints.deliver(event), "it does not come again"
    assert [line["action"] for line in logs] == ["completion_unproven"] * 4
    assert await world.gateway.hints.deliver(of_another_line)
    assert await _lines(world, job_id) == []
    assert await world.gateway.hints.deliver(progress_event(key_of(ECHO), ECHO, job_id, line))
    assert await _lines(world, job_id) == ["forged"], "with its proof it counts"


def _reads(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which records the gateway reads in the store."""
    read_many, noted = FakeSidecar.read_many, list[str]()

    async def noting(self: FakeSidecar, store: str, keys: Sequence[str]) -> dict[str, StateItem]:
        noted.extend(key for key in keys if names.is_job_id(key))
        return await read_many(self, store, keys)

    monkeypatch.setattr(FakeSidecar, "read_many", noting)
    return noted


async def test_a_final_record_that_comes_along_is_not_read_again(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _reads(world, monkeypatch)
    ids = [await world.submit(number) for number in range(3)]
    for number, job_id in enumerate(ids):
        assert (await world.until_status(job_id, Status.SUCCEEDED))["output"] == {"echo": number}
    assert not {*reads} & {*ids}
    world.runner.brings_records = False
    job_id = await world.submit()
    await world.until_status(job_id, Status.SUCCEEDED)
    assert job_id in reads


_FORGED = '{"status":"succeeded","attempt":1,"output":"forged"}'


@attempt("brings along a forged record of another engine's job", layer="the ledger names each job's engine")
async def test_a_record_of_another_engines_job_is_not_taken(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    foreign = world.runners[PRIVATE]
    await foreign.tell(JOB_COMPLETED, job_id, Status.SUCCEEDED, 1, {job_id: _FORGED})
    await world.idle()
    assert (await world.job(job_id))["status"] == "running"


@attempt("changes the record that a completion brings along", layer="a proof that covers the record")
async def test_a_record_that_the_proof_does_not_cover_is_not_taken(world: GatewayWorld) -> None:
    world.runner.answer = never
    job_id, other = await world.submit(), await world.submit()
    for one in (job_id, other):
        await world.until_status(one, Status.RUNNING)
    genuine = completion_event(
        key_of(ECHO), ECHO, JOB_COMPLETED, job_id, Status.SUCCEEDED, 1, records={job_id: _FORGED}
    )
    for records in (
        {job_id: _FORGED.replace("forged", "changed")},
        {other: _FORGED},
        {job_id: _FORGED, other: _FORGED},
    ):
        event = json.loads(genuine)
        event["data"] |= {"records": records, "also": [other]}
        assert await world.gateway.hints.deliver(json.dumps(event).encode())
    await world.idle()
    assert {(await world.job(one))["status"] for one in (job_id, other)} == {"running"}


async def test_a_completion_whose_records_are_not_taken_is_still_a_hint(world: GatewayWorld) -> None:
    world.runner.answer = succeed_untold
    job_id = await world.submit()
    await world.delivered(job_id)
    await world.idle()
    body = completion_event(key_of(ECHO), ECHO, JOB_COMPLETED, job_id, Status.SUCCEEDED, 1, records={job_id: _FORGED})
    event = json.loads(body)
    event["data"]["records_proof"] = "0" * 64
    assert await world.gateway.hints.deliver(json.dumps(event).encode())
    assert (await world.until_status(job_id, Status.SUCCEEDED))["output"] == {"echo": "hello"}


def test_a_gateway_that_knows_no_records_takes_the_completion_all_the_same() -> None:
    job_id = names.new_job_id()
    event = json.loads(
        completion_event(key_of(ECHO), ECHO, JOB_COMPLETED, job_id, Status.SUCCEEDED, 1, records={job_id: "{}"})
    )
    assert proves(event["proof"], key_of(ECHO), event["type"], event["id"], job_id)


@pytest.mark.parametrize(
    "text",
    [
        '{"status":"running","attempt":7}',
        '{"status":"queued","attempt":7}',
        "no record",
        '{"status":"failed","attempt":-1}',
    ],
    ids=["running", "queued", "nonsense", "impossible"],
)
async def test_what_comes_along_and_is_no_final_record_is_read_in_the_store(world: GatewayWorld, text: str) -> None:
    world.runner.answer = succeed_untold
    job_id = await world.submit()
    await world.delivered(job_id)
    await world.idle()
    await world.runner.tell(JOB_COMPLETED, job_id, Status.SUCCEEDED, 1, {job_id: text})
    job = await world.until_status(job_id, Status.SUCCEEDED)
    assert (job["attempts"], job["output"]) == (1, {"echo": "hello"})
