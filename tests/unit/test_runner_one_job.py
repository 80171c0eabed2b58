"""A runner gives each pod of an engine with `mode: job` one job, and none waits for a pod that has had one."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.runner import (
    ENGINE,
    PORTS,
    STORE,
    NotingSidecar,
    TinyEngine,
    World,
    begin,
    runner_settings,
)
from tests.support.service_names import Names
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec, Heartbeat
from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.oneshot.door import Door
from enginehouse.runner.app import Runner
from enginehouse.runner.pace import Pace
from enginehouse.runner.settings import load_engine
from enginehouse.sidecar.fake import FakeDapr

_HOST = "acme--echo--a.tenant-acme"
_PACE = Pace(
    service_poll_seconds=0.02,
    service_away_poll_seconds=0.01,
    problem_poll_seconds=0.01,
    restart_seconds=0,
    hang_poll_seconds=0.01,
)


class Pod:
    """An engine and the door before it, at an address."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.engine = TinyEngine()
        self.door = Door(self.engine.port, 30, linger_seconds=0.1)
        self._port = port
        self.ended: asyncio.Task[str]

    async def start(self) -> None:
        """Start both."""
        await self.engine.start()
        self.ended = asyncio.create_task(self.door.stand(self.host, self._port))

    async def kill(self) -> None:
        """End it whatever it works on."""
        await self.engine.stop()
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)


class Pods(World):
    """A runner, and the pods behind its engine's service."""

    def __init__(self, dns: Names, folder: Path, **content: Any) -> None:
        self.names = dns
        self.port = PORTS.take()
        self.pods: list[Pod] = []
        self._hosts: Iterator[str] = (f"127.0.0.{number}" for number in itertools.count(2))
        spec = EngineSpec.model_validate({"tenant": "acme", "name": "echo", "mode": "job", **content})
        sidecar = NotingSidecar(FakeDapr(), f"{ENGINE}--a")
        service = f"{_HOST}:{self.port}"
        settings = runner_settings(
            folder, "", engine_urls=[], engine_service=service, supervisor_dir=None, claim_after_seconds=0.05
        )
        super().__init__(sidecar._world, TinyEngine(), Runner(settings, spec, sidecar, _PACE), sidecar)

    async def add(self, predict: Any = None) -> Pod:
        """Make a pod, as KEDA does for a job that waits."""
        pod = Pod(next(self._hosts), self.port)
        if predict is not None:
            pod.engine.predict = predict
        await pod.start()
        self.pods.append(pod)
        self.names.addresses = [*self.names.addresses, pod.host]
        return pod

    def forget(self, pod: Pod) -> None:
        """Let DNS notice that a pod is gone."""
        self.names.addresses = [host for host in self.names.addresses if host != pod.host]

    async def beat(self) -> Heartbeat:
        """Write a heartbeat and return it."""
        await self.runner.heartbeats.beat()
        return Heartbeat.model_validate_json(self.dapr.stores[STORE][names.worker_key("worker-1")].value)


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names(_HOST)
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    return found


@contextlib.asynccontextmanager
async def _pods(dns: Names, folder: Path, **content: Any) -> AsyncIterator[Pods]:
    made = Pods(dns, folder, **content)
    try:
        await made.runner.start()
        yield made
    finally:
        await made.runner.stop()
        for pod in made.pods:
            await pod.kill()


@pytest.fixture
async def pods(dns: Names, tmp_path: Path) -> AsyncIterator[Pods]:
    async with _pods(dns, tmp_path) as made:
        yield made


class Holds:
    """Lets an engine's call go on until the test ends it."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.entered = asyncio.Event()

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answer when it may."""
        data = (await request.json())["data"]
        self.entered.set()
        await self.may_end.wait()
        return web.json_response({"result": data})


async def _ended(pods: Pods, job_id: str) -> JobRecord:
    def record() -> JobRecord | None:
        found = pods.find(job_id)
        return found if found and found.status is not Status.RUNNING else None

    found: JobRecord = await until_async(record)
    return found


async def test_each_job_gets_a_pod_and_each_pod_one_job(pods: Pods) -> None:
    deliveries = {job_id: begin(pods, job_id) for job_id in (names.new_job_id() for _ in range(3))}
    for _ in range(3):
        await pods.add()
    assert all(await asyncio.gather(*deliveries.values()))
    assert [len(pod.engine.calls) for pod in pods.pods] == [1, 1, 1]
    assert {call["id"] for pod in pods.pods for call in pod.engine.calls} == set(deliveries)
    assert {await pod.ended for pod in pods.pods} == {"The call is over"}
    # Their addresses are known for a while, and mean nothing.
    assert len(pods.names.addresses) == 3
    assert pods.runner.pool.replicas == []
    assert pods.runner.is_asleep
    assert pods.runner.takes_deliveries()
    assert (await pods.beat()).asleep


