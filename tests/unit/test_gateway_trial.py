"""A version on trial is addressed as `<engine>@trial`: an engine of its own, until it is promoted or gone."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import ECHO, PRIVATE, STANDARD, UNHURRIED, GatewayWorld, gateway_world, show_card
from tests.support.gateway_engines import control, engine, operate
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, fail, lose, never
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.engine import EngineState, WorkerList
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import JobEvent
from enginehouse.contracts.job import Status
from enginehouse.contracts.moments import now
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.trials import TRIAL_ABSENT_SECONDS

TRIAL = names.trial_of(ECHO)
NUMBERS = {"input_schema": {"type": "integer"}, "version": "v2", "slot": "b", "deployment": "second"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    """A gateway whose engine `echo` has a version on trial, which takes integers only."""
    cards = {ECHO: {"deployment": "first"}}
    async with gateway_world(tmp_path, cards=cards, pace=UNHURRIED, window_min=2, window_factor=1) as made:
        made.runners[TRIAL] = ScriptedRunner(made.dapr, TRIAL, "worker-b")
        await show_card(made.dapr, ECHO, **NUMBERS)
        await made.runner.beat()
        await _beat(made, on_trial=True)
        yield made


async def _beat(world: GatewayWorld, **fields: Any) -> None:
    """Let the runner in slot b show what it receives, and the gateway read that."""
    said = {"subscribed": False, "version": "v2", "beside": ["worker-1"], **fields}
    await world.runners[TRIAL].beat(**said)
    await world.gateway.catalogue.read_card(ECHO)


async def _promote(world: GatewayWorld) -> None:
    await world.runner.beat(subscribed=False)
    await _beat(world, subscribed=True)
    world.runner.answer = never


async def _gone(world: GatewayWorld) -> None:
    """Let the trial end without a successor, and be unseen for as long as that takes."""
    trial(world).seen_on_trial_at -= TRIAL_ABSENT_SECONDS
    await _beat(world)


def trial(world: GatewayWorld) -> KnownEngine:
    """Return the version on trial as the gateway knows it."""
    found = world.gateway.catalogue.get(TRIAL)
    assert found is not None
    return found


@pytest.mark.parametrize("name", [TRIAL, "echo@trial"])
async def test_a_job_for_the_trial_is_answered_there_and_nowhere_else(world: GatewayWorld, name: str) -> None:
    job = await world.job(await world.submit(7, engine=name), wait=10)
    assert (job["status"], job["engine"]) == ("succeeded", TRIAL)
    routed = await world.client().post("/v1/jobs", json={"engine": name, "input": 8})
    batch = await world.client().post("/v1/jobs/batch", json={"jobs": [{"engine": name, "input": 9}]})
    event = {
        "specversion": "1.0",
        "id": "1",
        "source": "/test",
        "type": "any",
        "engineid": name,
        "data": 10,
    }
    sent = await world.client().post("/v1/events", json=event, headers={"Content-Type": "application/cloudevents+json"})
    assert {answer.status_code for answer in (routed, batch, sent)} <= {200, 202}, (routed.text, batch.text, sent.text)
    await world.idle()
    assert sorted(world.runners[TRIAL].inputs()) == [7, 8, 9, 10]
    assert world.runners[TRIAL].engines_named == {ECHO}
    assert world.runner.events == []


async def test_its_own_schema_judges_the_inputs(world: GatewayWorld) -> None:
    problem_of(await world.client().post(f"/v1/engines/{TRIAL}/jobs", json={"input": "text"}), 422, "INVALID_INPUT")
    assert (await world.job(await world.submit("text"), wait=10))["status"] == "succeeded"


async def test_it_has_a_view_of_its_own(world: GatewayWorld) -> None:
    await world.job(await world.submit(1, engine=TRIAL), wait=10)
    shown = (await world.client().get("/v1/engines/echo@trial")).json()
    assert (shown["id"], shown["version"], shown["card"]["input_schema"]) == (TRIAL, "v2", {"type": "integer"})
    assert shown["queue"]["jobs"]["succeeded"] == 1
    assert shown["queue"]["workers"] == {"idle": 1, "running": 0}
    active = (await world.client().get(f"/v1/engines/{ECHO}")).json()
    assert (active["version"], active["queue"]["jobs"]["succeeded"]) == ("v1", 0)
    listed = {tenant: (await world.client(tenant).get("/v1/engines")).json()["engines"] for tenant in ("acme", "umbra")}
    assert TRIAL in [each["id"] for each in listed["acme"]]
    assert TRIAL not in [each["id"] for each in listed["umbra"]]


async def test_its_failures_do_not_pause_the_active_version(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = fail
    for number in range(10):
        job_id = await world.submit(number, engine=TRIAL)
        await world.sweep()
        if trial(world).state != EngineState.ACTIVE:
            break
        await world.job(job_id, wait=10)
    await until_async(lambda: trial(world).state == EngineState.PAUSED, "the last failure has its effect")
    assert engine(world).state == EngineState.ACTIVE
    assert (await operate(world, "quarantine", {"reason": "no"}, TRIAL)).json()["state"] == "quarantined"
    assert control(world.dapr) is None, "the runners of the active version would stop"
    listed = (await world.client("admin").get("/v1/quarantines")).json()["quarantines"]
    assert listed == [{"engine": TRIAL, "reason": "no", "by_operator": True}], "whoever runs it does not promote it"
    assert (await world.job(await world.submit("on"), wait=10))["status"] == "succeeded"


async def test_a_quarantined_engine_gets_no_jobs_on_trial_either(world: GatewayWorld) -> None:
    await operate(world, "quarantine", {"reason": "stop"})
    assert (await world.job(await world.submit(1, engine=TRIAL)))["status"] == "queued"
    assert world.runners[TRIAL].events == []


async def test_only_its_owner_and_operators_may_use_it(world: GatewayWorld) -> None:
    body = {"input": 1}
    problem_of(await world.client("umbra").post(f"/v1/engines/{TRIAL}/jobs", json=body), 404, "ENGINE_DOES_NOT_EXIST")
    admin = world.client("admin")
    job = (await admin.post(f"/v1/engines/{TRIAL}/jobs", json=body)).json()
    assert [each["id"] for each in (await admin.get(f"/v1/jobs?engine={TRIAL}")).json()["jobs"]] == [job["id"]]
    assert (await admin.get(f"/v2/models/{TRIAL}")).json()["versions"] == ["v2"]
    problem_of(await world.client().post(f"/v1/engines/{STANDARD}@trial/jobs", json=body), 403, "FORBIDDEN")
    for name in (f"{STANDARD}@trial", f"{PRIVATE}@trial"):
        answer = await world.client("admin").post(f"/v1/engines/{name}/jobs", json=body)
        assert "is on trial" in problem_of(answer, 404, "ENGINE_DOES_NOT_EXIST")["detail"]
    problem_of(await admin.post("/v1/engines/standard@trial/resume"), 404, "ENGINE_DOES_NOT_EXIST")


@pytest.mark.parametrize("name", ["@trial", "echo@trial@trial", "echo@Trial", "echo@canary", "@trial@trial"])
async def test_a_name_that_is_no_address_is_not_found(world: GatewayWorld, name: str) -> None:
    answer = await world.client().post("/v1/jobs", json={"engine": name, "input": 1})
    problem_of(answer, 404, "ENGINE_DOES_NOT_EXIST")


async def test_a_promoted_version_goes_on_with_the_jobs_sent_to_it(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = never
    running = await world.submit(1, engine=TRIAL)
    await world.until_status(running, Status.RUNNING)
    world.runners[TRIAL].answer = lose
    swallowed = await world.submit(2, engine=TRIAL)
    waiting = await world.submit(3, engine=TRIAL)
    await world.delivered(swallowed, engine=TRIAL)
    world.runners[TRIAL].answer = never
    begun = world.runners[TRIAL].events[0]
    await _promote(world)
    await _beat(world, subscribed=True, in_hand=[running])
    problem_of(await world.client().post(f"/v1/engines/{TRIAL}/jobs", json={"input": 1}), 404, "ENGINE_DOES_NOT_EXIST")
    await world.sweep()
    await world.runners[TRIAL].end(begun, output="from b")
    ended = await world.job(running, wait=10)
    assert (ended["engine"], ended["output"]) == (ECHO, "from b")
    for job_id in (swallowed, waiting):
        assert (await world.until_status(job_id, Status.RUNNING))["engine"] == ECHO


async def test_the_jobs_of_a_version_that_is_gone_end_and_say_so(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = never
    running = await world.submit(1, engine=TRIAL)
    await world.until_status(running, Status.RUNNING)
    world.runners[TRIAL].answer = lose
    waiting = [await world.submit(number, engine=TRIAL) for number in range(3)]
    await _beat(world, in_hand=[running])
    assert (await world.client().get(f"/v1/engines/{TRIAL}")).status_code == 200, "it may just start again"
    await _gone(world)
    await _beat(world, in_hand=[running])
    await world.sweep()
    for job_id in waiting:
        job = await world.job(job_id)
        assert (job["status"], job["error"]["code"]) == ("canceled", "TRIAL_ENDED")
    page = await world.client().get("/v1/jobs?engine=echo@trial")
    assert {job["id"] for job in page.json()["jobs"]} == {running, *waiting}, page.text
    await world.runners[TRIAL].end(world.runners[TRIAL].events[0], output="in time")
    assert (await world.job(running, wait=10))["status"] == "succeeded"
    problem_of(await world.client().get(f"/v1/engines/{TRIAL}"), 404, "ENGINE_DOES_NOT_EXIST")


async def test_the_next_version_on_trial_has_the_same_address_and_a_clean_record(world: GatewayWorld) -> None:
    await operate(world, "quarantine", {"reason": "no"}, TRIAL)
    await _gone(world)
    await show_card(world.dapr, ECHO, **{**NUMBERS, "version": "v3", "deployment": "third"})
    await _beat(world, on_trial=True, version="v3")
    shown = (await world.client().get(f"/v1/engines/{TRIAL}")).json()
    assert (shown["version"], shown["state"]) == ("v3", "active")


async def test_another_version_ends_a_quarantine_of_the_breaker_on_trial(world: GatewayWorld) -> None:
    await world.gateway.transitions.move(trial(world), EngineState.QUARANTINED, "it lies")
    await show_card(world.dapr, ECHO, **{**NUMBERS, "version": "v3", "deployment": "third"})
    await _beat(world, on_trial=True, version="v3")
    assert trial(world).state is EngineState.ACTIVE


async def test_what_a_sidecar_still_swallows_after_a_promotion_is_no_job_of_the_next_trial(world: GatewayWorld) -> None:
    await _promote(world)
    published = world.dapr.published[names.job_topic(TRIAL)]
    before = len(published)
    await show_card(world.dapr, ECHO, version="v3", deployment="third")
    await world.runner.beat(subscribed=False, on_trial=True, version="v3", beside=["worker-b"])
    await world.gateway.catalogue.read_card(ECHO)
    assert trial(world).state == EngineState.ACTIVE
    assert len(published) == before + 1
    assert read_event(JobEvent, published[-1]).expirytime < now()
    await world.gateway.catalogue.read_card(ECHO)
    assert len(published) == before + 1, "a trial begins once"


async def test_a_trial_begins_although_the_broker_is_away(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    await _gone(world)

    async def away(*_: object) -> None:
        raise Unavailable("The broker does not answer")

    monkeypatch.setattr(world.gateway.dispatcher._sidecar, "publish", away)
    await _beat(world, on_trial=True)
    assert trial(world).state == EngineState.ACTIVE


async def test_a_gateway_learns_of_a_trial_and_a_card_that_another_one_was_told_of(world: GatewayWorld) -> None:
    catalogue = world.gateway.catalogue
    await catalogue.sync_states()
    await catalogue.refresh()  # It has noticed what it wrote itself.
    del catalogue._engines[TRIAL]
    await show_card(world.dapr, ECHO, version="v9", deployment="ninth")
    await catalogue.refresh()
    assert catalogue.get(TRIAL) is None
    await world.gateway.ledger.save_engine(TRIAL, None)
    await catalogue.sync_states()
    await catalogue.refresh()
    assert trial(world).card is not None
    active = engine(world).card
    assert active is not None
    assert active.version == "v9"


async def test_a_gateway_that_starts_again_remembers_the_trial(world: GatewayWorld, tmp_path: Path) -> None:
    waiting = await world.submit(1, engine=TRIAL)
    await world.job(waiting, wait=10)
    catalogue = world.gateway.catalogue
    catalogue._engines.clear()
    await catalogue.restore()
    assert catalogue.resolve(TRIAL, "acme").card == trial(world).card


async def test_a_version_without_workers_stays_active_beside_a_trial_in_the_first_slot(tmp_path: Path) -> None:
    async with gateway_world(tmp_path, cards={ECHO: NUMBERS}, pace=UNHURRIED) as world:
        tried = world.runners[TRIAL] = ScriptedRunner(world.dapr, TRIAL, "worker-a")
        tried.slot = "a"
        await show_card(world.dapr, ECHO, version="v3", deployment="third")
        for workers in (["worker-a"], []):  # At last the trial has none either, as after a restart of everything.
            await tried.beat(subscribed=False, on_trial=True, version="v3")
            listed = WorkerList(workers=workers).model_dump_json().encode()
            await tried.sidecar.put(names.results_component(ECHO), names.WORKERS_KEY, listed)
            await world.gateway.catalogue.read_card(ECHO)
            shown = [known.card and known.card.version for known in (engine(world), trial(world))]
            assert (shown, trial(world).state) == (["v2", "v3"], EngineState.ACTIVE)


async def test_the_jobs_of_a_removed_engines_trial_end_with_the_engine(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = lose
    waiting = await world.submit(1, engine=TRIAL)
    world.dapr.components.discard(names.results_component(ECHO))
    for _ in range(10):
        await world.gateway.catalogue.refresh()
    await world.sweep()
    assert (await world.job(waiting))["error"]["code"] == "ENGINE_REMOVED"


async def test_a_promotion_shows_although_the_worker_before_was_killed(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = lose
    waiting = await world.submit(1, engine=TRIAL)
    await _beat(world, subscribed=True)  # Slot a's last heartbeat still says that it receives jobs.
    world.runner.answer = lose
    await world.sweep()
    job = await world.job(waiting)
    assert (job["status"], job["engine"]) == ("queued", ECHO)
    active = engine(world).card
    assert active is not None
    assert active.slot == "b"
