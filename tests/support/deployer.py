"""A registry's deployer over an API server in memory, for tests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.fake_cluster import FakeCluster
from tests.support.registry import registry_settings
from tests.support.waiting import until_async

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.broker import redis
from enginehouse.broker import users as broker_users
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.names import namespace
from enginehouse.registry import deploy
from enginehouse.registry.deployer import bring, engine, removals, start
from enginehouse.registry.deployer.deployer import Deployer
from enginehouse.registry.deployer.kinds import (
    DEPLOYMENT,
    Ref,
)
from enginehouse.registry.what_runs import WhatRuns

ENGINE, PLACE = "acme--one", namespace("acme")
IMAGE = f"registry.example/acme/one@sha256:{'a' * 64}"


@dataclass
class FakeGateway:
    """What the gateway and runners answer."""

    quarantined: list[dict[str, Any]] = field(default_factory=list)
    state: str = "active"
    misfit: str | None = None
    told: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=lambda: {"removed": True, "rows": 0, "objects": False})

    def make_key(self) -> bool:
        return True

    async def ask(self, path: str, params: dict[str, Any] | None = None, *, wait_seconds: int = 0) -> Any:
        if path == "/v1/quarantines":
            await asyncio.sleep(0.05)
            return {"tag": str(len(self.quarantined)), "quarantines": self.quarantined}
        if path.endswith("/data"):
            return self.data
        return {"state": self.state, "queue": {"jobs": {"queued": 0, "running": 0}}}

    async def tell(self, path: str, params: dict[str, Any]) -> Any:
        self.told.append(path)
        raise Unavailable("not now")

    async def runners_problem(self, address: str, port: int) -> str | None:
        return self.misfit


@dataclass
class World:
    """A home, its deployer and what it works with."""

    home: Path
    cluster: FakeCluster
    gateway: FakeGateway
    deployer: Deployer

    def deploy(self, version: str, *, promote: bool = True, **more: Any) -> None:
        folder = self.home / "folders" / version
        folder.mkdir(parents=True)
        content = {"tenant": "acme", "name": "one", "version": version, "image": IMAGE, **more}
        (folder / "engine.yaml").write_text(yaml.safe_dump(content))
        deploy.deploy_engine(self.home / "engines", folder, promote=promote)

    def ref(self, name: str) -> Ref:
        return Ref(DEPLOYMENT, PLACE, name)

    def what_runs(self) -> WhatRuns:
        return WhatRuns.read(self.home / "run" / "state.json")

    def state(self, kind: str = "active") -> str | None:
        running = getattr(self.what_runs(), kind)(ENGINE)
        return running.state if running else None

    def active(self) -> str | None:
        keeper = self.deployer.engines.get(ENGINE)
        return keeper.versions.active if keeper and keeper.versions else None


@asynccontextmanager
async def running(home: Path, cluster: FakeCluster, gateway: FakeGateway) -> AsyncIterator[World]:
    settings = registry_settings(home, cluster=True, proof_key="k" * 32, broker_password="pw")
    more = {"state_file": home / "run" / "state.json", "supply_dir": home / "supply"}
    settings = settings.model_copy(update=more)
    background = Background()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "Cluster", lambda: cluster)
        patch.setattr(start, "Gateway", lambda *_: gateway)
        background_audit = AuditLog(None, "registry", max_bytes=2**20)
        deployer = start.keep_deployer(settings, background_audit, background)
    try:
        await until(deployer.inventory.complete.is_set, "everything to be listed")
        yield World(home, cluster, gateway, deployer)
    finally:
        await background.close()


async def until(condition: Callable[[], bool], what: str) -> None:
    await until_async(condition, what, 15, poll_seconds=0.02)


def make_quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Return the users that the broker has, and make all waits short."""
    users: dict[str, list[str]] = {}
    monkeypatch.setattr(broker_users, "set_user", lambda _, user, passwords: users.update({user.name: passwords}))
    monkeypatch.setattr(broker_users, "delete_user", lambda _, name: users.pop(name, None))
    monkeypatch.setattr(redis, "answers", lambda *_: True)
    monkeypatch.setattr(redis, "commands", lambda _, sent: ["+0" for _ in sent])
    monkeypatch.setattr(redis, "trim_acknowledged", lambda *_: {})
    monkeypatch.setattr(bring, "_UNSUBSCRIBE_SECONDS", 0.0)
    monkeypatch.setattr(engine, "_UNFIT_SECONDS", 0.0)
    for name in ("_LOOK_SECONDS", "_LET_GO_SECONDS", "_QUIET_SECONDS"):
        monkeypatch.setattr(removals, name, 0.05)
    return users
