"""Nothing is kept for ever: results end with 410, and inputs, objects, rows and undelivered notices are deleted."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import func, select
from tests.support.gateway import ECHO, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.proofs import key_of
from tests.support.scripted_runner import ScriptedRunner, fail, lose
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import DeadLetter, HandedJob, ProgressData, dead_letter_event, progress_event
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.schema import job_events, metadata
from enginehouse.gateway.objects import UPLOAD_TTL_SECONDS, Objects, upload_key
from enginehouse.gateway.pace import Pace

KEPT = 1_000.0


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    objects = (tmp_path / "objects").as_uri()
    settings: dict[str, Any] = {"objects_url": objects, "inline_max_bytes": 50, "rows_kept_seconds": KEPT}
    async with gateway_world(tmp_path, pace=Pace(clean_up_seconds=0), **settings) as made:
        yield made


async def succeed_large(runner: ScriptedRunner, event: HandedJob) -> bool:
    await runner.end(event, output_ref=names.output_key("acme", event.id, event.handover))
    return True


async def expired(world: GatewayWorld, job_id: str, ago: float = 1) -> None:
    await world.change(job_id, result_expires_at=time.time() - ago)


def files(folder: Path) -> list[str]:
    root = folder / "objects"
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*/*") if path.is_file())


async def rows(world: GatewayWorld, table: str) -> int:
    query = select(func.count()).select_from(metadata.tables[table])
    return int(await world.gateway.ledger.read(lambda connection: connection.execute(query).scalar_one()))


async def make_older(world: GatewayWorld, table: str, seconds: float) -> None:
    column = metadata.tables[table].c.created_at
    statement = metadata.tables[table].update().values(created_at=column - seconds)
    await world.gateway.ledger.database.transact(lambda connection: connection.execute(statement), durable=False)


async def test_a_result_past_its_time_is_gone_and_so_is_all_it_held(world: GatewayWorld, tmp_path: Path) -> None:
    assert world.gateway.objects is not None
    world.runner.answer = succeed_large
    job_id, other = await world.submit("x" * 100), await world.submit("y" * 100)
    for one in (job_id, other):
        await world.gateway.objects.put(names.output_key("acme", one, 1), b'"long"')
        await world.until_status(one, Status.SUCCEEDED)
    progress = progress_event(key_of(ECHO), ECHO, job_id, ProgressData(kind="log", value="hello", sequence=1_000_001))
    await world.gateway.hints.deliver(progress)
    assert len(files(tmp_path)) == 4
    assert await rows(world, "job_events") == 1
    await expired(world, job_id)
    await world.sweep()
    for call in (
        world.client().get(f"/v1/jobs/{job_id}"),
        world.client().get(f"/v1/jobs/{job_id}/events"),
        world.client().post(f"/v1/jobs/{job_id}/retry"),
    ):
        problem_of(await call, 410, "RESULT_EXPIRED")
    assert files(tmp_path) == [f"acme/inputs/{other}.json", f"acme/outputs/{other}.1.json"]
    assert await rows(world, job_events.name) == 0
    kept = await world.job(other)
    assert kept["output_url"]
    assert kept["input_url"]


async def test_a_jobs_objects_can_be_reached_for_some_minutes_after_its_last_moment(world: GatewayWorld) -> None:
    job_id = await world.submit("x" * 100, max_time_in_queue_seconds=100, execution_timeout_seconds=50)
    event = await world.delivered(job_id)
    objects = event.data.objects
    assert objects is not None
    for url in (objects.input_url, objects.output_url):
        (expires,) = parse_qs(urlsplit(url or "").query)["expires"]
        assert int(expires) >= event.expirytime.timestamp() + 50 + 600


async def test_a_result_past_its_time_is_not_repeated_before_it_is_cleaned_up_either(world: GatewayWorld) -> None:
    job_id = await world.submit("x" * 100)
    await world.until_status(job_id, Status.SUCCEEDED)
    await expired(world, job_id)
    problem_of(await world.client().post(f"/v1/jobs/{job_id}/retry"), 410, "RESULT_EXPIRED")


async def test_much_later_its_row_is_gone_too_with_what_was_told_of_it(world: GatewayWorld) -> None:
    old, recent = await world.submit(), await world.submit()
    for job_id in (old, recent):
        await world.until_status(job_id, Status.SUCCEEDED)
    await expired(world, old, KEPT + 1)
    await expired(world, recent, KEPT - 100)
    await world.sweep()
    problem_of(await world.client().get(f"/v1/jobs/{old}"), 404, "JOB_DOES_NOT_EXIST")
    problem_of(await world.client().get(f"/v1/jobs/{recent}"), 410, "RESULT_EXPIRED")


async def test_a_job_that_has_not_ended_is_kept_however_old_it_is(world: GatewayWorld) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.change(job_id, created_at=time.time() - 100 * KEPT)
    await world.sweep()
    assert (await world.job(job_id))["status"] == "queued"


async def test_uploads_go_by_their_age_and_so_does_what_no_job_can_name(world: GatewayWorld, tmp_path: Path) -> None:
    assert world.gateway.objects is not None
    old, recent = upload_key("acme", is_json=False), upload_key("acme", is_json=False)
    orphan = names.output_key("acme", names.new_job_id(), 1)
    for key in (old, recent, orphan):
        await world.gateway.objects.put(key, b"x")
    age(tmp_path / "objects" / old, UPLOAD_TTL_SECONDS + 60)
    age(tmp_path / "objects" / recent, UPLOAD_TTL_SECONDS - 60)
    age(tmp_path / "objects" / orphan, UPLOAD_TTL_SECONDS + 60)
    await world.sweep()
    assert files(tmp_path) == sorted([recent, orphan])
    age(tmp_path / "objects" / orphan, 60 * 86_400)
    await world.sweep()
    assert files(tmp_path) == [recent]


def age(path: Path, seconds: float) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


async def test_an_upload_that_a_job_names_does_not_go_with_the_job(world: GatewayWorld, tmp_path: Path) -> None:
    assert world.gateway.objects is not None
    key = upload_key("acme", is_json=True)
    await world.gateway.objects.put(key, b"[1]")
    answer = await world.client().post("/v1/engines/echo/jobs", json={"input_ref": key})
    job_id = answer.json()["id"]
    await world.until_status(job_id, Status.SUCCEEDED)
    await expired(world, job_id)
    await world.sweep()
    assert files(tmp_path) == [key]


async def test_dead_letters_stay_as_long_as_their_job_and_others_their_time(world: GatewayWorld) -> None:
    world.runner.answer = fail
    job_id = await world.submit()
    await world.until_status(job_id, Status.FAILED)
    letter = dead_letter_event(key_of(ECHO), ECHO, "e", DeadLetter(reason="UNPARSABLE", event="not JSON"))
    await world.runner.sidecar.publish(names.jobs_component(ECHO), names.DEAD_LETTERS_TOPIC, letter)
    await until_async(lambda: two_letters(world))
    await make_older(world, "dead_letters", KEPT - 100)
    await world.sweep()
    assert len(await letters(world)) == 2
    await make_older(world, "dead_letters", 200)
    await world.sweep()
    assert [one["id"] for one in await letters(world)] == [job_id]
    await expired(world, job_id, KEPT + 1)
    await world.sweep()
    assert await letters(world) == []


async def letters(world: GatewayWorld) -> list[dict[str, Any]]:
    """Return the tenant's dead letters, and those for operators."""
    mine = (await world.client().get("/v1/dead-letters")).json()["dead_letters"]
    others = (await world.client("admin").get("/v1/dead-letters?unparsable=true")).json()["dead_letters"]
    return [*mine, *others]


