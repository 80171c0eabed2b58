"""The systems that are compared, each with its own Redis configured alike, all up at once so that they take turns."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tests.benchmarks.load import Target
from tests.support.dapr import PORTS, RedisHandle, Started, http_ok, spawn, start_daprd, start_redis, wait_until
from tests.support.stack import StackHandle, start_stack, until

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Limits, Tenant
from enginehouse.local.daprd import cache_folder
from enginehouse.local.home import Home
from enginehouse.local.interpreters import find_uv
from enginehouse.registry.bundle import render_engine, render_tenant, write_bundle

HERE = Path(__file__).parent
ECHO = HERE.parent / "engines" / "echo"
REQUIREMENTS = HERE / "celery_app" / "requirements.txt"
CORES = os.cpu_count() or 1


@dataclass
class System:
    """A system that answers jobs over HTTP."""

    name: str
    target: Target
    processes: dict[str, int]
    """Process ids by what they are."""
    stack: StackHandle | None = None
    environment: dict[str, str] = field(default_factory=dict)


def baseline_python() -> Path:
    """The Python of the baselines' own environment, made at first use: ours must not hold Celery."""
    key = hashlib.sha256(f"{sys.version}\n".encode() + REQUIREMENTS.read_bytes()).hexdigest()[:16]
    folder = cache_folder() / "benchmarks" / key
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        uv = str(find_uv())
        environment = {"UV_SYSTEM_CERTS": "1", **os.environ}
        subprocess.run(
            [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], check=True, env=environment
        )
        install = [uv, "pip", "install", "-q", "--python", str(python), "-r", str(REQUIREMENTS)]
        subprocess.run(install, check=True, env=environment)
        (folder / "complete").touch()
    return python


def _environment(redis: RedisHandle) -> dict[str, str]:
    address = redis.address
    url = f"redis://:{address.password}@{address.host}:{address.port}/0"
    return {"PATH": os.environ["PATH"], "BASELINE_REDIS_URL": url}


def _serve(
    name: str, folder: Path, logs: Path, environment: dict[str, str], python: str = "", port: int = 0
) -> tuple[Started, str]:
    """The ASGI app of `folder`, by default with the baselines' own Python."""
    port = port or PORTS.take()
    python = python or str(baseline_python())
    command = [python, "-m", "uvicorn", "app:app", "--port", str(port), "--no-access-log"]
    command += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
    api = spawn(name, command, logs / f"{name}.log", environment, folder)
    url = f"http://127.0.0.1:{port}"
    wait_until(api, lambda: http_ok(f"{url}/healthz"))
    return api, url


