"""A replay runs kept inputs on the version on trial, compares, and leaves nothing behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pydantic_core
import pytest
from tests.support.gateway import ECHO, UNHURRIED, GatewayWorld, gateway_world, show_card
from tests.support.gateway_engines import operate
from tests.support.problems import problem_of
from tests.support.scripted_runner import ScriptedRunner, never
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import JobError, JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.replay import ReplayReport, ReplayRequest
from enginehouse.gateway.jobs.replay_report import differences
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.tenants.tenants import Caller

TRIAL = names.trial_of(ECHO)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    """A gateway whose engine `echo` answered five jobs at version v1, and has v2 on trial."""
    cards = {ECHO: {"deployment": "first"}}
    url = f"file://{tmp_path / 'objects'}"
    async with gateway_world(tmp_path, cards=cards, pace=UNHURRIED, objects_url=url) as made:
        made.runners[TRIAL] = ScriptedRunner(made.dapr, TRIAL, "worker-b")
        await show_card(made.dapr, ECHO, slot="b", version="v2", deployment="second")
        await made.runner.beat()
        await made.runners[TRIAL].beat(subscribed=False, on_trial=True, version="v2", beside=["worker-1"])
        await made.gateway.catalogue.read_card(ECHO)
        for number in range(5):
            job = await made.job(await made.submit(number), wait=10)
            await made.change(job["id"], version="v1")
        yield made


def answering(change: Any) -> Any:
    """Answer with `change(input)`; an exception is the job's error."""

    async def answer(runner: ScriptedRunner, event: HandedJob) -> bool:
        try:
            await runner.end(event, output=change(event.data.input))
        except ValueError as error:
            await runner.end(event, Status.FAILED, error=JobError(code="PREDICT_ERROR", message=str(error)))
        return True

    return answer


async def replayed(world: GatewayWorld, tenant: str = "acme", **wanted: Any) -> ReplayReport:
    """Replay echo's jobs, and return the report."""
    answer = await world.client(tenant).post(f"/v1/engines/{ECHO}/replay", json=wanted)
    assert answer.status_code == 200, answer.text
    return ReplayReport.model_validate(pydantic_core.from_json(answer.text.splitlines()[-1])["report"])


async def _left(world: GatewayWorld) -> set[str]:
    """Return the ids of jobs with a record in the engine's store."""
    return {key for key in world.dapr.stores[names.results_component(ECHO)] if names.is_job_id(key)}


async def test_the_same_answers_pass_and_leave_nothing_behind(world: GatewayWorld, tmp_path: Path) -> None:
    before = (await world.stored(), await _left(world), len(world.dapr.published[names.finished_topic("acme")]))
    report = await replayed(world)
    assert (report.passed, report.replayed, report.same, report.examples) == (True, 5, 5, [])
    assert (report.then.version, report.now.version) == ("v1", "v2")
    assert (report.now.succeeded, report.now.predict_seconds.p50) == (5, 0.01)
    assert sorted(world.runners[TRIAL].inputs()) == [0, 1, 2, 3, 4]
    await world.sweep()
    await world.idle()
    after = (await world.stored(), await _left(world), len(world.dapr.published[names.finished_topic("acme")]))
    assert after == before
    shown = (await world.client().get(f"/v1/engines/{TRIAL}")).json()["queue"]["jobs"]
    assert (shown["succeeded"], shown["failed"]) == (0, 0)


async def test_what_changes_is_shown_place_by_place(world: GatewayWorld) -> None:
    def change(value: int) -> Any:
        if value == 3:
            raise ValueError("three")
        return {"echo": value if value < 4 else "four"}

    world.runners[TRIAL].answer = answering(change)
    report = await replayed(world)
    assert (report.passed, report.same, report.outputs_differ, report.newly_failed) == (False, 3, 1, 1)
    assert report.now.errors == {"PREDICT_ERROR": 1}
    differing = next(example for example in report.examples if example.differences)
    assert [each.model_dump() for each in differing.differences] == [{"path": "echo", "then": "4", "now": '"four"'}]
    assert differing.job is not None
    assert (await world.job(differing.job))["output"] == {"echo": 4}, "the job itself keeps its answer"


