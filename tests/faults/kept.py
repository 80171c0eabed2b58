"""Keeps processes running beside a stack's own, as `enginehouse up` would: a second gateway, an engine's second worker."""

import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.dapr import PORTS, Started, http_ok, spawn, wait_until
from tests.support.stack import StackHandle

from enginehouse.contracts.names import app_id
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.local import checkout, daprd
from enginehouse.local.redis_server import from_url
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, app_environment, sidecar_environment
from enginehouse.registry.bundle import ENGINE_FILE, read_spec

_BACK_AFTER_SECONDS = 0.5


@dataclass
class Kept:
    """A process that is started again whenever it dies."""

    name: str
    command: Sequence[str]
    env: Callable[[], Mapping[str, str]]
    """Asked before each start."""
    logs: Path
    cwd: Path | None = None
    started: Started | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and go on doing so."""
        self.started = self._spawn()
        self._thread = threading.Thread(target=self._keep, name=f"keeps {self.name}")
        self._thread.start()

    def signal(self, number: int) -> None:
        """Signal the process that runs now."""
        assert self.started
        os.kill(self.started.pid, number)

    def stop(self) -> None:
        """End it for good."""
        self._stopping.set()
        if self._thread and self.started:
            self._thread.join()
            if self.started.process.poll() is None:
                self.signal(signal.SIGCONT)
            self.started.stop()

    def until_ready(self, url: str) -> None:
        """Until GET `url` answers 2xx."""
        assert self.started
        wait_until(self.started, lambda: http_ok(url))

    def _spawn(self) -> Started:
        return spawn(self.name, self.command, self.logs / f"{self.name}.log", self.env(), self.cwd)

    def _keep(self) -> None:
        while not self._stopping.wait(0.05):
            assert self.started
            if self.started.process.poll() is not None:
                self.started.kill()
                if not self._stopping.wait(_BACK_AFTER_SECONDS):
                    self.started = self._spawn()


@dataclass(frozen=True)
class KeptApp:
    """An app of ours and its daprd."""

    url: str
    app: Kept
    daprd: Kept


def _sidecar(stack: StackHandle, name: str, plan: SidecarPlan, tokens: Tokens, redis_url: str) -> Kept:
    env = sidecar_environment(tokens, from_url(redis_url).environment())
    return Kept(f"{name}.daprd", plan.command(daprd.require()), lambda: env, stack.home.logs)


@contextmanager
def second_gateway(stack: StackHandle, env: Mapping[str, str], name: str = "gateway-2") -> Iterator[KeptApp]:
    """Another gateway of `stack`, with what `env` gives its first one, until the end of the block."""
    home, port, delivery, sidecar = stack.home, PORTS.take(), PORTS.take(), SidecarPorts.take(PORTS)
    tokens = Tokens.new()
    told = {
        **os.environ,
        **app_environment(sidecar, tokens),
        **env,
        "ENGINEHOUSE_GATEWAY_PORT": str(port),
        "ENGINEHOUSE_GATEWAY_DELIVERY_PORT": str(delivery),
        "ENGINEHOUSE_GATEWAY_GRPC_PORT": "0",
        "ENGINEHOUSE_GATEWAY_PROOF_KEY": home.proof_key,
        "ENGINEHOUSE_GATEWAY_TENANTS_DIR": str(home.tenants),
        "ENGINEHOUSE_GATEWAY_ENGINES_DIR": str(home.engines),
        "ENGINEHOUSE_GATEWAY_OBJECTS_URL": (home.data / "objects").as_uri(),
        "ENGINEHOUSE_GATEWAY_WEBHOOK_SECRETS_DIR": str(home.webhook_secrets),
    }
    gateway = Kept(name, [sys.executable, "-m", "enginehouse.gateway"], lambda: told, home.logs)
    plan = SidecarPlan(
        app_id="gateway",
        ports=sidecar,
        resources=[*checkout.gateway_resources(), home.gateway_parts],
        config=checkout.configuration("gateway"),
        app_port=delivery,
        block_shutdown_seconds=15,
    )
    beside = _sidecar(stack, name, plan, tokens, env["REDIS_URL"])
    with ExitStack() as stops:
        for kept in (beside, gateway):
            kept.start()
            stops.callback(kept.stop)
        gateway.until_ready(f"http://127.0.0.1:{port}/healthz/ready")
        yield KeptApp(f"http://127.0.0.1:{port}", gateway, beside)


@contextmanager
def second_worker(stack: StackHandle, engine: str, source: Path, redis_url: str) -> Iterator[KeptApp]:
    """Another runner of an engine with a replica of its own, as on another machine, until the end of the block."""
    home, app, bundle = stack.home, app_id(engine, "a"), stack.home.engines / engine
    replica_port, delivery, sidecar = PORTS.take(), PORTS.take(), SidecarPorts.take(PORTS)
    run = read_spec(bundle / "slots" / "a" / ENGINE_FILE).run
    assert run
    engine_env = {**os.environ, **run.env, "PORT": str(replica_port)}
    replica = Kept(f"{app}-2.engine", [sys.executable, *run.command[1:]], lambda: engine_env, home.logs, source)
    tokens = Tokens.new()
    runner_env = {
        **os.environ,
        **app_environment(sidecar, tokens),
        "ENGINEHOUSE_RUNNER_WORKER": f"second-{secrets.token_hex(6)}",
        "ENGINEHOUSE_RUNNER_SPEC": str(bundle / "slots" / "a" / ENGINE_FILE),
        "ENGINEHOUSE_RUNNER_SLOT": "a",
        "ENGINEHOUSE_RUNNER_ENGINE_URLS": json.dumps([f"http://127.0.0.1:{replica_port}"]),
        "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(delivery),
        "ENGINEHOUSE_RUNNER_PROOF_KEY": ProofKeys(stack.home.proof_key).of(engine),
    }

    runner = Kept(f"{app}-2.runner", [sys.executable, "-m", "enginehouse.runner"], lambda: runner_env, home.logs)
    plan = SidecarPlan(
        app_id=app,
        ports=sidecar,
        resources=[bundle / "engine", bundle / "slots" / "a" / "dapr", *checkout.runner_resources()],
        config=checkout.configuration("runner"),
        app_port=delivery,
        block_shutdown_seconds=100,
    )
    beside = _sidecar(stack, f"{app}-2", plan, tokens, redis_url)
    with ExitStack() as stops:
        for kept in (replica, beside, runner):
            kept.start()
            stops.callback(kept.stop)
        url = f"http://127.0.0.1:{delivery}"
        runner.until_ready(f"{url}/healthz")
        yield KeptApp(url, runner, beside)