async def two_letters(world: GatewayWorld) -> bool:
    return len(await letters(world)) == 2


async def test_an_event_that_could_never_be_told_is_let_go(world: GatewayWorld) -> None:
    world.dapr.missing.add(names.requests_component("shared"))
    await world.gateway.notifier.send_event("shared", "some.event", {})
    await until_async(lambda: world.dapr.calls["publish_many"])
    assert await rows(world, "notices") == 1
    await world.sweep()
    assert await rows(world, "notices") == 1
    await make_older(world, "notices", KEPT + 1)
    await world.sweep()
    assert await rows(world, "notices") == 0


async def test_idempotency_keys_end_with_their_time(world: GatewayWorld) -> None:
    await world.client().post("/v1/engines/echo/jobs", json={"input": 1}, headers={"Idempotency-Key": "k"})
    await world.sweep()
    assert await rows(world, "idempotency_keys") == 1
    keys = metadata.tables["idempotency_keys"]
    statement = keys.update().values(expires_at=time.time() - 1)
    await world.gateway.ledger.database.transact(lambda connection: connection.execute(statement), durable=False)
    await world.sweep()
    assert await rows(world, "idempotency_keys") == 0


@pytest.mark.parametrize(("queue", "result"), [(60, 600), (7_200, 60)])
async def test_a_record_outlives_every_delivery_and_its_result(world: GatewayWorld, queue: int, result: int) -> None:
    job_id = await world.submit(
        max_time_in_queue_seconds=queue, result_ttl_seconds=result, execution_timeout_seconds=10
    )
    event = await world.delivered(job_id)
    margin = world.gateway.settings.record_margin_seconds
    assert event.data.record_ttl_seconds == pytest.approx(max(queue, result) + 10 + margin, abs=3)


async def test_objects_are_kept_in_the_folder_named_whatever_is_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "my home" / "ö%20"
    objects = Objects(folder.as_uri(), "http://gateway", max_bytes=100, shared_max_bytes=100)
    await objects.put("acme/inputs/1.json", b"1")
    assert (folder / "acme/inputs/1.json").read_bytes() == b"1"
