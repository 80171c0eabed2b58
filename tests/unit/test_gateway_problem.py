"""Why an engine does not work is shown to its owner and to administrators, wherever they look; others see that it does not."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, PRIVATE, STANDARD, GatewayWorld, gateway_world
from tests.support.gateway_engines import engine, operate
from tests.support.scripted_runner import lose

_LAST_WORDS = "It keeps ending. Its last lines:\nSyntaxError: '(' was never closed"
_GENERAL = "It does not work at present; its owner can see why"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path) as made:
        await made.runner.beat(healthy=False, subscribed=False, problem=_LAST_WORDS)
        yield made


async def _shown(world: GatewayWorld, name: str, tenant: str = "acme") -> dict[str, Any]:
    found = world.gateway.catalogue.get(name)
    assert found is not None
    found.workers_read_at = 0
    answer = await world.client(tenant).get(f"/v1/engines/{name}")
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def test_its_owner_sees_why_in_the_list_and_by_its_name(world: GatewayWorld) -> None:
    shown = await _shown(world, ECHO)
    assert (shown["state"], shown["health"], shown["reason"]) == ("active", "unhealthy", _LAST_WORDS)
    listed = (await world.client().get("/v1/engines")).json()["engines"]
    assert [entry["reason"] for entry in listed if entry["id"] == ECHO] == [_LAST_WORDS]


async def test_a_queued_job_says_why_it_waits(world: GatewayWorld) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.change(job_id, created_at=0)
    engine(world).workers_read_at = 0
    job = await world.job(job_id)
    assert (job["status_reason"], job["status_detail"]) == ("waiting_for_worker", _LAST_WORDS)


async def test_other_tenants_of_a_shared_engine_read_no_last_words(world: GatewayWorld) -> None:
    await world.runners[STANDARD].beat(healthy=False, problem=_LAST_WORDS)
    assert (await _shown(world, STANDARD))["reason"] == _GENERAL
    assert (await _shown(world, STANDARD, "admin"))["reason"] == _LAST_WORDS
    world.runners[STANDARD].answer = lose
    job_id = await world.submit(engine="standard")
    assert (await world.job(job_id))["status_detail"] == _GENERAL


async def test_an_administrator_sees_the_engines_of_every_tenant_and_nobody_else_does(world: GatewayWorld) -> None:
    await world.runners[PRIVATE].beat(healthy=False, problem=_LAST_WORDS)
    assert (await _shown(world, PRIVATE, "admin"))["reason"] == _LAST_WORDS
    assert (await world.client().get(f"/v1/engines/{PRIVATE}")).status_code == 404
    assert (await world.client("admin").get("/v1/engines/nobody--nothing")).status_code == 404


async def test_a_quarantines_reason_stands_alone_for_it_is_stopped_and_ends_no_more(world: GatewayWorld) -> None:
    await operate(world, "quarantine", {"reason": "it lies"})
    assert (await _shown(world, ECHO))["reason"] == "it lies"


async def test_the_reason_is_gone_as_soon_as_it_works(world: GatewayWorld) -> None:
    await _shown(world, ECHO)
    await world.runner.beat(idle_for=0)
    shown = await _shown(world, ECHO)
    assert (shown["health"], shown["reason"]) == ("healthy", None)


async def test_a_worker_that_is_still_starting_is_not_said_to_receive_no_jobs(world: GatewayWorld) -> None:
    await world.runner.beat(healthy=False, subscribed=False)
    assert (await _shown(world, ECHO))["reason"] is None
    await world.runner.beat(healthy=True, subscribed=False)
    assert "receives jobs" in (await _shown(world, ECHO))["reason"]


async def test_an_engine_without_a_living_worker_says_so_unless_it_may_sleep(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, cards={STANDARD: {"idle_at_zero": True}}) as world:
        assert (await _shown(world, ECHO))["reason"] == "None of its workers is up"
        shown = await _shown(world, STANDARD)
        assert (shown["health"], shown["reason"]) == ("asleep", None)
        assert engine(world).workers == []


async def test_an_engine_whose_workers_have_no_replica_is_asleep_if_it_may_be(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, cards={ECHO: {"idle_at_zero": True}}) as world:
        await world.runner.beat(healthy=False, asleep=True)
        shown = await _shown(world, ECHO)
        assert (shown["health"], shown["reason"]) == ("asleep", None)
        await world.runner.beat(healthy=False)
        assert (await _shown(world, ECHO))["health"] == "unhealthy"
        await world.runners[STANDARD].beat(healthy=False, asleep=True)
        assert (await _shown(world, STANDARD))["health"] == "unhealthy", "it has a replica at all times"
