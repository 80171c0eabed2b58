"""Large bodies are read in processes of their own: they hold up nobody, and are judged as small ones are."""

import asyncio
import contextlib
import json
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.gateway import ECHO, PRIVATE, STANDARD, GatewayWorld, gateway_world
from tests.support.problems import refused
from tests.support.stalls import LONGEST_STALL_SECONDS, watched_loop

from enginehouse.contracts import errors
from enginehouse.contracts.errors import EnginehouseError, RateLimited
from enginehouse.contracts.names import is_job_id
from enginehouse.gateway.tenants.limits import BytesInHand

pytestmark = pytest.mark.asyncio(loop_scope="module")

TYPED = "acme--typed"
SUBMIT = "/v1/engines/echo/jobs"
OBJECTS = b"[" + b"{}," * 2_600_000 + b"{}]"
"""8 MB that become 2.6 million values when they are parsed."""
LARGE = "x" * 70_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayWorld]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    async with gateway_world(
        folder,
        objects_url=(folder / "objects").as_uri(),
        shared_object_max_bytes=100_000,
        engines=[STANDARD, ECHO, PRIVATE, TYPED],
        cards={TYPED: {"input_schema": {"type": "object", "properties": {"n": {"maximum": 10}}}}},
    ) as made:
        yield made


def event(data: bytes, kind: str = "t") -> bytes:
    return b'{"specversion":"1.0","id":"1","source":"/s","type":"%s","engineid":"echo","data":%s}' % (
        kind.encode(),
        data,
    )


async def test_no_body_holds_up_the_others(world: GatewayWorld) -> None:
    await world.submit(LARGE)  # Starts a process.
    good, events = b'{"input":%s}' % OBJECTS, {"Content-Type": "application/cloudevents+json"}
    binary = {"ce-specversion": "1.0", "ce-id": "2", "ce-source": "/s", "ce-type": "t", "ce-engineid": "echo"}
    calls: list[tuple[bytes, str, dict[str, str]]] = [
        (good[:-1] + b',"inptu":1}', SUBMIT, {}),
        (good[:-1], SUBMIT, {}),
        (good, "/v1/engines/typed/jobs", {}),
        (b'{"jobs":[{"engine":"echo","input":%s}]}' % OBJECTS, "/v1/jobs/batch", {}),
        (event(OBJECTS), "/v1/events", events),
        (event(OBJECTS)[:-1], "/v1/events", events),
        (OBJECTS, "/v1/events", {**binary, "Content-Type": "application/json"}),
    ]
    client = world.client()
    with watched_loop() as longest:
        answers = await asyncio.gather(*(client.post(SUBMIT, content=good, timeout=60) for _ in range(5)))
        for content, path, headers in calls:
            answers.append(await client.post(path, content=content, headers=headers, timeout=60))
    assert sorted(answer.status_code for answer in answers[:5]) == [202, 202, 202, 202, 429]
    assert [answer.status_code for answer in answers[5:]] == [422, 422, 422, 202, 202, 422, 202]
    assert longest[0] < LONGEST_STALL_SECONDS


async def test_a_batch_of_mistakes_holds_up_nobody(world: GatewayWorld) -> None:
    wrong = [{"execution_timeout_seconsd": 1, "a": number} for number in range(1_000)]
    for jobs in (wrong[:1], wrong):  # What is done at the first batch only, such as imports, is no cost of a mistake.
        with watched_loop() as longest:
            answer = await world.client().post("/v1/jobs/batch", json={"jobs": jobs})
    said = [item["problem"]["detail"] for item in answer.json()["jobs"]]
    assert "did you mean 'execution_timeout_seconds'?" in said[0]
    assert len(said) == 1_000
    # To find the nearest name costs more than all the rest.
    assert len([one for one in said if "did you mean" in one]) < 10
    assert "execution_timeout_seconsd" in said[-1]
    assert longest[0] < LONGEST_STALL_SECONDS / 2


async def test_no_event_of_a_topic_holds_up_the_others(world: GatewayWorld) -> None:
    half = event(b"[" + b"{}," * 1_000_000 + b"{}]").replace(b'"id":"1"', b'"id":"of a topic"')
    await world.submit(LARGE)
    before = await world.stored()
    with watched_loop() as longest:
        assert await world.gateway.events.deliver(half, "acme")
        assert await world.gateway.events.deliver(half[:-1], "acme")
    assert (await world.stored())["jobs"] == before["jobs"] + 1
    assert longest[0] < LONGEST_STALL_SECONDS


async def test_a_large_body_is_the_same_job_as_a_small_one_would_be(world: GatewayWorld) -> None:
    value = {"text": LARGE, "n": 2**64 + 1, "f": 0.1, "none": None}
    headers = {"Idempotency-Key": "large"}
    ids = set()
    for indent in (None, 2):
        body = json.dumps({"input": value, "parameters": {"a": 1}, "priority": 7}, indent=indent)
        answer = await world.client().post(SUBMIT, content=body, headers=headers)
        assert answer.status_code == 202, answer.text
        ids.add(answer.json()["id"])
    assert len(ids) == 1
    order = (await world.delivered(ids.pop())).data
    assert order.input is None
    assert order.parameters == {"a": 1}
    assert world.gateway.objects is not None
    assert order.objects is not None
    key = str(order.objects.input_url).split("/v1/objects/")[1].partition("?")[0]
    stored = b"".join([chunk async for chunk in await world.gateway.objects.get(key)])
    assert json.loads(stored) == value
    reused = await world.client().post(SUBMIT, json={"input": {**value, "n": 0}}, headers=headers)
    assert reused.json()["code"] == "IDEMPOTENCY_KEY_REUSED"


