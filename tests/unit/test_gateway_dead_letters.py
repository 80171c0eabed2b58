"""Dead letters belong to their tenant and say why; they are redriven or discarded. Operators see those of no tenant."""

import asyncio
import base64
import json
from typing import Any

import pytest
from tests.support.break_ins import attempt
from tests.support.gateway import ECHO, PRIVATE, GatewayWorld
from tests.support.problems import problem_of
from tests.support.proofs import key_of
from tests.support.scripted_runner import ScriptedRunner, fail, succeed
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.events import DeadLetter, HandedJob, JobEvent, dead_letter_event
from enginehouse.contracts.job import JobError, Status


async def given_up(world: GatewayWorld, value: Any = "x", **options: Any) -> str:
    world.runner.answer = fail
    job_id = await world.submit(value, **options)
    await world.until_status(job_id, Status.FAILED)
    return job_id


async def letters(world: GatewayWorld, tenant: str = "acme", **query: Any) -> list[dict[str, Any]]:
    answer = await world.client(tenant).get("/v1/dead-letters", params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["dead_letters"]
    return found


async def dead_letter(world: GatewayWorld, body: bytes) -> None:
    """Something comes over the dead-letter topic, and is kept."""
    before = (await world.stored())["dead_letters"]
    await world.sidecar.publish(names.DEAD_LETTERS_COMPONENT, names.DEAD_LETTERS_TOPIC, body)

    async def kept() -> bool:
        return (await world.stored())["dead_letters"] > before

    await until_async(kept)


def from_runner(reason: str = "UNPARSABLE", event: str = "not JSON", engine: str = ECHO) -> bytes:
    return dead_letter_event(
        key_of(engine), engine, names.new_job_id(), DeadLetter(reason=reason, event=event, attempts=1)
    )


async def test_a_job_that_was_given_up_says_why(world: GatewayWorld) -> None:
    job_id = await given_up(world)
    (letter,) = await letters(world)
    assert letter["error"]["message"] == "it broke"
    assert {name: letter[name] for name in ("id", "job_id", "engine", "reason", "attempts", "redriven_as")} == {
        "id": job_id,
        "job_id": job_id,
        "engine": ECHO,
        "reason": "PREDICT_ERROR",
        "attempts": 1,
        "redriven_as": None,
    }
    assert (await world.job(job_id))["dead_lettered"] is True


async def test_one_that_is_asked_for_shows_the_event(world: GatewayWorld) -> None:
    job_id = await given_up(world, {"a": None})
    shown = (await world.client().get(f"/v1/dead-letters/{job_id}")).json()
    event = read_event(JobEvent, shown["event"])
    assert (event.id, event.engineid, event.attempt, event.data.input) == (job_id, ECHO, 1, {"a": None})


async def test_redriving_makes_a_new_job_and_the_old_one_keeps_its_state(world: GatewayWorld) -> None:
    job_id = await given_up(world, {"a": None}, priority=7)
    world.runner.answer = succeed
    answer = await world.client().post(f"/v1/dead-letters/{job_id}/redrive")
    assert answer.status_code == 202, answer.text
    again = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/jobs/{again}"
    done = await world.until_status(again, Status.SUCCEEDED)
    assert (done["retry_of"], done["output"]) == (job_id, {"echo": {"a": None}})
    old = await world.job(job_id)
    assert (old["status"], old["retried_as"]) == ("failed", again)
    assert (await letters(world))[0]["redriven_as"] == again


async def test_what_was_redriven_is_not_redriven_again(world: GatewayWorld) -> None:
    job_id = await given_up(world)
    world.runner.answer = succeed
    calls = [world.client().post(f"/v1/dead-letters/{job_id}/redrive") for _ in range(3)]
    answers = await asyncio.gather(*calls)
    (first,) = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    answers.append(await world.client().post(f"/v1/dead-letters/{job_id}/redrive", headers={"Idempotency-Key": "late"}))
    refused = [answer for answer in answers if answer.status_code != 202]
    assert len(refused) == 3
    for answer in refused:
        assert first in problem_of(answer, 409, "ALREADY_REDRIVEN")["detail"]
    assert (await world.stored())["jobs"] == 2
    assert (await letters(world))[0]["redriven_as"] == first == (await world.job(job_id))["retried_as"]


@pytest.mark.parametrize("path", ["dead-letters/{}/redrive", "jobs/{}/retry"])
async def test_the_same_key_is_the_same_new_job(world: GatewayWorld, path: str) -> None:
    job_id, other = await given_up(world), await given_up(world)
    headers = {"Idempotency-Key": "again"}
    answers = [await world.client().post(f"/v1/{path.format(job_id)}", headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert (await world.stored())["jobs"] == 3
    answer = await world.client().post(f"/v1/{path.format(other)}", headers=headers)
    problem_of(answer, 422, "IDEMPOTENCY_KEY_REUSED")


async def test_discarding_deletes_the_letter_and_not_the_job(world: GatewayWorld) -> None:
    job_id = await given_up(world)
    assert (await world.client().post(f"/v1/dead-letters/{job_id}/discard")).status_code == 204
    assert await letters(world) == []
    problem_of(await world.client().get(f"/v1/dead-letters/{job_id}"), 404, "DEAD_LETTER_DOES_NOT_EXIST")
    assert (await world.job(job_id))["status"] == "failed"


async def test_another_tenants_are_not_there(world: GatewayWorld) -> None:
    job_id = await given_up(world)
    for tenant in ("umbra", "admin"):
        assert await letters(world, tenant) == []
        for call in (
            world.client(tenant).get(f"/v1/dead-letters/{job_id}"),
            world.client(tenant).post(f"/v1/dead-letters/{job_id}/redrive"),
            world.client(tenant).post(f"/v1/dead-letters/{job_id}/discard"),
        ):
            problem_of(await call, 404, "DEAD_LETTER_DOES_NOT_EXIST")
    assert len(await letters(world)) == 1


async def test_pages_are_newest_first_whatever_the_ids(world: GatewayWorld) -> None:
    made = []
    for number in range(7):
        await dead_letter(world, from_runner(event=str(number)))
        made.append((await letters(world, "admin", unparsable="true"))[0]["id"])
    found: list[str] = []
    cursor = None
    while True:
        query = {"unparsable": True, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = (await world.client("admin").get("/v1/dead-letters", params=query)).json()
        found += [letter["id"] for letter in page["dead_letters"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
        if len(found) == 2:
            # Whoever discards while paging misses nothing.
            await world.client("admin").post(f"/v1/dead-letters/{found[1]}/discard")
    assert found == made[::-1]


@pytest.mark.parametrize("cursor", ["x", "0" * 16, f"{'0' * 16}-", f"{'f' * 15}-0", f"{'0' * 16}-{'a' * 65}"])
async def test_a_cursor_that_is_none_is_refused(world: GatewayWorld, cursor: str) -> None:
    answer = await world.client().get("/v1/dead-letters", params={"cursor": cursor})
    problem_of(answer, 422, "INVALID_REQUEST")


@pytest.mark.parametrize("bits", ["7ff8000000000000", "7ff0000000000000", "fff0000000000000", "ffffffffffffffff"])
async def test_a_cursor_of_no_moment_finds_nothing_or_all_and_breaks_nothing(world: GatewayWorld, bits: str) -> None:
    assert await letters(world, cursor=f"{bits}-0") == []


@attempt("forges a dead letter that names another tenant's engine", layer="only the ledger says whose a letter is")
async def test_what_a_runner_could_not_make_a_job_of_is_for_operators(world: GatewayWorld) -> None:
    """The topic is shared, and nothing proves that the engine it names has sent it."""
    await dead_letter(world, from_runner(event='{"half": '))
    assert await letters(world) == []
    (letter,) = await letters(world, "admin", unparsable="true")
    assert (letter["reason"], letter["engine"], letter["job_id"]) == ("UNPARSABLE", ECHO, None)
    problem_of(await world.client().get(f"/v1/dead-letters/{letter['id']}"), 404)
    operator = world.client("admin")
    whole = (await operator.get(f"/v1/dead-letters/{letter['id']}")).json()
    assert whole["event"] == '{"half": '
    answer = await operator.post(f"/v1/dead-letters/{letter['id']}/redrive")
    assert "never a job" in problem_of(answer, 422, "INVALID_REQUEST")["detail"]
    assert (await operator.post(f"/v1/dead-letters/{letter['id']}/discard")).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"\xff\xfe",
        b"[]",
        b'{"type":"dev.enginehouse.job.deadlettered.v1"}',
        b'{"id":"1","type":"dev.enginehouse.job.deadlettered.v1","engineid":5,"data":{}}',
        b'{"id":"1","type":"dev.enginehouse.job.deadlettered.v1","engineid":{},"data":{"reason":"x"}}',
        b'{"id":1,"type":"dev.enginehouse.job.requested.v1","engineid":"acme--echo"}',
        from_runner(reason="FORGED").replace(b'"proof"', b'"other"'),
        from_runner(engine="no--such--engine"),
        json.dumps({"id": "1", "data_base64": base64.b64encode(b"\x00raw").decode()}).encode(),
    ],
    ids=range(10),
)
async def test_what_nobody_could_parse_is_kept_once_for_operators_only(world: GatewayWorld, body: bytes) -> None:
    await dead_letter(world, body)
    await world.sidecar.publish(names.DEAD_LETTERS_COMPONENT, names.DEAD_LETTERS_TOPIC, body)
    problem_of(await world.client().get("/v1/dead-letters", params={"unparsable": "true"}), 403, "FORBIDDEN")
    assert await letters(world) == []
    assert await letters(world, "admin") == []
    (letter,) = await letters(world, "admin", unparsable="true")
    assert (letter["reason"], letter["engine"], letter["error"]) == ("UNPARSABLE", None, None)
    problem_of(await world.client().get(f"/v1/dead-letters/{letter['id']}"), 404)
    whole = (await world.client("admin").get(f"/v1/dead-letters/{letter['id']}")).json()
    assert "\x00" not in whole["event"]
    assert (await world.client("admin").post(f"/v1/dead-letters/{letter['id']}/discard")).status_code == 204
    assert await letters(world, "admin", unparsable="true") == []


async def test_a_job_whose_input_is_gone_cannot_be_redriven(world: GatewayWorld) -> None:
    job_id = await given_up(world)
    await world.change(job_id, result_expires_at=1.0)
    await world.sweep()
    problem_of(await world.client().post(f"/v1/dead-letters/{job_id}/redrive"), 410, "RESULT_EXPIRED")
    assert len(await letters(world)) == 1


async def test_an_unknown_one_is_not_there_and_a_malformed_id_is_refused(world: GatewayWorld) -> None:
    for letter_id in (names.new_job_id(), "a" * 64):
        problem_of(await world.client().get(f"/v1/dead-letters/{letter_id}"), 404, "DEAD_LETTER_DOES_NOT_EXIST")
    for letter_id in ("x", "%00", "a" * 65):
        problem_of(await world.client().get(f"/v1/dead-letters/{letter_id}"), 422, "INVALID_REQUEST")


async def came_back(_: ScriptedRunner, __: HandedJob) -> bool:
    """Acknowledge a delivery that could not be read: only a dead letter says so."""
    return True


def named_by_runner(job_id: str, engine: str = ECHO) -> bytes:
    letter = DeadLetter(
        reason="UNPARSABLE", error=JobError(code="UNPARSABLE", message="data: no good"), event="…", job_id=job_id
    )
    return dead_letter_event(key_of(engine), engine, names.new_job_id(), letter)


async def waiting(world: GatewayWorld) -> tuple[str, bytes]:
    """Submit a job whose delivery comes back, and return its id and its event."""
    world.runner.answer = came_back
    job_id = await world.submit()
    await world.delivered(job_id)
    return job_id, world.dapr.published[names.job_topic(ECHO)][-1]


@pytest.mark.parametrize("by_sidecar", [True, False])
async def test_a_job_that_comes_back_unreadable_ends_at_once(world: GatewayWorld, by_sidecar: bool) -> None:
    job_id, event = await waiting(world)
    body = event if by_sidecar else named_by_runner(job_id)
    await world.sidecar.publish(names.DEAD_LETTERS_COMPONENT, names.DEAD_LETTERS_TOPIC, body)
    job = await world.until_status(job_id, Status.FAILED)
    assert job["error"]["code"] == "UNPARSABLE"
    assert ("could not deliver" if by_sidecar else "data: no good") in job["error"]["message"]
    record = world.record(job_id)
    assert record is not None
    assert record.status is Status.FAILED
    await world.sidecar.publish(names.DEAD_LETTERS_COMPONENT, names.DEAD_LETTERS_TOPIC, body)
    await world.idle()
    assert [(letter["job_id"], letter["reason"]) for letter in await letters(world)] == [(job_id, "UNPARSABLE")]
    assert await letters(world, "admin", unparsable="true") == []


@attempt("ends another's job by a forged dead letter", layer="a proof of its engine's runner in each dead letter")
async def test_a_dead_letter_without_proof_ends_no_job(world: GatewayWorld) -> None:
    job_id, event = await waiting(world)
    letter = json.loads(named_by_runner(job_id))
    stolen = json.loads(named_by_runner(names.new_job_id()))["proof"]
    for forged in (
        {**letter, "proof": None},
        {**letter, "proof": 5},
        {**letter, "proof": stolen},
        {**letter, "id": "another"},
        {**json.loads(event), "proof": stolen},
        {**json.loads(event), "handover": 7},
    ):
        await dead_letter(world, json.dumps(forged).encode())
    await world.idle()
    assert (await world.job(job_id))["status"] == "queued"


async def test_a_dead_letter_ends_no_job_of_another_engine_and_none_that_runs(world: GatewayWorld) -> None:
    job_id, event = await waiting(world)
    await dead_letter(world, named_by_runner(job_id, PRIVATE))
    await dead_letter(world, event.replace(ECHO.encode(), PRIVATE.encode()))
    await dead_letter(world, named_by_runner(names.new_job_id()))
    await dead_letter(world, named_by_runner("no id"))
    await world.runner.write(world.runner.events[-1], Status.RUNNING)
    await world.sidecar.publish(names.DEAD_LETTERS_COMPONENT, names.DEAD_LETTERS_TOPIC, named_by_runner(job_id))
    await world.idle()
    assert (await world.job(job_id))["status"] in ("queued", "running")
    record = world.record(job_id)
    assert record is not None
    assert record.status is Status.RUNNING
