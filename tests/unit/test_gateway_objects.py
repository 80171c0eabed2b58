"""Signed addresses: each for one object, which is written once, and those of a job's workers only until its end."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import lose

from enginehouse.contracts import names
from enginehouse.contracts.events import HandedJob, JobObjects
from enginehouse.contracts.job import Status
from enginehouse.gateway.handover import job_event


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    objects = (tmp_path / "objects").as_uri()
    settings: dict[str, Any] = {"objects_url": objects, "inline_max_bytes": 50, "public_url": "http://gateway"}
    async with gateway_world(tmp_path, **settings) as made:
        yield made


async def put(world: GatewayWorld, url: str | None, body: bytes) -> httpx2.Response:
    assert url
    return await world.client("umbra").put(url, content=body)


async def get(world: GatewayWorld, url: str | None) -> httpx2.Response:
    assert url
    return await world.client("umbra").get(url)


async def handed_over(world: GatewayWorld, times: int = 1, **options: Any) -> tuple[HandedJob, JobObjects]:
    """Submit a job with a large input, and return its hand-over with its addresses. It does not end by itself."""
    world.runner.answer = lose
    event = await world.delivered(await world.submit("x" * 100, **options), times)
    assert event.data.objects is not None
    return event, event.data.objects


@attempt("changes an upload after it was checked", layer="written once")
async def test_an_upload_is_written_once(world: GatewayWorld, tmp_path: Path) -> None:
    upload = (await world.client().post("/v1/uploads", json={})).json()
    assert (await put(world, upload["url"], b"first")).status_code == 201
    problem_of(await put(world, upload["url"], b"other"), 409, "OBJECT_EXISTS")
    problem_of(await put(world, upload["url"], b"longer than the first"), 409, "OBJECT_EXISTS")
    assert (await put(world, upload["url"], b"first")).status_code == 201  # As after a lost answer.
    assert (tmp_path / "objects" / upload["key"]).read_bytes() == b"first"
    assert list((tmp_path / "objects/acme/arriving").iterdir()) == []


async def test_the_output_of_a_hand_over_is_written_once(world: GatewayWorld, tmp_path: Path) -> None:
    _, objects = await handed_over(world)
    assert objects.output_ref
    assert (await put(world, objects.output_url, b"1")).status_code == 201
    problem_of(await put(world, objects.output_url, b"2"), 409, "OBJECT_EXISTS")
    assert (tmp_path / "objects" / objects.output_ref).read_bytes() == b"1"


async def test_each_hand_over_has_another_address(world: GatewayWorld) -> None:
    event, objects = await handed_over(world)
    await world.runner.end(event, status=Status.QUEUED, retry_at=event.time)
    again = await world.delivered(event.id, 2)
    assert again.data.objects is not None
    assert again.data.objects.output_ref != objects.output_ref
    assert (await put(world, objects.output_url, b"of the first")).status_code == 201
    assert (await put(world, again.data.objects.output_url, b"of the second")).status_code == 201


async def test_the_addresses_of_a_jobs_workers_end_with_it(world: GatewayWorld, tmp_path: Path) -> None:
    event, objects = await handed_over(world)
    assert (await get(world, objects.input_url)).status_code == 200
    await world.runner.end(event, output="small")
    await world.until_status(event.id, Status.SUCCEEDED)
    problem_of(await get(world, objects.input_url), 403, "FORBIDDEN")
    problem_of(await put(world, objects.output_url, b"late"), 403, "FORBIDDEN")
    assert not (tmp_path / "objects" / str(objects.output_ref)).exists()
    assert (await get(world, (await world.job(event.id))["input_url"])).status_code == 200


@attempt("changes an output after its job has ended", layer="addresses end with their job")
async def test_an_output_cannot_be_changed_after_the_end(world: GatewayWorld) -> None:
    event, objects = await handed_over(world)
    await put(world, objects.output_url, b'"result"')
    await world.runner.end(event, output_ref=objects.output_ref)
    job = await world.until_status(event.id, Status.SUCCEEDED)
    for body in (b'"result"', b'"forged"'):
        problem_of(await put(world, objects.output_url, body), 403, "FORBIDDEN")
    assert (await get(world, job["output_url"])).content == b'"result"'


@attempt("uses the signed URL of a job that is gone", layer="addresses end with their job")
async def test_an_address_of_a_job_is_worth_nothing_without_it(world: GatewayWorld) -> None:
    event, objects = await handed_over(world)
    await world.client().post(f"/v1/jobs/{event.id}/cancel")
    url = str(objects.output_url)
    other = await world.submit("x" * 100)
    for changed in (url.partition("&job=")[0], url.replace(f"job={event.id}", f"job={other}")):
        problem_of(await put(world, changed, b"forged"), 403, "FORBIDDEN")


@attempt("forges a record that names another's object as its output", layer="a record names only its job's own objects")
@pytest.mark.parametrize("kind", ["another job", "another tenant", "an upload", "an input", "nonsense"])
async def test_a_record_cannot_make_another_object_its_output(world: GatewayWorld, kind: str) -> None:
    event, _ = await handed_over(world)
    foreign = {
        "another job": names.output_key("acme", names.new_job_id(), 1),
        "another tenant": names.output_key("umbra", event.id, 1),
        "an upload": f"acme/uploads/{names.new_job_id()}.json",
        "an input": f"acme/inputs/{event.id}.json",
        "nonsense": f"acme/outputs/{event.id}.1.json/../../../umbra/inputs/1.json",
    }
    await world.runner.end(event, output_ref=foreign[kind])
    job = await world.until_status(event.id, Status.FAILED)
    assert job["error"]["code"] == "MALFORMED_ANSWER"
    assert "output_url" not in job or job["output_url"] is None


async def test_addresses_do_not_live_as_long_as_the_queue(world: GatewayWorld) -> None:
    week = 7 * 86_400
    event, objects = await handed_over(world, max_time_in_queue_seconds=week, execution_timeout_seconds=50)
    assert event.expirytime.timestamp() > time.time() + week - 60
    longest = time.time() + job_event._LONGEST_WAIT_SECONDS + 50 + job_event._OBJECTS_MARGIN_SECONDS
    assert longest - 60 < (objects.expires_at or 0) <= longest


async def test_objects_of_earlier_hand_overs_go_with_the_job(world: GatewayWorld, tmp_path: Path) -> None:
    event, objects = await handed_over(world)
    await put(world, objects.output_url, b"of a worker that died")
    await world.runner.end(event, status=Status.QUEUED, retry_at=event.time)
    again = await world.delivered(event.id, 2)
    assert again.data.objects is not None
    await put(world, again.data.objects.output_url, b"2")
    await world.runner.end(again, output_ref=again.data.objects.output_ref)
    await world.until_status(event.id, Status.SUCCEEDED)
    await world.change(event.id, result_expires_at=time.time() - 1)
    await world.sweep()
    assert [path for path in (tmp_path / "objects").glob("*/*/*") if path.is_file()] == []


async def test_no_dead_letter_holds_a_signature(world: GatewayWorld) -> None:
    event, _ = await handed_over(world)
    unknown = names.new_job_id()  # The dead letter of a job that the ledger knows ends that job.
    body = world.dapr.published[names.job_topic(ECHO)][-1].replace(event.id.encode(), unknown.encode())
    assert b"signature=" in body
    for changed in (body, body[:-10], body.replace(b"&", b"\\u0026"), body.replace(b"/", b"\\/")):
        await world.runner.sidecar.publish(names.jobs_component(ECHO), names.DEAD_LETTERS_TOPIC, changed)
    await world.idle()
    query = {"unparsable": "true"}
    letters = (await world.client("admin").get("/v1/dead-letters", params=query)).json()["dead_letters"]
    assert len(letters) == 4
    for letter in letters:
        shown = (await world.client("admin").get(f"/v1/dead-letters/{letter['id']}")).text
        assert unknown in shown
        assert "signature" not in shown
        assert "expires=" not in shown
