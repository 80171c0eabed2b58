"""A tenant keeps as many bytes in the object store as its limit says, however it writes them; outputs are never refused."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from tests.support.gateway import GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.scripted_runner import lose

from enginehouse.contracts.errors import StorageFull
from enginehouse.contracts.names import output_key
from enginehouse.contracts.tenant import Limits, Tenant
from enginehouse.gateway.objects import upload_key
from enginehouse.gateway.pace import Pace
from enginehouse.gateway.tenants.stored_bytes import StoredBytes

QUOTA = 1_000
JOBS = "/v1/engines/echo/jobs"


@pytest.fixture
def stored() -> StoredBytes:
    tenant = Tenant(name="acme", limits=Limits(stored_bytes=QUOTA))
    return StoredBytes(lambda _: tenant, recounted_every_seconds=600)


def test_what_is_written_counts_and_what_would_exceed_the_limit_is_refused(stored: StoredBytes) -> None:
    with stored.writing("acme/uploads/1.bin", 900):
        pass
    with pytest.raises(StorageFull, match="900 bytes") as refused, stored.writing("acme/uploads/2.bin", 101):
        pass
    assert refused.value.retryable
    assert refused.value.retry_after_seconds == 600
    stored.check("acme", 100)
    stored.check("umbra", QUOTA)


def test_those_that_are_being_written_count_too(stored: StoredBytes) -> None:
    with stored.writing("acme/uploads/1.bin", 600), pytest.raises(StorageFull):
        stored.check("acme", 600)
    with pytest.raises(ValueError, match="broken"), stored.writing("acme/uploads/2.bin", 400):
        raise ValueError("broken")
    assert stored.used("acme") == 600


def test_an_object_of_unknown_size_keeps_what_is_left_until_it_is_known(stored: StoredBytes) -> None:
    with stored.writing("acme/uploads/1.bin", None, at_most=5_000) as room:
        assert room.size == QUOTA
        with pytest.raises(StorageFull):
            stored.check("acme")
        room.size = 10
    assert stored.used("acme") == 10


def test_an_object_that_is_written_again_counts_once(stored: StoredBytes) -> None:
    for size in (300, 500):
        with stored.writing("acme/uploads/1.bin", size):
            pass
    assert stored.used("acme") == 500


def test_the_list_of_the_store_replaces_what_was_counted_before_it_began(stored: StoredBytes) -> None:
    stored.note("acme/outputs/old.json", 700)
    stored.begin_listing(time.time())
    stored.note("acme/outputs/new.json", 50)
    stored.end_listing({"acme": 200, "umbra": 5}, {})
    assert (stored.used("acme"), stored.used("umbra")) == (250, 5)
    stored.begin_listing(time.time())
    stored.end_listing({"acme": 100}, {})
    assert (stored.used("acme"), stored.used("umbra")) == (100, 0)


@pytest.mark.parametrize("noted", ["before the list is read", "after"])
def test_an_object_that_is_listed_and_noted_counts_once(stored: StoredBytes, noted: str) -> None:
    for _ in range(2):
        stored.begin_listing(time.time())
        if noted != "after":
            stored.note("acme/uploads/1.bin", 300)
        stored.end_listing({"acme": 200}, {"acme/uploads/1.bin": 300})
        stored.note("acme/uploads/1.bin", 300)
        assert stored.used("acme") == 500
    stored.begin_listing(time.time())
    stored.end_listing({"acme": 500}, {})
    assert stored.used("acme") == 500


def test_a_list_that_broke_off_loses_nothing(stored: StoredBytes) -> None:
    stored.note("acme/outputs/old.json", 700)
    stored.begin_listing(time.time())
    stored.begin_listing(time.time())
    stored.end_listing({"acme": 700}, {})
    assert stored.used("acme") == 700


def test_an_upload_in_the_list_is_not_counted_again_when_jobs_name_it(stored: StoredBytes) -> None:
    key = upload_key("acme", is_json=False)
    stored.begin_listing(time.time() + 1)
    stored.end_listing({"acme": 400}, {})
    stored.note_upload(key, 400)
    assert stored.used("acme") == 400
    stored.begin_listing(time.time() - 60)
    stored.end_listing({}, {})
    for _ in range(2):
        stored.note_upload(key, 400)
    assert stored.used("acme") == 400


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    settings: dict[str, Any] = {"objects_url": (tmp_path / "objects").as_uri(), "inline_max_bytes": 50}
    async with gateway_world(tmp_path, pace=Pace(clean_up_seconds=0), **settings) as made:
        path = tmp_path / "tenants/acme/tenant.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "limits": {"stored_bytes": QUOTA}}))
        made.gateway.tenants.load()
        yield made


async def put(world: GatewayWorld, body: bytes, tenant: str = "acme") -> httpx2.Response:
    made = await world.client(tenant).post("/v1/uploads", json={})
    assert made.status_code == 201, made.text
    return await world.client(tenant).put(made.json()["url"], content=body)


async def test_beyond_its_limit_a_tenant_uploads_nothing_and_submits_no_large_inputs(world: GatewayWorld) -> None:
    assert (await put(world, b"x" * 800)).status_code == 201
    refused = await put(world, b"x" * 201)
    problem_of(refused, 429, StorageFull.code)
    assert int(refused.headers["retry-after"]) >= 1
    assert (await put(world, b"x" * 200)).status_code == 201
    for path, body in (("/v1/uploads", {}), (JOBS, {"input": "y" * 100})):
        problem_of(await world.client().post(path, json=body), 429, StorageFull.code)
    assert (await world.client().post(JOBS, json={"input": "small"})).status_code == 202
    assert (await put(world, b"x" * 5_000, "umbra")).status_code == 201


async def test_bytes_that_are_sent_again_are_counted_once(world: GatewayWorld) -> None:
    url = (await world.client().post("/v1/uploads", json={})).json()["url"]
    for _ in range(3):
        assert (await world.client().put(url, content=b"x" * 300)).status_code == 201
    assert world.gateway.stored.used("acme") == 300


async def test_many_uploads_at_once_do_not_exceed_it_together(world: GatewayWorld) -> None:
    urls = [(await world.client().post("/v1/uploads", json={})).json()["url"] for _ in range(8)]
    answers = await asyncio.gather(*(world.client().put(url, content=b"x" * 300) for url in urls))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 5


async def test_the_output_of_an_accepted_job_is_stored_whatever_the_tenant_keeps(world: GatewayWorld) -> None:
    await put(world, b"x" * QUOTA)
    objects = world.gateway.objects
    assert objects is not None
    world.runner.answer = lose
    job_id = await world.submit("small")
    url = await objects.sign("PUT", output_key("acme", job_id, 1), time.time() + 60)
    assert (await world.client().put(url, content=b"z" * 500)).status_code == 201
    assert world.gateway.stored.used("acme") == QUOTA + 500


async def test_room_that_expired_objects_leave_is_found_by_the_clean_up_also_after_a_restart(
    world: GatewayWorld, tmp_path: Path
) -> None:
    await put(world, b"x" * 900)
    (upload,) = (tmp_path / "objects/acme/uploads").iterdir()
    world.gateway.stored.begin_listing(0)
    world.gateway.stored.end_listing({}, {})
    await world.sweep()
    assert world.gateway.stored.used("acme") == 900
    upload.unlink()
    await world.sweep()
    assert world.gateway.stored.used("acme") == 0
    assert (await put(world, b"x" * 900)).status_code == 201
