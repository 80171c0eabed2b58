"""A job's events through the API: sent as they happen, and resumed where a broken connection left off."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.support.gateway import ECHO, GatewayWorld, gateway_world
from tests.support.problems import problem_of
from tests.support.proofs import key_of
from tests.support.scripted_runner import lose, never, succeed
from tests.support.waiting import until_async

from enginehouse.contracts.events import ProgressData, progress_event, progress_sequence
from enginehouse.contracts.job import JobError, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.tenant import Limits
from enginehouse.gateway.jobs.follow import MAX_FOLLOWERS_OF_JOB
from enginehouse.gateway.ledger.read import followed


class Event(NamedTuple):
    id: str
    kind: str
    data: Any


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    async with gateway_world(tmp_path) as made:
        made.runner.answer = never
        yield made


def read_events(text: str) -> list[Event]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append(Event(fields["id"], fields["event"], json.loads(fields["data"])))
    return found


def following(world: GatewayWorld, job_id: str, last: str | None = None) -> asyncio.Task[list[Event]]:
    """Read a job's events until its end."""

    async def read() -> list[Event]:
        headers = {} if last is None else {"Last-Event-ID": last}
        answer = await world.client().get(f"/v1/jobs/{job_id}/events", headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return read_events(answer.text)

    return asyncio.create_task(read())


async def tell(
    world: GatewayWorld,
    job_id: str,
    number: int,
    kind: Any,
    value: Any,
    engine: str = ECHO,
    attempt: int = 1,
    worker: str | None = None,
) -> None:
    data = ProgressData(kind=kind, value=value, sequence=progress_sequence(attempt, number))
    await world.gateway.hints.deliver(progress_event(key_of(engine), engine, job_id, data, worker))


async def end(world: GatewayWorld, job_id: str) -> None:
    await world.runner.end(await world.delivered(job_id), output={"label": None})


async def test_start_what_is_told_and_the_end(world: GatewayWorld) -> None:
    job_id = await world.submit()
    stream = following(world, job_id)
    await world.until_status(job_id, Status.RUNNING)
    await tell(world, job_id, 1, "progress", 0.5)
    await tell(world, job_id, 2, "log", "line\n\ndata: forged\n\nevent: completed")
    await tell(world, job_id, 3, "output", {"part": None})
    await tell(world, job_id, 4, "metric", {"tokens": 7})
    await end(world, job_id)
    start, *on_the_way, last = await stream
    assert (start.kind, start.data) == ("start", {"id": job_id, "attempt": 1, "worker": "worker-1"})
    assert [event[1:] for event in on_the_way] == [
        ("progress", 0.5),
        ("log", "line\n\ndata: forged\n\nevent: completed"),
        ("output", {"part": None}),
        ("metric", {"tokens": 7}),
    ]
    assert (last.kind, last.data["status"], last.data["output"]) == ("completed", "succeeded", {"label": None})


async def test_it_goes_on_after_the_last_one_that_came(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    for number in range(1, 6):
        await tell(world, job_id, number, "log", number)
    await end(world, job_id)
    whole = await following(world, job_id)
    kinds = [event.kind for event in whole]
    assert kinds == ["log"] * 5 + ["completed"] or kinds == ["start", *["log"] * 5, "completed"]
    for index, event in enumerate(whole[:-1]):
        assert await following(world, job_id, event.id) == whole[index + 1 :]


async def test_whoever_has_seen_the_last_event_need_not_come_again(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await end(world, job_id)
    last = (await following(world, job_id))[-1]
    answer = await world.client().get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last.id})
    assert (answer.status_code, answer.content) == (204, b"")
    unfinished = await world.submit()
    stream = following(world, unfinished, last.id)
    await world.until_status(unfinished, Status.RUNNING)
    await end(world, unfinished)
    assert [event.kind for event in await stream] == ["start", "completed"]


async def test_no_proxy_keeps_a_stream_or_holds_it_back(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await end(world, job_id)
    answer = await world.client().get(f"/v1/jobs/{job_id}/events")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store, no-transform"


async def test_a_job_of_milliseconds_has_a_start(world: GatewayWorld) -> None:
    world.runner.answer = succeed
    job_id = await world.submit()
    start, last = await following(world, job_id)
    assert (start.kind, start.data) == ("start", {"id": job_id, "attempt": 1, "worker": "worker-1"})
    assert (last.kind, last.data["status"]) == ("completed", "succeeded")


async def test_what_is_replayed_is_what_was_sent_live(world: GatewayWorld) -> None:
    job_id = await world.submit(retry={"max_attempts": 3, "initial_delay_ms": 0})
    live = following(world, job_id)
    await tell(world, job_id, 1, "log", "before the record shows the attempt", worker="worker-1")
    event = await world.delivered(job_id)
    world.runner.worker = "worker-2"
    await world.runner.end(event, Status.QUEUED, retry_at=now(), error=JobError(code="PREDICT_ERROR", message="no"))
    event = await world.delivered(job_id, 2)
    await world.until_status(job_id, Status.RUNNING)
    await tell(world, job_id, 1, "log", "again", attempt=2, worker="worker-2")
    await world.client().post(f"/v1/jobs/{job_id}/cancel")
    sent = await live
    assert [(event.kind, event.data.get("worker")) for event in sent if event.kind == "start"] == [
        ("start", "worker-1"),
        ("start", "worker-2"),
    ]
    assert [event.kind for event in sent] == ["start", "log", "start", "log", "completed"]
    assert await following(world, job_id) == sent


async def test_events_come_while_the_job_runs(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    seen: list[str] = []

    async def watch() -> None:
        caller = world.gateway.tenants.as_caller("acme")
        assert caller is not None
        async for events in world.gateway.followers.follow(caller, job_id, 0):
            seen.extend(event.kind for event in events)

    watching = asyncio.create_task(watch())
    await until_async(lambda: seen == ["start"])
    await tell(world, job_id, 1, "log", "one")
    await until_async(lambda: seen == ["start", "log"])
    await end(world, job_id)
    await watching
    assert seen == ["start", "log", "completed"]


@pytest.mark.parametrize("last", ["", "x", "-1", "1.5", "9" * 30, "٣"])
async def test_a_last_event_id_that_is_none_begins_at_the_beginning(world: GatewayWorld, last: str) -> None:
    job_id = await world.submit()
    await end(world, job_id)
    headers = {b"Last-Event-ID": last.encode()}
    await world.until_status(job_id, Status.SUCCEEDED)
    answer = await world.client().get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert [event.kind for event in read_events(answer.text)][-1] == "completed"


async def test_another_engine_tells_nothing_about_a_job_and_the_same_is_told_once(world: GatewayWorld) -> None:
    job_id = await world.submit()
    await world.until_status(job_id, Status.RUNNING)
    await tell(world, job_id, 1, "log", "forged", engine="umbra--private")
    for _ in range(2):
        await tell(world, job_id, 2, "log", "real")
    await end(world, job_id)
    assert [event.data for event in await following(world, job_id) if event.kind == "log"] == ["real"]


async def test_a_job_of_somebody_else_and_an_unknown_one_are_not_there(world: GatewayWorld) -> None:
    job_id = await world.submit()
    for tenant, asked in (("umbra", job_id), ("acme", job_id[:-2] + ("00" if job_id[-2:] != "00" else "01"))):
        problem_of(await world.client(tenant).get(f"/v1/jobs/{asked}/events"), 404, "JOB_DOES_NOT_EXIST")


async def test_a_canceled_job_ends_its_streams(world: GatewayWorld) -> None:
    world.runner.answer = lose
    job_id = await world.submit()
    streams = [following(world, job_id) for _ in range(5)]
    await asyncio.sleep(0)
    await world.client().post(f"/v1/jobs/{job_id}/cancel")
    for stream in streams:
        (only,) = await stream
        assert (only.kind, only.data["status"]) == ("completed", "canceled")
    assert not world.gateway.jobs.waiters._endings


async def test_all_followers_of_a_job_share_what_is_read_for_them(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await world.submit()
    streams = [following(world, job_id) for _ in range(40)]
    await world.until_status(job_id, Status.RUNNING)
    followers = world.gateway.followers
    await until_async(lambda: [step.followers for step in followers._steps.values()] == [40])
    read, reads = world.gateway.ledger.read, []

    async def noting(query: Any, *arguments: Any) -> Any:
        reads.append(query)
        return await read(query, *arguments)

    monkeypatch.setattr(world.gateway.ledger, "read", noting)
    await tell(world, job_id, 1, "log", "to all of them")
    await until_async(lambda: [step.followers for step in followers._steps.values()] == [40])
    await until_async(lambda: reads.count(followed) >= 2)
    assert reads.count(followed) <= 4
    await end(world, job_id)
    first, *others = [await stream for stream in streams]
    assert [event.kind for event in first] == ["start", "log", "completed"]
    assert all(other == first for other in others)
    assert not followers._steps


async def open_streams(world: GatewayWorld, job_id: str, number: int) -> list[asyncio.Task[list[Event]]]:
    before = world.gateway.followers._of_job[job_id]
    streams = [following(world, job_id) for _ in range(number)]
    await until_async(lambda: world.gateway.followers._of_job[job_id] == before + number)
    return streams


async def test_a_job_and_a_tenant_have_so_many_followers_and_no_more(world: GatewayWorld) -> None:
    jobs = [await world.submit() for _ in range(3)]
    streams = [stream for job_id in jobs[:2] for stream in await open_streams(world, job_id, MAX_FOLLOWERS_OF_JOB)]
    assert len(streams) == Limits().followers
    for job_id in (jobs[0], jobs[2]):
        refusal = await world.client().get(f"/v1/jobs/{job_id}/events")
        problem_of(refusal, 429, "RATE_LIMITED")
        assert refusal.headers["retry-after"] == "5"
    await end(world, jobs[0])
    await asyncio.gather(*streams[:MAX_FOLLOWERS_OF_JOB])
    (again,) = await open_streams(world, jobs[2], 1)
    refusal = await world.client().get(f"/v1/jobs/{jobs[1]}/events")
    assert "followers" in problem_of(refusal, 429, "RATE_LIMITED")["detail"]
    for stream in (*streams[MAX_FOLLOWERS_OF_JOB:], again):
        stream.cancel()
    await until_async(lambda: not world.gateway.followers._of_tenant)
    assert not world.gateway.followers._of_job
    assert not world.gateway.followers._steps
    assert not world.gateway.jobs.waiters._endings
