"""A quarantined engine runs again only if the gateway says so, whatever is killed meanwhile, or if another version has replaced it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.contracts.names import Slot
from enginehouse.local import quarantines
from enginehouse.local.home import Home
from enginehouse.local.quarantines import Quarantines, Shown
from enginehouse.registry import known_quarantines
from enginehouse.registry.bundle import Workload
from enginehouse.registry.versions import Versions

ONE, USER = "acme--one", "engine-acme--one"


@dataclass
class Around:
    """What is around the quarantines of a home: a gateway, users of the broker, engines."""

    home: Home
    happened: list[tuple[str, str]] = field(default_factory=list)
    asked_again: asyncio.Event = field(default_factory=asyncio.Event)
    lists: "asyncio.Queue[list[dict[str, Any]]]" = field(default_factory=asyncio.Queue)

    def note(self, what: str) -> Callable[[str], None]:
        return lambda name: self.happened.append((what, name))

    async def ask(self, _: Any, method: str, path: str, **more: Any) -> dict[str, Any]:
        if method == "POST":
            self.happened.append((method, f"{path} {more['params']}"))
            return {}
        if more["params"]["known"]:
            self.asked_again.set()
        return {"quarantines": await self.lists.get(), "tag": "one"}

    def made(self) -> Quarantines:
        users: Any = type("Users", (), {"revoke": self.note("revoke"), "readmit": self.note("readmit")})
        audit = AuditLog(None, "supervisor", max_bytes=1)
        return Quarantines(self.home, "", users, audit, Background())

    async def told(self, made: Quarantines, *listed: dict[str, Any]) -> None:
        """Let the gateway list these engines, and wait until that has its effect."""
        await self.lists.put(list(listed))
        keepers: Any = SimpleNamespace(
            kill=self.note("kill"), follow=lambda changed: self.note("follow")(",".join(changed))
        )
        following = asyncio.create_task(made.follow(keepers))
        asked_again = asyncio.create_task(self.asked_again.wait())
        await asyncio.wait({following, asked_again}, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
        assert asked_again.done()
        self.asked_again.clear()
        following.cancel()


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Around:
    made = Around(Home.at(tmp_path))
    monkeypatch.setattr(Quarantines, "_ask", lambda _, *given, **more: made.ask(*given, **more))
    monkeypatch.setattr(quarantines, "fingerprint", lambda *_: "print")
    bundle = made.home.engines / ONE
    bundle.mkdir()
    (bundle / "workloads.yaml").write_text("slots: {a: {version: v1, source: source, content: first}}\n")
    return made


def listed(*, by_operator: bool) -> dict[str, Any]:
    return {"engine": ONE, "reason": "it lies", "by_operator": by_operator}


def held(made: Quarantines, bundle: Path, *slots: Slot, now: Versions | None) -> list[bool]:
    """Let a bundle say which versions it wants to run, and say which of them must not."""
    made.take_up(bundle, slots, now)
    return [made.holds(bundle.name, slot, now) for slot in slots]


def versions(*, active: str = "first", trial: str | None = None) -> Versions:
    slots = {"a": active, "b": trial} if trial else {"a": active}
    workloads: Any = {slot: Workload(version="v", source="s", content=content) for slot, content in slots.items()}
    return Versions("a", "b" if trial else None, None, workloads)


async def test_it_is_killed_first_then_its_credentials_go_and_the_end_gives_it_others(around: Around) -> None:
    made, bundle = around.made(), around.home.engines / ONE
    await made.start()
    assert not held(made, bundle, "a", now=versions())[0]
    await around.told(made, listed(by_operator=True))
    assert around.happened == [("kill", ONE), ("revoke", USER), ("follow", ONE)]
    assert held(made, bundle, "a", now=versions())[0]
    assert made.shown(Shown({}, {}), {ONE: versions()}).engines == {
        ONE: {"state": "quarantined", "slot": "a", "problem": "it lies", "doing": None, "deployed": "print"}
    }
    around.happened.clear()
    await around.told(made)
    assert around.happened == [("readmit", USER), ("follow", ONE)]
    assert not held(made, bundle, "a", now=versions())[0]


async def test_a_start_holds_what_was_quarantined_until_the_gateway_says_otherwise(around: Around) -> None:
    await around.told(around.made(), listed(by_operator=True))
    around.happened.clear()
    made, bundle = around.made(), around.home.engines / ONE
    await made.start()
    assert around.happened == [("revoke", USER)]
    assert held(made, bundle, "a", now=versions())[0]
    await around.told(made)
    assert not held(made, bundle, "a", now=versions())[0]


async def test_a_version_deployed_afterwards_may_run_and_resumes_its_engine_when_it_is_active(around: Around) -> None:
    made, bundle = around.made(), around.home.engines / ONE
    await around.told(made, listed(by_operator=False))
    around.happened.clear()
    tried = versions(trial="second")
    assert held(made, bundle, "a", "b", now=tried) == [True, False]
    assert around.happened == [("readmit", USER)]
    assert not held(made, bundle, "a", now=versions(active="second"))[0]
    await made.background.close(finish_seconds=5)
    assert around.happened[-1] == ("POST", f"/v1/engines/{ONE}/resume {{'unless_by_operator': True}}")


async def test_a_full_disk_keeps_no_engine_running(around: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(known_quarantines, "write_private", refuse)
    await around.told(around.made(), listed(by_operator=True))
    assert around.happened == [("kill", ONE), ("revoke", USER), ("follow", ONE)]


async def test_an_operators_decision_holds_every_version(around: Around) -> None:
    made, bundle = around.made(), around.home.engines / ONE
    await around.told(made, listed(by_operator=True))
    assert held(made, bundle, "a", "b", now=versions(trial="second")) == [True, True]
    assert [name for what, name in around.happened if what in ("readmit", "POST")] == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"acme--one": 1}', "not json"])
async def test_a_file_that_cannot_be_read_holds_nothing(around: Around, content: str) -> None:
    (around.home.run / "quarantined.json").write_text(content)
    made = around.made()
    await made.start()
    assert not held(made, around.home.engines / ONE, "a", now=versions())[0]


async def test_an_engine_whose_bundle_cannot_be_read_is_held_whole_until_it_can(around: Around) -> None:
    made, bundle = around.made(), around.home.engines / ONE
    workloads = bundle / "workloads.yaml"
    before = workloads.read_text()
    workloads.write_text("slots: [")
    await around.told(made, listed(by_operator=False))
    assert held(made, bundle, "a", now=versions(active="any")) == [True]
    workloads.write_text(before)
    around.happened.clear()
    await around.told(made, listed(by_operator=False))
    assert held(made, bundle, "a", "b", now=versions(trial="second")) == [True, False]


async def test_a_version_on_trial_that_is_quarantined_runs_and_is_not_promoted(around: Around) -> None:
    made, bundle, tried = around.made(), around.home.engines / ONE, versions(trial="second")
    await around.told(made, {**listed(by_operator=False), "engine": f"{ONE}@trial"})
    assert around.happened == [("follow", ONE)]
    assert held(made, bundle, "a", "b", now=tried) == [False, False]
    running: dict[str, str | None] = {"state": "running", "problem": None, "deployed": "print"}
    shown = made.shown(Shown({ONE: running}, {ONE: running}), {ONE: tried})
    assert shown.engines == {ONE: running}
    assert shown.trials == {ONE: {"state": "quarantined", "problem": "it lies", "deployed": "print"}}
    again = around.made()
    await again.start()
    assert again.withholds(ONE), "it is remembered"
    await around.told(again)
    assert not again.withholds(ONE)


async def test_what_could_not_be_done_is_done_again(around: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    made, revoke = around.made(), around.note("revoke")

    def fail(_: str) -> None:
        monkeypatch.setattr(made.users, "revoke", revoke)
        raise OSError("No space left on device")

    monkeypatch.setattr(made.users, "revoke", fail)
    with pytest.raises(OSError, match="No space"):
        await around.told(made, listed(by_operator=True))
    around.happened.clear()
    await around.told(made, listed(by_operator=True))
    assert around.happened == [("kill", ONE), ("revoke", USER)]
