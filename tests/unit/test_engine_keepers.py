"""The keepers of a home's engines know which version serves and which is on trial, and treat them accordingly."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.support.waiting import until_async

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.local import engine_keepers
from enginehouse.local.engine_keepers import EngineKeepers
from enginehouse.registry.bundle import Workload
from enginehouse.registry.versions import Versions

ONE = "acme--one"


@dataclass
class _Keeper:
    """Stands for a slot's keeper, whose version runs."""

    engine_id: str
    slot: Any
    on_misdeed: Any
    state: str = "running"
    is_judged: bool = False
    rejected: str | None = None
    version: str = "v2"
    task: "asyncio.Future[None]" = field(default_factory=asyncio.Future)

    def want(self, wanted: str | None, *, finish_jobs: bool = False) -> None:
        pass

    async def _answers(self) -> Workload:
        return Workload(version="v2", source="source", content="second")

    def begin_to_judge(self) -> Any:
        self.is_judged = True
        return self._answers()


@dataclass
class Around:
    """What is around the keepers of one engine, with a version in each slot."""

    keepers: EngineKeepers
    noted: list[tuple[str, str, int]]
    made: dict[str, _Keeper]
    promoted: list[str]
    withheld: set[str]


@pytest.fixture
async def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Around]:
    noted, made = list[tuple[str, str, int]](), dict[str, _Keeper]()

    def make(_: Any, engine_id: str, slot: Any, bundle: Path, on_change: Any, on_misdeed: Any) -> _Keeper:
        made[slot] = _Keeper(engine_id, slot, on_misdeed)
        return made[slot]

    workload = Workload(version="v", source="source", content="first")
    monkeypatch.setattr(engine_keepers, "EngineKeeper", make)
    monkeypatch.setattr(engine_keepers, "fingerprint", lambda *_: "print")
    monkeypatch.setattr(
        engine_keepers, "read_versions", lambda _: Versions("a", "b", "b", {"a": workload, "b": workload})
    )
    home = SimpleNamespace(engine_bundles=lambda: {ONE: tmp_path / ONE}, engines=tmp_path)
    misbehaviour = SimpleNamespace(note=lambda *what: noted.append(what))
    context: Any = SimpleNamespace(home=home, misbehaviour=misbehaviour)
    background = Background()
    withheld, promoted = set[str](), list[str]()
    monkeypatch.setattr(engine_keepers, "promote_engine", lambda _, engine_id, judged: promoted.append(engine_id))
    rules: Any = SimpleNamespace(
        holds=lambda *_: False, withholds=lambda engine_id: engine_id in withheld, take_up=lambda *_: None
    )
    keepers = EngineKeepers(context, AuditLog(None, "supervisor", max_bytes=1), background, rules, lambda: None)
    yield Around(keepers, noted, made, promoted, withheld)
    await background.close()


async def test_misdeeds_of_a_version_on_trial_do_not_stop_the_one_that_serves(around: Around) -> None:
    around.keepers.follow()
    for slot in ("b", "a"):
        around.made[slot].on_misdeed(around.made[slot], Misdeed.HANGS, 100)
    assert around.noted == [(ONE, "hangs", 100)], "those of slot a alone"


async def test_a_quarantined_version_on_trial_is_promoted_when_its_quarantine_has_ended(around: Around) -> None:
    around.keepers.follow()
    around.withheld.add(ONE)  # While it answers its own examples.
    await until_async(lambda: not around.made["b"].is_judged, "it is not taken for judged")
    around.keepers.follow()
    assert (around.made["b"].is_judged, around.promoted) == (False, [])
    around.withheld.clear()
    around.keepers.follow()
    await until_async(lambda: around.promoted == [ONE], "it is promoted")


async def test_only_the_engines_that_changed_are_looked_at(around: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    around.keepers.follow()
    monkeypatch.setattr(engine_keepers, "read_versions", lambda bundle: pytest.fail(f"{bundle} is read"))
    around.keepers.follow({"acme--other"})
    assert sorted(around.keepers.routed) == [ONE]


class _Asked:
    """A keeper whose policy says what the test sets."""

    def __init__(self, said: bool | Exception) -> None:
        self.engine_id, self.said = "acme--one", said
        self.did: list[str] = []

    async def may_go_on(self) -> bool:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    def retry(self) -> None:
        self.did.append("retry")

    def start_anew(self) -> None:
        self.did.append("start anew")


async def test_an_engine_of_which_the_policy_cannot_be_asked_goes_on_and_the_others_are_judged() -> None:
    unused: Any = None
    keepers = EngineKeepers(unused, unused, unused, unused, lambda: None)
    kept: dict[str, Any] = {
        name: _Asked(said)
        for name, said in (("broken", OverflowError("date value out of range")), ("allowed", True), ("refused", False))
    }
    keepers._keepers.update(kept)
    await keepers.follow_policy()
    assert {name: keeper.did for name, keeper in kept.items()} == {
        "broken": [],
        "allowed": ["retry"],
        "refused": ["start anew"],
    }
