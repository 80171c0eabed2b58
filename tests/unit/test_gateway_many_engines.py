"""What a gateway does every second, and for a page of engines, does not grow with the engines that lie still."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update
from tests.support.gateway import ECHO, UNHURRIED, GatewayWorld, gateway_world, show_card
from tests.support.proofs import key_of

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.events import ENGINE_ANNOUNCED, completion_event
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.rows import EngineRow
from enginehouse.gateway.ledger.schema import engines

MANY = [f"acme--still-{number:03}" for number in range(40)]
LATE = "acme--late"
_LOOKS_ARE_RARE = {f"other-{number}" for number in range(40_000)}
"""Components after which the sidecar is asked again in minutes."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    """A gateway that knows many engines, and catches up only when a test lets it."""
    pace = replace(UNHURRIED, engines_poll_seconds=3_600)
    async with gateway_world(tmp_path, engines=[ECHO, *MANY], cards={ECHO: {}}, pace=pace) as made:
        yield made


async def _announce(world: GatewayWorld, engine_id: str) -> None:
    await world.gateway.hints.deliver(completion_event(key_of(engine_id), engine_id, ENGINE_ANNOUNCED, "a", None))
    await world.idle()


async def test_a_sidecar_with_much_is_asked_less_often(world: GatewayWorld) -> None:
    catalogue = world.gateway.catalogue
    world.dapr.components |= _LOOKS_ARE_RARE
    await catalogue.refresh()
    asked = world.dapr.calls["metadata"]
    for _ in range(5):
        await catalogue.catch_up()
    assert world.dapr.calls["metadata"] == asked


async def test_an_engine_whose_runner_is_heard_of_is_looked_for_at_once(world: GatewayWorld) -> None:
    catalogue = world.gateway.catalogue
    world.dapr.components |= _LOOKS_ARE_RARE
    await catalogue.refresh()
    await show_card(world.dapr, LATE)
    await _announce(world, LATE)
    await catalogue.catch_up()
    assert catalogue.get(LATE) is None, "the sidecar has not loaded it"
    world.dapr.components.add(names.results_component(LATE))
    await catalogue.catch_up()
    found = catalogue.get(LATE)
    assert found
    assert found.card

    asked = world.dapr.calls["metadata"]
    await _announce(world, LATE)
    await catalogue.catch_up()
    assert world.dapr.calls["metadata"] == asked, "it is known"


async def test_engines_without_a_card_are_looked_at_in_turn_a_few_at_once(world: GatewayWorld) -> None:
    catalogue, looks = world.gateway.catalogue, world.dapr.calls
    still = [engine for engine_id in MANY if (engine := catalogue.get(engine_id))]
    while waiting := sum(not engine.card_due_at for engine in still):
        before = looks["read_many"]
        await catalogue.catch_up()
        assert looks["read_many"] == before + 4, "one call for each"
        assert sum(not engine.card_due_at for engine in still) == waiting - 4
    before = looks["read_many"]
    for engine in still:
        engine.card_due_at += 3_600
    await catalogue.catch_up()
    assert looks["read_many"] == before


async def test_rows_of_engines_that_lie_still_are_not_read_again(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, found, states = world.gateway.catalogue, list[list[EngineRow]](), read.engine_states
    await catalogue.sync_states()
    assert not catalogue._news, "it has written them itself"
    age = update(engines).values(updated_at=engines.c.updated_at - 3_600)
    await world.gateway.ledger.database.transact(lambda connection: connection.execute(age), durable=False)

    def noted(connection: Connection, *arguments: Any) -> list[EngineRow]:
        found.append(states(connection, *arguments))
        return found[-1]

    monkeypatch.setattr(read, "engine_states", noted)
    await catalogue.sync_states()
    await world.gateway.ledger.save_engine(ECHO, None)
    await catalogue.sync_states()
    assert [[row.id for row in rows] for rows in found] == [[], [ECHO]]


async def test_a_gateway_that_starts_again_writes_no_engine_again(world: GatewayWorld, tmp_path: Path) -> None:
    catalogue = world.gateway.catalogue
    before = await world.gateway.ledger.read(read.known_engines)
    catalogue._engines.clear()
    await catalogue.restore()
    await catalogue.read_card(ECHO)
    await catalogue.read_card(MANY[0])
    assert await world.gateway.ledger.read(read.known_engines) == before


async def test_engines_are_listed_by_pages_with_one_call_for_each_of_a_page(world: GatewayWorld) -> None:
    await world.runner.beat()
    client, found, cursor = world.client(), list[str](), None
    await world.gateway.catalogue.read_card(ECHO)  # Its worker is known from now on.
    for engine in world.gateway.catalogue:
        engine.workers_read_at = 0
    before = world.dapr.calls.total()
    while True:
        page = (await client.get("/v1/engines", params={"limit": 20, **({"cursor": cursor} if cursor else {})})).json()
        found += [engine["id"] for engine in page["engines"]]
        assert world.dapr.calls.total() - before == len(found)
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == sorted([ECHO, *MANY])
    assert len((await client.get("/v1/engines")).json()["engines"]) == 20


def _known(world: GatewayWorld) -> KnownEngine:
    engine = world.gateway.catalogue.get(ECHO)
    assert engine
    return engine


def _version(world: GatewayWorld) -> str | None:
    card = _known(world).card
    assert card
    return card.version


async def _redeploy(world: GatewayWorld) -> None:
    """Let the sidecar lose the engine, and another gateway take it back as active; then deploy another version."""
    catalogue = world.gateway.catalogue
    world.dapr.components.discard(names.results_component(ECHO))
    for _ in range(6):
        await catalogue.refresh()
    assert _known(world).state is EngineState.RETIRED
    await show_card(world.dapr, ECHO, version="v9", deployment="ninth")
    seen_there = update(engines).where(engines.c.id == ECHO).values(state="active", updated_at=time.time())
    await world.gateway.ledger.database.transact(lambda connection: connection.execute(seen_there), durable=False)


async def test_a_card_is_read_where_another_gateway_saw_first_that_an_engine_is_back(world: GatewayWorld) -> None:
    catalogue = world.gateway.catalogue
    world.dapr.components |= _LOOKS_ARE_RARE
    await _redeploy(world)
    await catalogue.catch_up()
    assert _known(world).state is EngineState.ACTIVE, "no look was due"
    world.dapr.components.add(names.results_component(ECHO))
    await catalogue.refresh()
    assert _version(world) == "v9"


async def test_a_decision_of_ones_own_does_not_hide_anothers_card(world: GatewayWorld) -> None:
    catalogue = world.gateway.catalogue
    await catalogue.catch_up()
    await show_card(world.dapr, ECHO, version="v9", deployment="ninth")
    await world.gateway.ledger.save_engine(ECHO, '{"engine": "acme--echo", "slot": "a", "version": "v9"}')
    await catalogue.set_state(_known(world), EngineState.PAUSED, "a probe failed", 1e12)
    await catalogue.catch_up()
    assert _version(world) == "v9"


async def test_a_card_that_could_not_be_read_is_read_again(world: GatewayWorld) -> None:
    catalogue = world.gateway.catalogue
    await catalogue.catch_up()
    await show_card(world.dapr, ECHO, version="v9", deployment="ninth")
    world.dapr.fail("read_many", on=names.card_key("a"))
    await _announce(world, ECHO)
    assert _version(world) != "v9"
    await catalogue.catch_up()
    assert _version(world) == "v9"


async def test_what_the_ledger_has_holds_again_after_a_decision_that_it_refused(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, ledger = world.gateway.catalogue, world.gateway.ledger
    await catalogue.catch_up()
    old = update(engines).values(updated_at=engines.c.updated_at - 3_600)
    await ledger.database.transact(lambda connection: connection.execute(old), durable=False)
    with monkeypatch.context() as away:
        away.setattr(ledger.database, "read", _away)
        away.setattr(ledger.database, "transact", _away)
        with pytest.raises(Unavailable):
            await catalogue.set_state(_known(world), EngineState.PAUSED, "a probe failed", 1e12)
        with pytest.raises(Unavailable):
            await catalogue.sync_states()
    await catalogue.sync_states()
    assert _known(world).state is EngineState.ACTIVE


async def _away(*_: Any, **__: Any) -> None:
    raise Unavailable("ledger: away")
