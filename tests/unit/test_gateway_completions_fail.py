"""Completions whose records cannot be read: every call ends, no other engine's hints wait, and the sweep catches up."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection
from tests.support.gateway import ECHO, gateway_world
from tests.support.ledger import sqlite_url
from tests.support.proofs import PROOF_KEY, key_of
from tests.support.scripted_runner import succeed_untold
from tests.support.waiting import until_async

from enginehouse.contracts.events import JOB_COMPLETED, completion_event
from enginehouse.contracts.job import Status
from enginehouse.contracts.names import new_job_id, results_component
from enginehouse.gateway.app import wire
from enginehouse.gateway.ledger import read
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.sidecar.records import JobRecords

_ENGINES_OF = read.engines_of


@pytest.mark.parametrize("broken", [RuntimeError("a bug"), TypeError("another")])
async def test_no_delivery_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception) -> None:
    settings = GatewaySettings(
        ledger_url=sqlite_url(tmp_path),
        tenants_dir=tmp_path,
        dapr_api_token=SecretStr("x" * 16),
        app_api_token=SecretStr("x" * 16),
        proof_key=SecretStr(PROOF_KEY),
    )
    gateway = wire(settings, FakeSidecar(FakeDapr(), "gateway"))

    async def breaks(*_: object) -> None:
        raise broken

    monkeypatch.setattr(JobRecords, "read_many", breaks)
    async with asyncio.timeout(5):
        with pytest.raises(type(broken)):
            await gateway.mirroring.mirror({new_job_id(): "acme--echo"})


async def test_hints_of_an_engine_whose_store_is_away_take_nobody_elses_place(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        world.runner.answer = succeed_untold
        job_id = await world.submit()
        await until_async(lambda: world.record(job_id))
        world.dapr.missing.add(results_component(ECHO))
        assert await world.gateway.hints.deliver(
            completion_event(key_of(ECHO), ECHO, JOB_COMPLETED, job_id, Status.SUCCEEDED)
        )
        assert (await world.job(job_id))["status"] == "queued"
        world.dapr.missing.clear()
        await world.aged(job_id, 3)
        await world.sweep()
        assert (await world.job(job_id))["status"] == "succeeded"


async def test_a_hint_of_many_jobs_of_before_a_restart_is_one_question_to_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def engines_of(connection: Connection, job_ids: list[str]) -> dict[str, str]:
        asked.append(job_ids)
        return _ENGINES_OF(connection, job_ids)

    async with gateway_world(tmp_path) as world:
        world.runner.answer = succeed_untold
        first, *others = [await world.submit(number) for number in range(5)]
        await until_async(lambda: all(world.record(job_id) for job_id in (first, *others)))
        for job_id in others:
            world.forget(job_id)
        monkeypatch.setattr(read, "engines_of", engines_of)
        hint = completion_event(
            key_of(ECHO), ECHO, JOB_COMPLETED, first, Status.SUCCEEDED, also=[*others, new_job_id()]
        )
        assert await world.gateway.hints.deliver(hint)
        (unknown,) = asked
        assert unknown[:-1] == others
        for job_id in (first, *others):
            assert (await world.job(job_id))["status"] == "succeeded"