@contextmanager
def celery_system(folder: Path) -> Iterator[System]:
    """FastAPI, Celery with a worker process per core, Redis as broker and result backend."""
    redis = start_redis(folder / "celery")
    environment = _environment(redis)
    command = [str(baseline_python()), "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork"]
    # In its favour: no chatter between workers.
    command += ["--concurrency", str(CORES), "--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
    worker = spawn("celery worker", command, folder / "celery-worker.log", environment, HERE / "celery_app")
    api, url = _serve("celery api", HERE / "celery_app", folder, environment)
    main = psutil.Process(worker.pid)
    until(lambda: len(main.children()) >= CORES, "Celery's worker processes run")
    children = {f"worker {number}": child.pid for number, child in enumerate(main.children(), 1)}
    processes = {"api": api.pid, "worker main": worker.pid, **children, "redis": redis.pid}
    try:
        yield System("celery", Target(url, "/jobs"), processes)
    finally:
        for started in (api, worker, redis):
            started.stop()


@contextmanager
def floor_system(folder: Path) -> Iterator[System]:
    """Bare Redis Streams with the least HTTP around them."""
    redis = start_redis(folder / "floor")
    environment = _environment(redis)
    command = [str(baseline_python()), "worker.py"]
    worker = spawn("floor worker", command, folder / "floor-worker.log", environment, HERE / "floor_app")
    api, url = _serve("floor api", HERE / "floor_app", folder, environment)
    processes = {"api": api.pid, "worker": worker.pid, "redis": redis.pid}
    try:
        yield System("floor", Target(url, "/jobs"), processes, environment=environment)
    finally:
        for started in (api, worker, redis):
            started.stop()


_BUS = """
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: bus}}
spec:
  type: pubsub.redis
  version: v1
  metadata:
    - {{name: redisHost, envRef: ENGINEHOUSE_REDIS_HOST}}
    - {{name: redisPassword, envRef: ENGINEHOUSE_REDIS_PASSWORD}}
    - {{name: concurrency, value: "64"}}
    - {{name: maxLenApprox, value: "10000"}}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {{name: bus}}
spec: {{pubsubname: bus, topic: {topic}, routes: {{default: /delivered}}}}
"""


@contextmanager
def dapr_system(folder: Path) -> Iterator[System]:
    """Two apps with a sidecar each, a topic there and one back."""
    redis = start_redis(folder / "dapr")
    started: list[Started] = [redis]
    processes = {"redis": redis.pid}
    url = ""
    try:
        for role, topic in (("worker", "jobs"), ("api", "replies")):
            resources = folder / "dapr" / role
            resources.mkdir()
            (resources / "bus.yaml").write_text(_BUS.format(topic=topic))
            port = PORTS.take()
            daprd = start_daprd(
                role, [resources], folder / f"dapr-{role}.log", env=redis.environment(), app_port=port, wait=False
            )
            started.append(daprd)
            environment = {
                "PATH": os.environ["PATH"],
                "ROLE": role,
                "DAPR_HTTP_PORT": str(daprd.http_port),
                "DAPR_API_TOKEN": daprd.api_token,
            }
            app, url = _serve(f"dapr {role}", HERE / "dapr_app", folder, environment, sys.executable, port)
            started.append(app)
            wait_until(daprd, lambda daprd=daprd: http_ok(daprd.plan.health_url))  # type: ignore[misc]
            processes |= {role: app.pid, f"{role}.daprd": daprd.pid}
        yield System("dapr", Target(url, "/jobs"), processes)
    finally:
        for part in reversed(started):
            part.stop()


@contextmanager
def enginehouse_system(folder: Path, name: str, engines: int) -> Iterator[System]:
    """A whole stack as `enginehouse up` runs it, the echo engine in it, and others up to `engines` registered beside."""
    _allow_much(Home.at(folder / name).tenants)
    stack = start_stack(folder / name, [ECHO], tenants=["tests"])
    try:
        register(stack, engines - 1)
        names = {
            "tests--echo--a.engine-0": "engine",
            "tests--echo--a.runner": "runner",
            "tests--echo--a.daprd": "runner.daprd",
        }
        processes = {names.get(part, part): entry["pid"] for part, entry in stack.processes().items()}
        target = Target(stack.base_url, "/v1/engines/echo/jobs", stack.keys["tests"])
        yield System(name, target, processes, stack)
    finally:
        stack.stop()


def _allow_much(tenants: Path) -> None:
    """One tenant with the load of many needs more than one may have."""
    limits = Limits(submits_per_second=100_000)
    write_bundle(tenants / "tests", render_tenant(Tenant(name="tests", limits=limits)))


def register(stack: StackHandle, engines: int) -> None:
    """Show the gateway that many more engines: their parts of its sidecar, without the engines themselves."""
    spec = EngineSpec.model_validate({"tenant": "tests", "name": "idle-0"})
    part = render_engine(spec, ".")["gateway/results.yaml"]
    # Stopped meanwhile: one that runs would load its whole folder again for every file.
    pid = stack.signal("gateway.daprd", signal.SIGSTOP)
    for number in range(engines):
        own = spec.id.removesuffix("0") + str(number)
        (stack.home.gateway_parts / f"{own}.results.yaml").write_text(part.replace(spec.id, own))
    stack.kill("gateway.daprd")
    stack.until_restarted("gateway.daprd", pid)

    def known() -> bool:
        return len(stack.call("GET", "/v1/engines", tenant="tests").body["engines"]) > engines

    until(known, f"the gateway knows {engines + 1} engines", timeout_seconds=90)