REFUSED: dict[str, tuple[str, dict[str, Any], int, str, str]] = {
    "not JSON": (SUBMIT, {"content": b'{"input":"%s"' % LARGE.encode()}, 422, "NOT_JSON", "JSON"),
    "an unknown field": (SUBMIT, {"json": {"input": LARGE, "inptu": 1}}, 422, "INVALID_REQUEST", "did you mean"),
    "a long unknown field": (SUBMIT, {"json": {LARGE: 1}}, 422, "INVALID_REQUEST", "no such field"),
    "an input and a reference": (SUBMIT, {"json": {"input": LARGE, "input_ref": "a"}}, 422, "INVALID_REQUEST", "both"),
    "parameters": (SUBMIT, {"json": {"parameters": {"a": LARGE}}}, 413, "INPUT_TOO_LARGE", "65536"),
    "too deep": (SUBMIT, {"content": b'{"input":%s}' % (b"[" * 129 + b"1" * 70_000 + b"]" * 129)}, 422, "NOT_JSON", ""),
    "an integer": (SUBMIT, {"json": {"input": [LARGE, 10**400]}}, 422, "NOT_JSON", "input[1]"),
    "no fit": ("/v1/engines/typed/jobs", {"json": {"input": {"n": 11, "t": LARGE}}}, 422, "INVALID_INPUT", "input.n"),
    "too large for a shared engine": (
        "/v1/engines/standard/jobs",
        {"json": {"input": LARGE * 2}},
        413,
        "INPUT_TOO_LARGE",
        "100000",
    ),
    "another route": ("/v1/uploads", {"json": {"content_type": LARGE}}, 413, "INPUT_TOO_LARGE", "65536"),
}


@pytest.mark.parametrize(("path", "body", "status", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_large_body_is_refused_as_a_small_one_is(
    world: GatewayWorld, path: str, body: dict[str, Any], status: int, code: str, says: str
) -> None:
    said = await refused(world, "POST", path, status, code, **body)
    assert says in said["detail"]
    assert len(said["detail"]) < 1_000


async def test_each_job_of_a_large_batch_is_judged_on_its_own(world: GatewayWorld) -> None:
    items = [{"engine": "typed", "input": {"n": n, "t": LARGE}} for n in (1, 11)] + [{"inptu": 1}, {"input": 10**400}]
    answer = await world.client().post("/v1/jobs/batch", json={"jobs": items})
    first, *others = answer.json()["jobs"]
    assert is_job_id(first["id"])
    assert [item["problem"]["code"] for item in others] == ["INVALID_INPUT", "INVALID_REQUEST", "NOT_JSON"]


async def test_what_is_too_costly_to_read_is_refused(world: GatewayWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginehouse.gateway.intake.bodies._CPU_SECONDS", 0.01)
    said = await refused(world, "POST", SUBMIT, 413, "INPUT_TOO_LARGE", content=b'{"input":%s}' % OBJECTS)
    assert "processor time" in said["detail"]
    monkeypatch.undo()
    assert await world.submit(LARGE)


async def test_large_bodies_in_hand_are_bounded_before_they_are_read(world: GatewayWorld) -> None:
    with world.gateway.bytes_in_hand.holding("acme") as hold:
        hold(32 * 1024 * 1024)
        for content in (LARGE.encode(), _in_parts(LARGE.encode())):
            answer = await world.client().post(SUBMIT, content=content)
            assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
            assert answer.headers["Retry-After"] == "1"
        assert await world.submit("small")
        assert await world.submit(LARGE, tenant="umbra", engine="private")
    assert await world.submit(LARGE)
    assert not world.gateway.bytes_in_hand._held


async def _in_parts(content: bytes) -> AsyncIterator[bytes]:
    yield content[:10_000]
    yield content[10_000:]


async def test_all_tenants_together_have_a_bound_and_nobody_is_refused_without_anything_in_hand() -> None:
    hands = BytesInHand()
    with contextlib.ExitStack() as stack:
        stack.enter_context(hands.holding("huge"))(200 * 1024 * 1024)
        stack.enter_context(hands.holding("acme"))(32 * 1024 * 1024)
        stack.enter_context(hands.holding("umbra"))(24 * 1024 * 1024)
        with pytest.raises(RateLimited, match="the gateway"), hands.holding("later") as hold:
            hold(1)


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type)], ids=lambda k: k.__name__)
async def test_every_error_can_come_from_another_process(kind: type[EnginehouseError]) -> None:
    if not issubclass(kind, EnginehouseError):
        return
    there = kind("no good", retry_after_seconds=2)
    here = pickle.loads(pickle.dumps(there))
    assert (type(here), str(here), here.retry_after_seconds) == (kind, "no good", 2)