async def test_the_last_ones_are_replayed_and_numbers_may_differ_a_little(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = answering(lambda value: {"echo": value * 1.001})
    assert (await replayed(world, last=2, tolerance=0.01)).model_dump(include={"wanted", "same"}) == {
        "wanted": 2,
        "same": 2,
    }
    assert sorted(world.runners[TRIAL].inputs()) == [3, 4]
    assert (await replayed(world, last=2, tolerance=0)).outputs_differ == 2


async def test_an_operator_sees_that_something_differs_and_not_what(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = answering(lambda value: {"echo": "secret"})
    report = await replayed(world, "admin")
    assert report.outputs_differ == 5
    assert {example.job for example in report.examples} == {None}
    assert "secret" not in report.model_dump_json()


async def test_large_outputs_are_compared_and_deleted(world: GatewayWorld, tmp_path: Path) -> None:
    async def large(runner: ScriptedRunner, event: HandedJob) -> bool:
        assert event.data.objects
        assert event.data.objects.output_url
        url = event.data.objects.output_url
        text = pydantic_core.to_json({"echo": event.data.input})
        put = await world.client().put(url[url.index("/v1/") :], content=text)
        assert put.status_code == 201, put.text
        await runner.end(event, output_ref=event.data.objects.output_ref)
        return True

    world.runners[TRIAL].answer = large
    assert (await replayed(world)).same == 5
    assert world.gateway.stored.used("acme") == 0
    assert [path for path in (tmp_path / "objects").rglob("*.json") if path.is_file()] == []


async def test_an_order_that_is_handed_back_is_sent_again(world: GatewayWorld) -> None:
    given_back: set[str] = set()

    async def once(runner: ScriptedRunner, event: HandedJob) -> bool:
        if event.id in given_back:
            await runner.end(event, output={"echo": event.data.input})
        else:
            given_back.add(event.id)
            await runner.records.change(
                event.id, 60, lambda _: JobRecord(status=Status.QUEUED, attempt=0, retry_at=now())
            )
        return True

    world.runners[TRIAL].answer = once
    assert (await replayed(world)).passed


async def test_closing_it_takes_back_what_is_out(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = never
    tenant = world.gateway.tenants.get("acme")
    assert tenant is not None
    caller = Caller(tenant, None)
    news: Any = await world.gateway.replays.start(ECHO, caller, ReplayRequest())
    following = asyncio.create_task(anext(news))
    await until_async(lambda: world.runners[TRIAL].events)
    job_id = world.runners[TRIAL].events[0].id
    await until_async(lambda: world.gateway.replays.works_on(job_id))
    problem_of(await world.client().post(f"/v1/engines/{ECHO}/replay", json={}), 429, "RATE_LIMITED")
    following.cancel()
    await asyncio.wait([following])

    def is_taken_back() -> bool:
        record = world.record(job_id)
        return not world.gateway.replays.works_on(job_id) and record is not None and record.status is Status.CANCELED

    await until_async(is_taken_back)


async def test_it_ends_with_the_trial_and_says_so(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = never
    replaying = asyncio.create_task(replayed(world))
    await until_async(lambda: world.runners[TRIAL].events)
    await world.runner.beat(subscribed=False)
    await world.runners[TRIAL].beat(subscribed=True, version="v2", beside=["worker-1"])
    await world.gateway.catalogue.read_card(ECHO)
    report = await replaying
    assert (report.passed, report.replayed) == (False, 0)
    assert report.stopped == "Another version is on trial, or none"


@pytest.mark.parametrize("name", [ECHO, TRIAL])
async def test_a_quarantine_ends_it_and_allows_no_other(world: GatewayWorld, name: str) -> None:
    world.runners[TRIAL].answer = never
    replaying = asyncio.create_task(replayed(world))
    await until_async(lambda: world.runners[TRIAL].events)
    await operate(world, "quarantine", {"reason": "it lies"}, name)
    assert "quarantined" in str((await replaying).stopped)
    again = await world.client().post(f"/v1/engines/{ECHO}/replay", json={})
    assert "it lies" in problem_of(again, 503, "ENGINE_UNAVAILABLE")["detail"]


async def test_an_input_that_could_not_be_looked_for_is_replayed_later(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_input, asked = world.gateway.replays._has_input, 0

    async def away_at_first(original: JobRow) -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise Unavailable("The object store does not answer")
        return await has_input(original)

    monkeypatch.setattr(world.gateway.replays, "_has_input", away_at_first)
    assert (await replayed(world)).replayed == 5


async def test_it_ends_when_its_time_is_over(world: GatewayWorld) -> None:
    world.runners[TRIAL].answer = never
    report = await replayed(world, max_seconds=1)
    assert (report.passed, report.stopped) == (False, "Its time was over")


async def test_who_may_not_and_what_cannot_be_replayed_is_said(world: GatewayWorld) -> None:
    problem_of(await world.client("umbra").post(f"/v1/engines/{ECHO}/replay", json={}), 404, "ENGINE_DOES_NOT_EXIST")
    problem_of(await world.client().post("/v1/engines/shared--standard/replay", json={}), 403, "FORBIDDEN")
    for wrong in ({"last": 0}, {"last": 1_001}, {"tolerance": -1}, {"first": 1}):
        problem_of(await world.client().post(f"/v1/engines/{ECHO}/replay", json=wrong), 422, "INVALID_REQUEST")
    for job_id in [row["id"] for row in (await world.client().get("/v1/jobs")).json()["jobs"]]:
        await world.change(job_id, purged=True)
    problem_of(await world.client().post(f"/v1/engines/{ECHO}/replay", json={}), 404, "NOTHING_TO_REPLAY")


@pytest.mark.parametrize(
    ("then", "now_", "found"),
    [
        ({"a": 1, "b": [1, 2]}, {"a": 1.0, "b": [1, 2]}, []),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 1}, {"b": 1}, ["a", "b"]),
        ([1, 2], [1, 2, 3], [""]),
        ([{"x": "y"}], [{"x": "z"}], ["[0].x"]),
        (None, 0, [""]),
        (1_000_000, 1_000_000.5, []),
        (0, 1e-9, [""]),
        ("1", 1, [""]),
    ],
)
def test_differences(then: Any, now_: Any, found: list[str]) -> None:
    assert [each.path for each in differences(then, now_, 1e-6)] == found
