"""A gateway tells whoever scales engines how many unfinished jobs each has, inside the cluster only."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.break_ins import attempt
from tests.support.dapr import PORTS
from tests.support.gateway import ECHO, PRIVATE, STANDARD, TOKEN, GatewayWorld, gateway_settings, gateway_world
from tests.support.gateway_engines import engine, operate, submit_many
from tests.support.ledger import sqlite_url
from tests.support.scripted_runner import lose, succeed
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Unavailable
from enginehouse.gateway.handover import unfinished
from enginehouse.gateway.http.internal import create_internal_app
from enginehouse.gateway.ledger import counts


async def _get(world: GatewayWorld, path: str, *, is_open: bool = True) -> httpx2.Response:
    transport = httpx2.ASGITransport(create_internal_app(world.gateway, lambda: is_open))
    async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as keda:
        return await keda.get(path)


async def _unfinished(world: GatewayWorld, name: str = ECHO) -> int:
    world.gateway.unfinished._counted = None
    answer = await _get(world, f"/scaling/{name}")
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["unfinished_jobs"]
    return int(answer.json()["unfinished_jobs"])


async def test_jobs_that_wait_are_handed_over_or_run_are_counted_for_their_engine(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, window_min=2, window_factor=1) as world:
        assert await _unfinished(world) == 0
        world.runner.answer = lose
        await submit_many(world, 5)
        await world.idle()
        assert [await _unfinished(world, name) for name in (ECHO, STANDARD, PRIVATE)] == [5, 0, 0]


async def test_ended_jobs_and_those_before_their_next_attempt_are_not(world: GatewayWorld) -> None:
    world.runner.answer = succeed
    await world.job(await world.submit(), wait=10)
    assert await _unfinished(world) == 0
    world.runner.answer = lose
    retried = await world.submit()
    await world.idle()
    await world.change(retried, handed_over_at=None, available_at=time.time() + 60, attempts=1)
    assert await _unfinished(world) == 0
    await world.change(retried, available_at=time.time() - 1)
    assert await _unfinished(world) == 1


async def test_a_paused_engine_is_woken_by_probes_only(world: GatewayWorld) -> None:
    known, catalogue = engine(world), world.gateway.catalogue
    await catalogue.set_state(known, EngineState.PAUSED, "it fails", time.time() + 3_600)
    await submit_many(world, 3)
    assert await _unfinished(world) == 0
    world.runner.answer = lose
    await catalogue.set_state(known, EngineState.PAUSED, "it fails", time.time() - 1)
    assert await _unfinished(world) == 1


async def test_a_quarantined_or_removed_engine_is_not_woken(world: GatewayWorld) -> None:
    world.runner.answer = lose
    await submit_many(world, 2)
    await world.idle()
    assert await _unfinished(world) == 2
    await operate(world, "quarantine", {"reason": "it lies"})
    assert await _unfinished(world) == 0
    engine(world).state = EngineState.RETIRED
    assert await _unfinished(world) == 0


async def test_jobs_on_trial_do_not_count_and_no_unknown_engine_has_a_number(world: GatewayWorld) -> None:
    for name in (f"{ECHO}@trial", "acme--nothing", "standard", "a b"):
        answer = await _get(world, f"/scaling/{name}")
        assert (answer.status_code, answer.json()["code"]) == (404, "ENGINE_DOES_NOT_EXIST")


async def test_what_nobody_knows_is_no_number(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any) -> None:
        raise Unavailable("ledger: away")

    answer = await _get(world, f"/scaling/{ECHO}", is_open=False)
    assert answer.status_code == 503
    world.gateway.catalogue.loaded.clear()
    assert (await _get(world, "/scaling/acme--nothing")).status_code == 503
    world.gateway.catalogue.loaded.set()
    monkeypatch.setattr(world.gateway.ledger, "read", away)
    answer = await _get(world, f"/scaling/{ECHO}")
    assert (answer.status_code, "away" in answer.json()["detail"]) == (503, True)


async def test_one_query_serves_all_who_ask_within_a_second(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, read = 0, world.gateway.ledger.read

    async def counting(query: Any, *arguments: Any) -> Any:
        nonlocal queries
        queries += query is counts.due_of_engines
        return await read(query, *arguments)

    monkeypatch.setattr(world.gateway.ledger, "read", counting)
    answers = await asyncio.gather(*(_get(world, f"/scaling/{name}") for name in [ECHO, STANDARD, PRIVATE] * 20))
    assert {answer.status_code for answer in answers} == {200}
    assert queries == 1
    monkeypatch.setattr(unfinished, "_SHARED_SECONDS", 0)
    await _get(world, f"/scaling/{ECHO}")
    assert queries == 2


async def test_a_caller_that_goes_away_takes_no_answer_along(world: GatewayWorld) -> None:
    asking = [asyncio.create_task(world.gateway.unfinished.of(ECHO)) for _ in range(2)]
    await asyncio.sleep(0)
    asking[0].cancel()
    assert await asking[1] == 0


async def test_health_and_metrics(world: GatewayWorld) -> None:
    assert (await _get(world, "/healthz/live", is_open=False)).status_code == 200
    assert (await _get(world, "/healthz/ready", is_open=False)).status_code == 503
    ready = await _get(world, "/healthz/ready")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "engines_loaded": True, "ledger": True})
    assert b"enginehouse_gateway" in (await _get(world, "/metrics")).content
    for path in ("/v1/engines", "/scaling", f"/scaling/{ECHO}/", "/docs"):
        assert (await _get(world, path)).status_code == 404


@attempt("reads how many jobs other tenants' engines have", layer="a listener that only the cluster's own parts reach")
@pytest.mark.parametrize("tenant", ["acme", "umbra", "admin"])
async def test_nobody_reads_it_from_the_public_api(world: GatewayWorld, tenant: str) -> None:
    for path in (f"/scaling/{ECHO}", f"/v1/scaling/{ECHO}", f"//scaling/{ECHO}", f"/scaling/{ECHO}?x=1"):
        assert (await world.client(tenant).get(path)).status_code == 404


async def test_the_process_has_the_listener_where_it_is_wanted_alone(tmp_path: Path) -> None:
    settings = gateway_settings(tmp_path)
    public, internal = PORTS.take(), PORTS.take()
    ports = {"PORT": public, "INTERNAL_PORT": internal, "GRPC_PORT": PORTS.take(), "DELIVERY_PORT": PORTS.take()}
    environment = {
        **os.environ,
        **{f"ENGINEHOUSE_GATEWAY_{name}": str(port) for name, port in ports.items()},
        "ENGINEHOUSE_GATEWAY_LEDGER_URL": sqlite_url(tmp_path),
        "ENGINEHOUSE_GATEWAY_TENANTS_DIR": str(settings.tenants_dir),
        "ENGINEHOUSE_GATEWAY_PROOF_KEY": settings.proof_key.get_secret_value(),
        "DAPR_HTTP_PORT": str(PORTS.take()),
        "DAPR_API_TOKEN": TOKEN,
        "APP_API_TOKEN": TOKEN,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "enginehouse.gateway", env=environment)
    try:
        async with httpx2.AsyncClient(timeout=5, trust_env=False) as cluster:

            async def answers(port: int) -> bool:
                try:
                    return (await cluster.get(f"http://127.0.0.1:{port}/healthz/live")).status_code == 200
                except httpx2.TransportError:
                    return False

            await until_async(lambda: answers(internal))
            await until_async(lambda: answers(public))
            scaling = f"/scaling/{names.PLATFORM_TENANT}--standard"
            # Its sidecar is away, so it knows no engine.
            assert (await cluster.get(f"http://127.0.0.1:{internal}{scaling}")).status_code == 503
            assert (await cluster.get(f"http://127.0.0.1:{public}{scaling}")).status_code == 404
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
