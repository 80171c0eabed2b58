"""A whole real stack for tests: `enginehouse up` in its own home, with handles to all its processes."""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.support.dapr import PORTS, DiedEarly, Started, spawn
from tests.support.waiting import NotInTime, until

from enginehouse.contracts.names import is_engine_id
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.registry.deploy import deploy_engine, remove_engine
from enginehouse.registry.tenants import add_key

START_SECONDS = 180
"""Long, because the very first start makes the engines' environments."""


@dataclass(frozen=True)
class Answer:
    """An answer of the API."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class StackHandle:
    """A running stack. Its processes are those of `state.json`, by name: `redis`, `gateway`, `gateway.daprd`,
    `<app id>.engine-0`, `<app id>.runner`, `<app id>.daprd`."""

    home: Home
    base_url: str
    up: Started
    keys: dict[str, str] = field(default_factory=dict)
    """API keys by tenant. `demo` has an admin key."""

    def state(self) -> dict[str, Any]:
        """Return the present state that `enginehouse status` reads."""
        return self.home.read_state()

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return the processes of the state, by name."""
        return {process["name"]: process for process in self.state()["processes"]}

    def pid(self, name: str) -> int:
        """Return the process id of a part. Wait for it if it is being restarted."""
        return until(lambda: self._pid(name), f"{name} runs")

    def signal(self, name: str, number: int) -> int:
        """Send a signal (SIGKILL, SIGSTOP, SIGCONT) to one process. Return its pid at that moment."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def kill(self, name: str) -> int:
        """Send SIGKILL to one process. The supervisor starts it again; `until_restarted` waits for that."""
        return self.signal(name, signal.SIGKILL)

    def until_restarted(self, name: str, old_pid: int, timeout_seconds: float = 30) -> int:
        """Wait for the process that replaces `old_pid`, and return its pid."""
        return until(
            lambda: None if (pid := self._pid(name)) == old_pid else pid, f"{name} is restarted", timeout_seconds
        )

    def _pid(self, name: str) -> int | None:
        pid: int | None = self.processes().get(name, {}).get("pid")
        return pid

    def log(self, name: str) -> str:
        """Return everything that a process has written."""
        return (self.home.logs / f"{name}.log").read_text(errors="replace")

    def deploy(self, folder: Path, *, wait: bool = True) -> str:
        """Deploy an engine's folder into the running stack, and return its id. `wait`: until the gateway takes jobs."""
        engine = deploy_engine(self.home.engines, folder).id
        if wait:
            self.until_engine(engine)
        return engine

    def deploy_all(self, folders: Sequence[Path]) -> None:
        """Deploy engines into the running stack at once, and wait until the gateway takes jobs for all of them."""
        for engine in [self.deploy(folder, wait=False) for folder in folders]:
            self.until_engine(engine)

    def remove(self, engine: str) -> None:
        """Remove an engine from the running stack."""
        remove_engine(self.home.engines, engine)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Remove after the block each engine that was deployed in it, and wait until nothing of it is left."""
        before = self._bundles()
        yield
        # One after the other: daprd may overlook that a component was removed if several are at once.
        for engine in sorted(self._bundles() - before):
            self._remove_wholly(engine)

    def _remove_wholly(self, engine: str) -> None:
        self.remove(engine)
        until(lambda: engine not in {*self._bundles(), *self.state()["engines"]}, f"{engine} is forgotten", 60)

    def _bundles(self) -> set[str]:
        return {path.name for path in self.home.engines.iterdir() if is_engine_id(path.name)}

    def key_for(self, tenant: str) -> str:
        """Return an API key of a tenant. It is made at first use, and the gateway is waited for."""
        if tenant not in self.keys:
            self.keys[tenant] = add_key(self.home.tenants, tenant)
            until(lambda: self.call("GET", "/v1/engines", tenant=tenant).status == 200, f"the key of {tenant} is known")
        return self.keys[tenant]

    def until_engine(self, engine: str, timeout_seconds: float = 60) -> dict[str, Any]:
        """Wait until an engine is healthy and the gateway knows its card. Return the API's view of it."""
        tenant = engine.partition("--")[0]
        caller = LOCAL_TENANT if tenant == "shared" else tenant

        def known() -> dict[str, Any] | None:
            entry = self.state().get("engines", {}).get(engine, {})
            if entry.get("state") == "failed":
                raise DiedEarly(f"{engine}: {entry['problem']}")
            if entry.get("state") != "running":
                return None
            answer = self.call("GET", f"/v1/engines/{engine}", tenant=caller)
            return dict(answer.body) if answer.status == 200 and answer.body.get("card") else None

        self.key_for(caller)
        return until(known, f"{engine} can be used", timeout_seconds)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        tenant: str = LOCAL_TENANT,
        headers: dict[str, str] | None = None,
        timeout_seconds: float = 70,
    ) -> Answer:
        """Call the API as a tenant. A body is sent as JSON; bytes are sent unchanged."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Authorization": f"Bearer {self.keys[tenant]}", "Content-Type": "application/json", **(headers or {})}
        request = Request(self.base_url + path, data, sent, method=method)
        try:
            with urlopen(request, timeout=timeout_seconds) as answer:
                return _answer(answer.status, dict(answer.headers), answer.read())
        except HTTPError as error:
            with error:
                return _answer(error.code, dict(error.headers), error.read())

    def submit(self, engine: str, value: Any, *, tenant: str = LOCAL_TENANT, wait: int = 30, **body: Any) -> Any:
        """Submit a job and return it. It has ended if that took at most `wait` seconds."""
        headers = {"Prefer": f"wait={wait}"} if wait else {}
        answer = self.call(
            "POST", f"/v1/engines/{engine}/jobs", {"input": value, **body}, tenant=tenant, headers=headers
        )
        assert answer.status in (200, 202), answer
        return answer.body

    def stop(self) -> None:
        """Stop everything, as 'enginehouse down' does."""
        self.up.stop(timeout_seconds=60)


def _answer(status: int, headers: dict[str, str], body: bytes) -> Answer:
    is_json = "json" in headers.get("content-type", headers.get("Content-Type", ""))
    return Answer(
        status, {name.lower(): value for name, value in headers.items()}, json.loads(body) if is_json else body
    )


def start_stack(
    folder: Path,
    engines: Sequence[Path] = (),
    *,
    tenants: Sequence[str] = (),
    platform_engines: str = "none",
    env: dict[str, str] | None = None,
    wait: bool = True,
    in_containers: bool = False,
    sandbox: str | None = None,
) -> StackHandle:
    """Start a stack in `folder` with these engines and a key for each of these tenants, ready for jobs."""
    home = Home.at(folder)
    ids = [deploy_engine(home.engines, engine).id for engine in engines]
    owners = {engine.partition("--")[0] for engine in ids} - {"shared"}
    keys = {tenant: add_key(home.tenants, tenant) for tenant in {*tenants, *owners}}
    port = PORTS.take()
    command = [sys.executable, "-m", "enginehouse.cli.main", "up", "--home", str(home.path), "--port", str(port)]
    asked = [*(["--containers"] if in_containers else []), *(["--sandbox", sandbox] if sandbox else [])]
    up = spawn(
        "up",
        [*command, "--engines", platform_engines, "--no-logs", *asked],
        home.logs / "enginehouse.log",
        {**os.environ, **(env or {})},
    )
    handle = StackHandle(home, f"http://127.0.0.1:{port}", up, keys)
    if wait:
        _until_ready(handle)
        handle.keys[LOCAL_TENANT] = home.read_local()["api_key"]
        for engine in ids:
            handle.until_engine(engine)
    return handle


def _until_ready(handle: StackHandle) -> None:
    def is_ready() -> bool:
        state = handle.state()
        if state.get("supervisor") == handle.up.pid and state.get("ready"):
            return True
        if handle.up.process.poll() is not None:
            raise DiedEarly(f"the stack did not start:\n{handle.up.logs()[-4000:]}")
        return False

    try:
        until(is_ready, "the stack is ready", START_SECONDS)
    except NotInTime as late:
        handle.stop()
        raise DiedEarly(f"{late}\n{handle.up.logs()[-4000:]}") from None


@contextmanager
def running_stack(
    folder: Path,
    engines: Sequence[Path] = (),
    *,
    tenants: Sequence[str] = (),
    platform_engines: str = "none",
    env: dict[str, str] | None = None,
) -> Iterator[StackHandle]:
    """Run `start_stack` and stop the stack after the block. For fixtures of any scope."""
    handle = start_stack(folder, engines, tenants=tenants, platform_engines=platform_engines, env=env)
    try:
        yield handle
    finally:
        handle.stop()


__all__ = ["Answer", "DiedEarly", "StackHandle", "running_stack", "start_stack", "until"]
