"""Jobs of a vanished worker and jobs lost on their way are handed over again. Jobs that run or wait are not."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.gateway import ECHO, Clock, GatewayWorld, gateway_world, impatient, sweep_in
from tests.support.proofs import key_of
from tests.support.scripted_runner import ScriptedRunner, lose, never, succeed
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.events import WORKER_LEFT, completion_event
from enginehouse.contracts.job import Status
from enginehouse.sidecar.fake import FakeDapr


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path, pace=impatient(clock)) as made:
        yield made


async def test_what_a_vanished_worker_ran_is_handed_over_again(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    await world.aged(job_id, 60)
    other = ScriptedRunner(FakeDapr(), ECHO, "worker-2")
    other.sidecar = world.runner.sidecar
    await other.beat()
    world.runner.answer = succeed
    await sweep_in(world, clock, 1)
    assert len(world.runner.events) == 1
    await sweep_in(world, clock, 10)
    await world.delivered(job_id, times=2)
    job = await world.until_status(job_id, Status.SUCCEEDED)
    assert [event.attempt for event in world.runner.events] == [1, 2]
    assert job["attempts"] == 2


async def test_what_a_living_worker_runs_is_left_to_it_however_long_it_takes(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = never
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    await world.aged(job_id, 100_000)
    for _ in range(5):
        await world.runner.beat(in_hand=[job_id])
        await sweep_in(world, clock, 60)
    assert len(world.runner.events) == 1
    assert (await world.job(job_id))["status"] == "running"


async def test_a_job_that_waits_behind_others_is_never_handed_over_again(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    running, waiting = await world.submit(1), await world.submit(2)
    first = await world.delivered(running)
    await world.delivered(waiting)
    await world.runner.claim(first)
    for job_id in (running, waiting):
        await world.aged(job_id, 100_000)
    for _ in range(5):
        await world.runner.beat(in_hand=[running])
        await sweep_in(world, clock, 600)
    assert [event.id for event in world.runner.events] == [running, waiting]


async def test_a_job_that_an_idle_worker_does_not_get_is_handed_over_again(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.delivered(job_id)
    await world.aged(job_id, 5)
    await world.runner.beat(idle_for=5)
    await sweep_in(world, clock, 0)
    assert len(world.runner.events) == 1
    world.runner.answer = succeed
    await world.aged(job_id, 55)
    await world.runner.beat(idle_for=60)
    await sweep_in(world, clock, 0)
    await world.until_status(job_id, Status.SUCCEEDED)
    assert [event.attempt for event in world.runner.events] == [1, 1]


async def test_an_unhealthy_worker_that_is_idle_proves_nothing(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.delivered(job_id)
    await world.aged(job_id, 1_000)
    await world.runner.beat(idle_for=1_000, healthy=False)
    await sweep_in(world, clock, 0)
    assert len(world.runner.events) == 1


async def test_a_job_that_is_handed_over_for_ever_ends_as_a_dead_letter(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.delivered(job_id)
    for _ in range(25):
        await world.aged(job_id, 1_000)
        await world.runner.beat(idle_for=1_000)
        await sweep_in(world, clock, 0)
        if (await world.job(job_id))["status"] != "queued":
            break
    job = await world.job(job_id)
    assert (job["status"], job["error"]["code"], job["dead_lettered"]) == ("failed", "WORKER_LOST", True)
    assert (await world.stored())["dead_letters"] == 1
    assert len(world.runner.events) == 20


async def test_hand_overs_that_ended_with_a_hand_back_are_no_losses(world: GatewayWorld, clock: Clock) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.delivered(job_id)
    await world.change(job_id, hand_overs=40)
    await world.aged(job_id, 10)
    await world.runner.beat(idle_for=10)
    await sweep_in(world, clock, 0)
    await world.delivered(job_id, 2)
    assert (await world.job(job_id))["status"] == "queued"


async def test_a_record_that_cannot_be_read_is_given_up_like_any_and_others_are_handed_over_again(
    world: GatewayWorld, clock: Clock
) -> None:
    world.runner.answer = lose
    hopeless, other = await world.submit("hopeless"), await world.submit("other")
    await world.delivered(hopeless)
    await world.delivered(other)
    await world.sidecar.put(names.results_component(ECHO), hopeless, b"no record")
    await world.change(hopeless, losses=19)
    for job_id in (hopeless, other):
        await world.aged(job_id, 100_000)
    await world.runner.beat(idle_for=100_000)
    await sweep_in(world, clock, 0)
    await world.delivered(other, 2)
    job = await world.job(hopeless)
    assert (job["status"], job["error"]["code"]) == ("failed", "WORKER_LOST")


@pytest.mark.parametrize("garbage", [b"no heartbeat", b"{}", b"\xff"])
async def test_a_heartbeat_that_cannot_be_read_stops_nothing(world: GatewayWorld, clock: Clock, garbage: bytes) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    await world.delivered(job_id)
    await world.aged(job_id, 100)
    await world.runner.beat(idle_for=60)
    store = names.results_component(ECHO)
    workers = b'{"workers":["worker-1","worker-2"]}'
    await world.sidecar.put(store, names.WORKERS_KEY, workers)
    await world.sidecar.put(store, names.worker_key("worker-2"), garbage)
    world.runner.answer = succeed
    await sweep_in(world, clock, 0)
    await world.until_status(job_id, Status.SUCCEEDED)
    assert (await world.client().get("/v1/engines/echo")).status_code == 200
    await world.sidecar.put(store, names.WORKERS_KEY, garbage)
    for engine in world.gateway.catalogue:
        engine.workers_read_at = 0
    assert (await world.client().get("/v1/engines")).status_code == 200


async def _say_left(world: GatewayWorld) -> None:
    event = completion_event(key_of(ECHO), ECHO, WORKER_LEFT, "a", None)
    await world.runner.sidecar.publish(names.jobs_component(ECHO), names.COMPLETIONS_TOPIC, event)


async def test_what_a_leaving_worker_did_not_take_is_handed_over_again_at_once(world: GatewayWorld) -> None:
    world.runner.answer = lose
    taken, left = await world.submit(1), await world.submit(2)
    first = await world.delivered(taken)
    await world.delivered(left)
    await world.runner.claim(first)
    await world.runner.beat(in_hand=[taken], idle_for=0)
    world.runner.answer = succeed
    await _say_left(world)
    job = await world.until_status(left, Status.SUCCEEDED)
    assert job["attempts"] == 1
    assert [event.id for event in world.runner.events] == [taken, left, left]
    assert (await world.job(taken))["status"] == "running"


async def test_what_is_published_to_rinse_a_topic_is_no_job(world: GatewayWorld) -> None:
    await _say_left(world)
    await until_async(lambda: world.runner.expired, "an event comes")
    (event, *_) = world.runner.expired
    assert (await world.client().get(f"/v1/jobs/{event.id}")).status_code == 404


async def test_a_gateway_that_was_started_again_sees_the_workers_of_a_busy_engine(
    world: GatewayWorld, clock: Clock
) -> None:
    await world.runner.beat(concurrency=60)
    engine = world.gateway.catalogue.get(ECHO)
    assert engine is not None
    engine.set_workers([])  # The ledger has told it the engine, and nobody has told it the workers.
    engine.workers_read_at = 0
    await sweep_in(world, clock, 0)
    assert engine.workers == [], "an engine at rest is not asked"
    world.runner.answer = never
    await world.submit()
    await sweep_in(world, clock, 0)
    assert world.gateway.catalogue.window(ECHO) == 240
