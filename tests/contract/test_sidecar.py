"""Tests of every sidecar, run on the fake and on a real daprd with Redis, so that tests on the fake are meaningful."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.contract.worlds import APP, ENGINE, FORBIDDEN_TOPIC, PUBSUB, STORE, TOPIC, World
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.json_text import NUMBER_MAX
from enginehouse.sidecar.base import Conflict, Invocation, NotPermitted, Sidecar, Unavailable

CROWD = 40
TTL = 60
DATA = {
    "float": 1.0,
    "large": 2**53 + 1,
    "larger": -(2**64) - 1,
    "largest": NUMBER_MAX,
    "none": None,
    "smallest": 5e-324,
    "text": "ä </>",
}
"""Values that change if a part on the way reads numbers into floats or writes text anew."""


@pytest.fixture
async def sidecar(world: World) -> AsyncIterator[Sidecar]:
    connected = world.sidecar()
    await connected.start(timeout_seconds=20)
    yield connected
    await connected.close()


@pytest.fixture
def key() -> str:
    return names.new_job_id()


def cloud_event(event_id: str) -> bytes:
    event = {"specversion": "1.0", "id": event_id, "type": "t", "source": "/s", "data": DATA}
    return json.dumps(event).encode()


async def test_of_many_simultaneous_creators_exactly_one_wins(sidecar: Sidecar, key: str) -> None:
    values = [f"creator {n}".encode() for n in range(CROWD)]
    outcomes = await asyncio.gather(*(sidecar.create(STORE, key, v, TTL) for v in values), return_exceptions=True)
    winners = [value for value, outcome in zip(values, outcomes, strict=True) if outcome is None]
    assert len(winners) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == CROWD - 1
    item = await sidecar.read(STORE, key)
    assert item is not None
    assert item.value == winners[0]


async def test_of_many_replacing_the_same_version_exactly_one_wins(sidecar: Sidecar, key: str) -> None:
    await sidecar.create(STORE, key, b"first", TTL)
    before = await sidecar.read(STORE, key)
    assert before is not None
    outcomes = await asyncio.gather(
        *(sidecar.replace(STORE, key, f"{n}".encode(), before.etag, TTL) for n in range(CROWD)), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == CROWD - 1
    after = await sidecar.read(STORE, key)
    assert after is not None
    assert after.value == f"{outcomes.index(None)}".encode()
    assert after.etag != before.etag


async def test_replacing_an_older_version_is_a_conflict_and_changes_nothing(sidecar: Sidecar, key: str) -> None:
    await sidecar.create(STORE, key, b"one", TTL)
    first = await sidecar.read(STORE, key)
    assert first is not None
    await sidecar.replace(STORE, key, b"two", first.etag, TTL)
    with pytest.raises(Conflict):
        await sidecar.replace(STORE, key, b"three", first.etag, TTL)
    now = await sidecar.read(STORE, key)
    assert now is not None
    assert now.value == b"two"


async def test_replacing_what_is_gone_either_conflicts_or_writes(sidecar: Sidecar, key: str) -> None:
    # Redis writes, SQL stores conflict. Either is right, because a record's TTL outlives every writer that may replace
    # it.
    await sidecar.create(STORE, key, b"one", TTL)
    item = await sidecar.read(STORE, key)
    assert item is not None
    await sidecar.delete(STORE, key)
    try:
        await sidecar.replace(STORE, key, b"two", item.etag, TTL)
    except Conflict:
        assert await sidecar.read(STORE, key) is None
    else:
        written = await sidecar.read(STORE, key)
        assert written is not None
        assert written.value == b"two"


async def test_of_many_written_together_each_learns_its_own_fate(sidecar: Sidecar, key: str) -> None:
    taken = {f"{key}.{n}" for n in range(0, CROWD, 7)}
    await asyncio.gather(*(sidecar.create(STORE, k, b"theirs", TTL) for k in taken))
    keys = [f"{key}.{n}" for n in range(CROWD)]
    outcomes = await asyncio.gather(
        *(sidecar.create(STORE, k, f"ours {k}".encode(), TTL) for k in keys), return_exceptions=True
    )
    assert {k for k, outcome in zip(keys, outcomes, strict=True) if isinstance(outcome, Conflict)} == taken
    assert outcomes.count(None) == CROWD - len(taken)
    found = await sidecar.read_many(STORE, keys)
    assert {k: found[k].value for k in keys} == {k: b"theirs" if k in taken else f"ours {k}".encode() for k in keys}


async def test_large_values_written_together_all_fit(sidecar: Sidecar, key: str) -> None:
    value = b'"' + b"x" * 1_000_000 + b'"'
    await asyncio.gather(*(sidecar.create(STORE, f"{key}.{n}", value, TTL) for n in range(20)))
    for n in range(20):
        item = await sidecar.read(STORE, f"{key}.{n}")
        assert item is not None
        assert item.value == value


async def test_an_expired_key_can_be_created_again(sidecar: Sidecar, key: str) -> None:
    await sidecar.create(STORE, key, b"short", 1)
    with pytest.raises(Conflict):
        await sidecar.create(STORE, key, b"too early", TTL)

    async def gone() -> bool:
        return await sidecar.read(STORE, key) is None

    await until_async(gone, "the key is gone", 15)
    await sidecar.create(STORE, key, b"again", TTL)
    item = await sidecar.read(STORE, key)
    assert item is not None
    assert item.value == b"again"


async def test_replacing_renews_the_time_to_live(sidecar: Sidecar, key: str) -> None:
    await sidecar.create(STORE, key, b"long", TTL)
    item = await sidecar.read(STORE, key)
    assert item is not None
    await sidecar.replace(STORE, key, b"short", item.etag, 1)

    async def gone() -> bool:
        return await sidecar.read(STORE, key) is None

    await until_async(gone, "the key is gone", 15)


async def test_read_many_gives_exactly_those_that_exist(sidecar: Sidecar, key: str) -> None:
    present = {f"{key}.{n}": f"value {n}".encode() for n in range(25)}
    await asyncio.gather(*(sidecar.create(STORE, k, value, TTL) for k, value in present.items()))
    found = await sidecar.read_many(STORE, [*present, f"{key}.missing"])
    assert {k: item.value for k, item in found.items()} == present
    names = [*present, f"{key}.missing", f"{key}.3"]
    singly = await asyncio.gather(*(sidecar.read(STORE, name) for name in names))
    assert singly == [found.get(name) for name in names]
    assert await sidecar.read_many(STORE, []) == {}


async def test_a_value_comes_back_byte_for_byte(sidecar: Sidecar, key: str) -> None:
    value = json.dumps({"output": {"a": None, "b": ["ä", 1.0, {"c": 2**53 + 1}], "d": "x" * 100_000}}).encode()
    await sidecar.create(STORE, key, value, TTL)
    item = await sidecar.read(STORE, key)
    many = await sidecar.read_many(STORE, [key])
    assert item is not None
    assert item.value == many[key].value == value


async def test_put_overwrites_and_lasts_or_expires_as_told(sidecar: Sidecar, key: str) -> None:
    await sidecar.put(STORE, f"{key}.stays", b"one")
    await sidecar.put(STORE, f"{key}.stays", b"two")
    await sidecar.put(STORE, f"{key}.goes", b"x", 1)

    async def gone() -> bool:
        return await sidecar.read(STORE, f"{key}.goes") is None

    await until_async(gone, "the key is gone", 15)
    item = await sidecar.read(STORE, f"{key}.stays")
    assert item is not None
    assert item.value == b"two"


async def test_deleting_twice_is_fine(sidecar: Sidecar, key: str) -> None:
    for name in (key, f"worker/{key} ä"):
        await sidecar.create(STORE, name, b"x", TTL)
        await sidecar.delete(STORE, name)
        assert await sidecar.read(STORE, name) is None
        await sidecar.delete(STORE, name)


async def test_a_published_event_arrives_as_it_was_written(sidecar: Sidecar, world: World, key: str) -> None:
    await sidecar.publish(PUBSUB, TOPIC, cloud_event(key))
    arrived = await world.arrival(key)
    assert json.dumps(arrived["data"], sort_keys=True) == json.dumps(DATA)
    assert arrived["source"] == "/s"


async def test_many_published_events_all_arrive(sidecar: Sidecar, world: World, key: str) -> None:
    ids = [f"{key}.{n}" for n in range(30)]
    assert await sidecar.publish_many(PUBSUB, TOPIC, [cloud_event(event_id) for event_id in ids]) == [True] * 30
    for event_id in ids:
        await world.arrival(event_id)


async def test_events_published_side_by_side_all_arrive(sidecar: Sidecar, world: World, key: str) -> None:
    ids = [f"{key}.{n}" for n in range(30)]
    await asyncio.gather(*(sidecar.publish(PUBSUB, TOPIC, cloud_event(event_id)) for event_id in ids))
    for event_id in ids:
        assert json.dumps((await world.arrival(event_id))["data"], sort_keys=True) == json.dumps(DATA)
    refused = await asyncio.gather(
        *(sidecar.publish(PUBSUB, FORBIDDEN_TOPIC, cloud_event(event_id)) for event_id in ids), return_exceptions=True
    )
    assert all(isinstance(outcome, NotPermitted) for outcome in refused)


async def test_a_topic_that_is_not_ours_is_refused(sidecar: Sidecar, key: str) -> None:
    with pytest.raises(NotPermitted):
        await sidecar.publish(PUBSUB, FORBIDDEN_TOPIC, cloud_event(key))
    with pytest.raises(NotPermitted):
        await sidecar.publish_many(PUBSUB, FORBIDDEN_TOPIC, [cloud_event(key)])


async def test_an_unknown_component_is_unavailable_and_named(sidecar: Sidecar, key: str) -> None:
    calls = [
        sidecar.publish("no-such", TOPIC, cloud_event(key)),
        sidecar.publish_many("no-such", TOPIC, [cloud_event(key)]),
        sidecar.read("no-such", key),
        sidecar.read_many("no-such", [key]),
        sidecar.create("no-such", key, b"x", TTL),
        sidecar.put("no-such", key, b"x"),
        sidecar.delete("no-such", key),
    ]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, Unavailable)
        assert "no-such" in str(outcome)


async def test_metadata_tells_what_is_loaded(sidecar: Sidecar) -> None:
    metadata = await sidecar.metadata()
    assert metadata.app_id == names.app_id(ENGINE, "a")
    assert {STORE, PUBSUB} <= metadata.components
    assert TOPIC in metadata.subscribed_topics


async def test_a_call_and_its_answer_arrive_as_they_were_sent(sidecar: Sidecar) -> None:
    call = Invocation("PUT", "call/one/a%20b", "x=1&y=a+b", [("x-mine", "there")], b"\x00\xff")
    answer = await sidecar.invoke(APP, call)
    assert answer.status == 418
    assert json.loads(answer.body) == ["PUT", "call/one/a%20b", "x=1&y=a+b", "there", "\x00\xff"]
    assert (answer.header("x-mine"), answer.header("content-type")) == ("back", "text/x-mine")
    nothing = await sidecar.invoke(APP, Invocation("GET", "call/one/x"))
    assert json.loads(nothing.body) == ["GET", "call/one/x", "", None, ""]


async def test_what_no_app_has_answered_is_no_answer(sidecar: Sidecar) -> None:
    for app, path in ((APP, "call/one/silent"), ("acme--none--a", "call/one/x")):
        with pytest.raises(Unavailable):
            await sidecar.invoke(app, Invocation("GET", path))


async def test_an_answer_is_bounded_and_counted_before_it_is_large(sidecar: Sidecar) -> None:
    large = Invocation("PUT", "call/one/x", body=b"x" * 200_000, answer_max_bytes=100_000)
    with pytest.raises(Unavailable, match="more than 100000 bytes"):
        await sidecar.invoke(APP, large)
    held: list[int] = []
    await sidecar.invoke(APP, replace(large, answer_max_bytes=300_000, hold=held.append))
    assert held == [300_000]
