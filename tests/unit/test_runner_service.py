"""A runner finds its engine's replicas by DNS: they come and go, and no job is lost by it."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.runner import (
    ENGINE,
    PORTS,
    STORE,
    Gate,
    NotingSidecar,
    TinyEngine,
    World,
    begin,
    runner_settings,
    runner_world,
)
from tests.support.service_names import Names
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineSpec, Heartbeat, Scale
from enginehouse.contracts.job import Status
from enginehouse.runner.app import Runner
from enginehouse.runner.clients.base import Health
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Replica
from enginehouse.sidecar.fake import FakeDapr

_HOST = "acme--echo--a.tenant-acme"
_PACE = Pace(
    service_poll_seconds=0.02,
    service_away_poll_seconds=0.01,
    problem_poll_seconds=0.01,
    down_told_after_seconds=0.05,
    restart_seconds=0,
    hang_poll_seconds=0.01,
)


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Names:
    found = Names(_HOST)
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    return found


class Cluster(World):
    """A runner of an engine whose replicas stand behind a headless service: all on one port, each on an address."""

    def __init__(self, dns: Names, folder: Path, pace: Pace, **settings: Any) -> None:
        self.port = PORTS.take()
        self.names = dns
        self.replicas: list[TinyEngine] = []
        self._hosts = (f"127.0.0.{number}" for number in itertools.count(2))
        spec = EngineSpec(tenant="acme", name="echo", concurrency=2, scale=Scale(min=0, max=3))
        sidecar = NotingSidecar(FakeDapr(), f"{ENGINE}--a")
        values = {"engine_urls": [], "engine_service": f"{_HOST}:{self.port}", "supervisor_dir": None, **settings}
        runner = Runner(runner_settings(folder, "", **values), spec, sidecar, pace)
        super().__init__(sidecar._world, TinyEngine(), runner, sidecar)

    async def scale(self, replicas: int) -> None:
        """Have that many replicas: new ones listen before their names are known, and those that go listen on."""
        while len(self.replicas) < replicas:
            self.replicas.append(TinyEngine(next(self._hosts), self.port))
            await self.replicas[-1].start()
        self.names.addresses = [replica.host for replica in self.replicas[:replicas]]

    async def until_up(self, replicas: int) -> None:
        """Wait until the runner has that many replicas, all healthy."""
        pool = self.runner.pool
        await until_async(lambda: [replica.healthy for replica in pool.replicas] == [True] * replicas)

    async def beat(self) -> Heartbeat:
        """Write a heartbeat and return it."""
        await self.runner.heartbeats.beat()
        return Heartbeat.model_validate_json(self.dapr.stores[STORE][names.worker_key("worker-1")].value)


@contextlib.asynccontextmanager
async def _cluster(dns: Names, folder: Path, pace: Pace = _PACE, **settings: Any) -> AsyncIterator[Cluster]:
    made = Cluster(dns, folder, pace, **settings)
    try:
        await made.runner.start()
        yield made
    finally:
        await made.runner.stop()
        for replica in made.replicas:
            await replica.stop()


@pytest.fixture
async def cluster(dns: Names, tmp_path: Path) -> AsyncIterator[Cluster]:
    async with _cluster(dns, tmp_path) as made:
        yield made


async def test_replicas_that_come_get_jobs(cluster: Cluster) -> None:
    await cluster.scale(1)
    await cluster.until_up(1)
    assert (await cluster.beat()).concurrency == 2
    await cluster.scale(3)
    await cluster.until_up(3)
    assert (await cluster.beat()).concurrency == 6
    gates = [Gate(cluster) for _ in range(1)]
    for replica in cluster.replicas:
        replica.predict = gates[0].predict
    deliveries = [begin(cluster, names.new_job_id()) for _ in range(6)]
    await until_async(lambda: gates[0].entered == 6)
    assert [len(replica.calls) for replica in cluster.replicas] == [2, 2, 2]
    gates[0].open.set()
    assert all(await asyncio.gather(*deliveries))


async def test_a_replica_that_leaves_ends_its_jobs_and_gets_no_more(cluster: Cluster) -> None:
    await cluster.scale(1)
    await cluster.until_up(1)
    gate = Gate(cluster)
    cluster.replicas[0].predict = gate.predict
    job_id = names.new_job_id()
    delivery = begin(cluster, job_id)
    await until_async(lambda: gate.entered)
    (leaving,) = cluster.runner.pool.replicas
    await cluster.scale(2)
    cluster.names.addresses.pop(0)
    await until_async(lambda: leaving.left)
    await cluster.until_up(1)
    for _ in range(3):
        assert (await cluster.run()).status is Status.SUCCEEDED
    assert [len(replica.calls) for replica in cluster.replicas] == [1, 3]
    gate.open.set()
    assert await delivery
    assert cluster.record(job_id).status is Status.SUCCEEDED
    await until_async(lambda: leaving.client._wire._session.closed, "its connections are closed")  # type: ignore[attr-defined]


async def test_one_that_is_away_for_a_moment_keeps_its_jobs_and_their_places(cluster: Cluster) -> None:
    await cluster.scale(1)
    await cluster.until_up(1)
    gate = Gate(cluster)
    cluster.replicas[0].predict = gate.predict
    deliveries = [begin(cluster, names.new_job_id())]
    await until_async(lambda: gate.entered == 1)
    (replica,) = cluster.runner.pool.replicas
    cluster.names.addresses = []
    await until_async(lambda: replica.left)
    assert not cluster.runner.pool.any_healthy
    await cluster.scale(1)
    await cluster.until_up(1)
    assert cluster.runner.pool.replicas == [replica]
    deliveries += [begin(cluster, names.new_job_id()) for _ in range(2)]
    await until_async(lambda: gate.entered == 2)
    assert replica.places_taken == 2
    gate.open.set()
    assert all(await asyncio.gather(*deliveries))
    await until_async(lambda: replica.places_taken == 0)


async def test_an_engine_without_replicas_is_asleep_and_not_ill(cluster: Cluster) -> None:
    await until_async(cluster.runner.takes_deliveries)
    beat = await cluster.beat()
    assert (beat.asleep, beat.healthy, beat.concurrency) == (True, False, 2)
    await asyncio.sleep(0.1)
    assert cluster.runner._problems.found is None
    assert not cluster.runner.ready()
    delivery = begin(cluster, job_id := names.new_job_id())
    await cluster.scale(1)
    assert await delivery
    assert cluster.record(job_id).status is Status.SUCCEEDED
    assert not (await cluster.beat()).asleep


async def test_jobs_of_an_engine_that_stays_asleep_go_back_uncounted(cluster: Cluster) -> None:
    await until_async(cluster.runner.takes_deliveries)
    record = await cluster.run()
    assert (record.status, record.attempt) == (Status.QUEUED, 0)


async def test_replicas_stay_while_names_cannot_be_looked_up(cluster: Cluster) -> None:
    await cluster.scale(1)
    await cluster.until_up(1)
    cluster.names.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    problem = await until_async(lambda: cluster.runner._problems.found)
    assert (
        problem
        == f"After 0.05 s, the engine's service {_HOST} cannot be looked up: Temporary failure in name resolution."
    )
    assert (await cluster.run()).status is Status.SUCCEEDED
    cluster.names.error = None
    await until_async(lambda: cluster.runner._problems.found is None)


async def test_an_engine_of_which_nothing_is_known_gets_no_deliveries(dns: Names, tmp_path: Path) -> None:
    dns.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    async with _cluster(dns, tmp_path) as cluster:
        await until_async(lambda: dns.asked > 2)
        assert not cluster.runner.is_asleep
        assert not cluster.runner.takes_deliveries()


async def test_an_ill_replica_is_a_fault(cluster: Cluster) -> None:
    await cluster.scale(1)
    await cluster.until_up(1)
    cluster.replicas[0].healthy = False
    cluster.runner.pool.replicas[0].changed.set()
    assert "answers 503" in str(await until_async(lambda: cluster.runner._problems.found))
    assert not cluster.runner.takes_deliveries()
    cluster.names.addresses = []
    await until_async(cluster.runner.takes_deliveries)
    await until_async(lambda: cluster.runner._problems.found is None, "what has left has no fault")


async def test_a_name_is_looked_up_as_the_system_does(tmp_path: Path) -> None:
    engine = TinyEngine()
    await engine.start()
    async with runner_world(
        tmp_path, engine=engine, engine_urls=[], engine_service=f"localhost:{engine.port}", pace=_PACE
    ) as world:
        assert f"127.0.0.1:{engine.port}" in [replica.client.address for replica in world.runner.pool.replicas]
        assert (await world.run()).status is Status.SUCCEEDED
    await engine.stop()


async def test_an_address_of_version_six_is_one_too(cluster: Cluster) -> None:
    cluster.names.addresses = ["::1"]
    (replica,) = await until_async(lambda: cluster.runner.pool.replicas)
    assert replica.client.address == f"[::1]:{cluster.port}"


async def test_the_card_is_asked_of_replicas_that_are_there(cluster: Cluster) -> None:
    await cluster.scale(2)
    await cluster.until_up(2)
    cards = cluster.runner.cards
    await until_async(lambda: cards._client is not None)
    asked = cards._client
    (other,) = (replica for replica in cluster.runner.pool.replicas if replica.client is not asked)
    cluster.names.addresses = [other.client.address.partition(":")[0]]
    await until_async(lambda: cards._client is other.client)
    cluster.names.addresses = []
    await until_async(lambda: cards._client is None)
    cards.announce()
    await cluster.scale(2)
    await cluster.until_up(2)
    await until_async(lambda: cards._client is not None)


async def test_a_hung_call_of_a_replica_that_has_left_is_waited_for_no_longer(dns: Names, tmp_path: Path) -> None:
    async with _cluster(dns, tmp_path) as cluster:
        await cluster.scale(1)
        await cluster.until_up(1)
        replica: Replica = cluster.runner.pool.replicas[0]

        async def silent() -> Health:
            return Health(ok=False, answered=False)

        gate = Gate(cluster)
        cluster.replicas[0].predict = gate.predict
        cluster.runner._hangs._engine_seconds = 0.05
        replica.client.health = silent  # type: ignore[method-assign]
        await cluster.run(seconds=0.05)
        await until_async(lambda: replica.hung)
        cluster.names.addresses = []
        await until_async(lambda: replica.places_taken == 0)


async def test_an_idle_sleeper_is_looked_for_seldom_and_often_for_a_job(dns: Names, tmp_path: Path) -> None:
    pace = Pace(service_poll_seconds=2.0, service_away_poll_seconds=0.3, service_hurry_seconds=0)
    async with _cluster(dns, tmp_path, pace, hand_back_after_seconds=5) as cluster:
        watch = cluster.runner._service
        assert watch is not None
        await until_async(lambda: watch.is_empty)
        assert watch._pause == 2.0
        delivery = begin(cluster, names.new_job_id())
        await until_async(lambda: cluster.runner.receiver.in_hand)
        assert watch._pause == 0.3
        await cluster.scale(1)
        await watch.look()
        assert await delivery
        assert watch._pause == 2.0
