"""Start a real Redis and real sidecars for tests. They end with the test run, however it ends."""

import contextlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.support.waiting import NotInTime, until

from enginehouse.broker import redis
from enginehouse.broker.passwords import new_password
from enginehouse.broker.redis import RedisAddress
from enginehouse.local import daprd, redis_server
from enginehouse.local.guard import Guard, signal_group
from enginehouse.local.ports import PortPool
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, sidecar_environment

API_TOKEN = "api-token-of-tests"
APP_TOKEN = "app-token-of-tests"

PORTS = PortPool()
GUARD = Guard()


class DiedEarly(AssertionError):
    """A process under test ended too early or was not ready in time."""


@dataclass
class Started:
    """A process that a test started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Id of the process and of its group."""
        return self.process.pid

    def logs(self) -> str:
        """Return everything that the process has written."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        signal_group(self.pid, 9)
        self.process.wait()
        GUARD.forget(self.pid)

    def stop(self, timeout_seconds: float = 15) -> None:
        """Send SIGTERM, and SIGKILL after the timeout."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout_seconds)
        self.kill()


@dataclass
class RedisHandle(Started):
    """A Redis for one test."""

    address: RedisAddress = field(default_factory=lambda: RedisAddress("127.0.0.1", 0, ""))

    def environment(self) -> dict[str, str]:
        """Return the variables for sidecars whose components name this Redis by envRef."""
        return self.address.environment()


@dataclass
class DaprdHandle(Started):
    """A daprd for one test."""

    plan: SidecarPlan = field(default_factory=lambda: SidecarPlan("none", SidecarPorts(0, 0, 0, 0, 0)))
    api_token: str = API_TOKEN
    app_token: str = APP_TOKEN

    @property
    def http_port(self) -> int:
        """Port of the Dapr API."""
        return self.plan.ports.http

    @property
    def url(self) -> str:
        """Base URL of the Dapr HTTP API. Calls need the header `dapr-api-token: <api_token>`."""
        return f"http://127.0.0.1:{self.http_port}/v1.0"


def spawn(name: str, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path | None = None) -> Started:
    """Start a process in its own group that ends with the test run. Its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    GUARD.watch(process.pid)
    return Started(name, process, log)


def http_ok(url: str) -> bool:
    """Return whether GET answers 2xx within a second."""
    try:
        with urlopen(url, timeout=1) as answer:
            return answer.status in range(200, 300)
    except (URLError, OSError):
        return False


def wait_until(started: Started, ready: Callable[[], bool], timeout_seconds: float = 30) -> None:
    """Wait until `ready`. Raise DiedEarly with the end of the log if the process ends first or takes too long."""

    def is_ready() -> bool:
        if ready():
            return True
        if started.process.poll() is not None:
            raise DiedEarly(f"{started.name} ended with {started.process.returncode}:\n{started.logs()[-3000:]}")
        return False

    try:
        until(is_ready, f"{started.name} is ready", timeout_seconds)
    except NotInTime as late:
        started.kill()
        raise DiedEarly(f"{late}\n{started.logs()[-3000:]}") from None


def start_redis(folder: Path, *settings: str) -> RedisHandle:
    """Start a Redis with append-only persistence in `folder`, and wait until it is ready.

    `settings` are more lines of its configuration, which win over those before.
    """
    address = RedisAddress("127.0.0.1", PORTS.take(), new_password())
    config = folder / "redis.conf"
    redis_server.write_config(config, address, folder / "redis")
    with config.open("a") as file:
        file.writelines(f"{line}\n" for line in settings)
    started = spawn("redis", [str(redis_server.find_server()), str(config)], folder / "redis.log", {})
    wait_until(started, lambda: redis.answers(address))
    return RedisHandle(started.name, started.process, started.log, address)


def start_daprd(
    app_id: str,
    resources: Sequence[Path],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    app_port: int | None = None,
    config: Path | None = None,
    extra_arguments: Sequence[str] = (),
    wait: bool = True,
) -> DaprdHandle:
    """Start a real daprd with the YAML of `resources`, and wait until it is ready (with `app_port`: the app listens).

    `env` holds the variables that components name by envRef, as `RedisHandle.environment()` returns them.
    """
    plan = SidecarPlan(
        app_id, SidecarPorts.take(PORTS), tuple(resources), config, app_port, extra_arguments=tuple(extra_arguments)
    )
    started = spawn(
        f"daprd {app_id}",
        plan.command(daprd.require()),
        log,
        sidecar_environment(Tokens(API_TOKEN, APP_TOKEN), env or {}),
    )
    handle = DaprdHandle(started.name, started.process, started.log, plan)
    if wait:
        wait_until(handle, lambda: http_ok(plan.health_url))
    return handle