async def test_a_job_beyond_the_pods_waits_for_a_fresh_one(pods: Pods) -> None:
    holds = Holds()
    await pods.add(holds.predict)
    first = begin(pods, names.new_job_id())
    await holds.entered.wait()
    second = begin(pods, names.new_job_id())
    await until_async(lambda: pods.runner.pool.wants_replicas)
    assert (await pods.beat()).healthy
    holds.may_end.set()
    assert await first
    assert not second.done()
    await pods.add()
    assert await second
    assert [len(pod.engine.calls) for pod in pods.pods] == [1, 1]


async def test_an_address_that_comes_again_is_another_pod(pods: Pods) -> None:
    first = await pods.add()
    assert (await pods.run()).status is Status.SUCCEEDED
    await first.kill()
    pods.forget(first)
    await until_async(lambda: pods.runner._service is not None and not pods.runner._service._present)
    pods._hosts = iter([first.host])
    await pods.add()
    assert (await pods.run()).status is Status.SUCCEEDED


async def test_a_pod_that_has_had_its_job_costs_another_no_attempt(pods: Pods) -> None:
    """The runner of before gave it one, or it is about to end: its door refuses."""
    used = await pods.add()
    used.door.close()
    delivery = begin(pods, job_id := names.new_job_id())
    await until_async(lambda: used.ended.done())
    await pods.add()
    assert await delivery
    record = await _ended(pods, job_id)
    assert (record.status, record.attempt) == (Status.SUCCEEDED, 1)
    assert used.engine.calls == []


async def test_a_pod_that_is_killed_in_mid_job_costs_an_attempt_and_nothing_else(pods: Pods) -> None:
    holds = Holds()
    pod = await pods.add(holds.predict)
    delivery = begin(pods, job_id := names.new_job_id())
    await holds.entered.wait()
    await pod.kill()
    await delivery
    record = await _ended(pods, job_id)
    assert (record.status, record.attempt) == (Status.QUEUED, 1)
    await pods.add()
    assert await pods.runner.receiver.deliver(pods.event(job_id, attempt=2))
    assert pods.record(job_id).status is Status.SUCCEEDED


async def test_a_job_that_is_canceled_ends_its_pod(pods: Pods) -> None:
    holds = Holds()
    pod = await pods.add(holds.predict)
    delivery = begin(pods, job_id := names.new_job_id())
    record = await pods.running(job_id)
    await pods.write(job_id, record.model_copy(update={"status": Status.CANCELED}))
    assert await delivery
    assert await pod.ended == "The caller closed the call, or has its answer"
    await until_async(lambda: not pods.runner.pool.replicas)


async def test_a_job_that_runs_out_of_time_ends_its_pod_and_the_next_job_waits_for_nothing(pods: Pods) -> None:
    holds = Holds()
    pod = await pods.add(holds.predict)
    record = await pods.run(seconds=0.2)
    assert record.status is Status.TIMED_OUT
    assert await pod.ended == "The caller closed the call, or has its answer"
    await pods.add()
    assert (await pods.run()).status is Status.SUCCEEDED


async def test_an_engine_that_says_it_is_busy_gets_no_second_call(pods: Pods) -> None:
    async def busy(_: web.Request) -> web.StreamResponse:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": "0.01"})

    pod = await pods.add(busy)
    delivery = begin(pods, names.new_job_id())
    await pod.ended
    await pods.add()
    assert await delivery
    assert [len(one.engine.calls) for one in pods.pods] == [1, 1]


async def test_at_a_shared_engine_nobody_is_blamed_for_what_happens_in_a_pod_of_ones_own(
    dns: Names, tmp_path: Path
) -> None:
    async with _pods(dns, tmp_path, tenant="shared") as pods:
        assert pods.runner.pool.tenants.blame is None


class TestExamples:
    """They cost a pod each."""

    async def test_those_of_the_active_version_are_not_tried(self, pods: Pods, tmp_path: Path) -> None:
        (tmp_path / "example.json").write_text('"hello"')
        assert pods.runner.misfit() is not None
        await until_async(lambda: pods.runner.heartbeats.is_on_trial() is not None)
        await until_async(lambda: pods.runner.is_asleep)
        assert pods.runner.misfit() is None
        pod = await pods.add()
        await until_async(lambda: pods.runner.pool.any_healthy)
        assert pods.runner.misfit() is None
        assert pod.engine.calls == []

    async def test_those_of_a_version_on_trial_take_a_pod(
        self, pods: Pods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "example.json").write_text('"hello"')
        monkeypatch.setattr(pods.runner._fitness, "_is_on_trial", lambda: True)
        pod = await pods.add()
        await until_async(lambda: pods.runner.misfit() is None)
        assert [call["data"] for call in pod.engine.calls] == ["hello"]
        assert await pod.ended == "The call is over"


def test_without_a_service_it_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "engine.yaml").write_text("tenant: acme\nname: echo\nmode: job\n")
    settings = runner_settings(tmp_path, "", engine_urls=["http://127.0.0.1:1"], spec=tmp_path / "engine.yaml")
    with pytest.raises(UnsafeSettings, match="ENGINEHOUSE_RUNNER_ENGINE_SERVICE must be set"):
        load_engine(settings)
