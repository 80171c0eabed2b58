"""A second gateway beside a stack's own, over the same ledger: kept running by the tests as `enginehouse up` would."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.dapr import PORTS, Started, http_ok, spawn, wait_until
from tests.support.stack import StackHandle

from enginehouse.local import checkout, daprd
from enginehouse.local.redis import from_url
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, app_environment, sidecar_environment

_BACK_AFTER_SECONDS = 0.5


@dataclass
class Kept:
    """A process that is started again whenever it dies."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    started: Started | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it, and go on doing so."""
        self.started = spawn(self.name, self.command, self.log, self.env)
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

    def _keep(self) -> None:
        while not self._stopping.wait(0.05):
            assert self.started
            if self.started.process.poll() is not None:
                self.started.kill()
                if not self._stopping.wait(_BACK_AFTER_SECONDS):
                    self.started = spawn(self.name, self.command, self.log, self.env)


@dataclass(frozen=True)
class SecondGateway:
    """Both of its processes."""

    url: str
    gateway: Kept
    daprd: Kept


@contextmanager
def second_gateway(stack: StackHandle, env: Mapping[str, str]) -> Iterator[SecondGateway]:
    """Another gateway of `stack`, with what `env` gives its first one, until the end of the block."""
    home, port, delivery, sidecar = stack.home, PORTS.take(), PORTS.take(), SidecarPorts.take(PORTS)
    tokens = home.secret("dapr-api-token"), home.secret("app-api-token")
    gateway = Kept(
        "gateway-2",
        [sys.executable, "-m", "enginehouse.gateway"],
        {
            **os.environ,
            **env,
            **app_environment(sidecar, *tokens),
            "ENGINEHOUSE_GATEWAY_PORT": str(port),
            "ENGINEHOUSE_GATEWAY_DELIVERY_PORT": str(delivery),
            "ENGINEHOUSE_GATEWAY_TENANTS_DIR": str(home.tenants),
            "ENGINEHOUSE_GATEWAY_ENGINES_DIR": str(home.engines),
            "ENGINEHOUSE_GATEWAY_OBJECTS_URL": (home.data / "objects").as_uri(),
            "ENGINEHOUSE_GATEWAY_WEBHOOK_SECRETS_DIR": str(home.webhook_secrets),
        },
        home.logs / "gateway-2.log",
    )
    plan = SidecarPlan(
        app_id="gateway",
        ports=sidecar,
        resources=[*checkout.gateway_resources(), home.gateway_parts],
        config=checkout.configuration("gateway"),
        app_port=delivery,
        block_shutdown_seconds=15,
    )
    sidecar_env = sidecar_environment(*tokens, from_url(env["REDIS_URL"]).environment())
    beside = Kept("gateway-2.daprd", plan.command(daprd.require()), sidecar_env, home.logs / "gateway-2.daprd.log")
    with ExitStack() as stops:
        for kept in (beside, gateway):
            kept.start()
            stops.callback(kept.stop)
        assert gateway.started
        wait_until(gateway.started, lambda: http_ok(f"http://127.0.0.1:{port}/healthz/ready"))
        yield SecondGateway(f"http://127.0.0.1:{port}", gateway, beside)
