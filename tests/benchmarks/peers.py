"""The systems to compare with, each with its own Redis or PostgreSQL, and with an environment that ours must not hold."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path

from tests.benchmarks.load import Target
from tests.benchmarks.systems import HERE, Start, System
from tests.support.dapr import PORTS, RedisHandle, Started, http_ok, spawn, start_daprd, start_redis, wait_until
from tests.support.postgres import postgres_server

from enginehouse.local.daprd import cache_folder
from enginehouse.local.interpreters import find_uv

CORES = os.cpu_count() or 1


@cache
def _python(app: str) -> str:
    """Return the Python of a compared system's own environment, which is made at first use."""
    requirements = HERE / f"{app}_app" / "requirements.txt"
    key = hashlib.sha256(f"{sys.version}\n".encode() + requirements.read_bytes()).hexdigest()[:16]
    folder = cache_folder() / "benchmarks" / key
    python = str(folder / "bin" / "python")
    if not (folder / "complete").exists():
        uv, environment = str(find_uv()), {"UV_SYSTEM_CERTS": "1", **os.environ}
        make = [uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)]
        subprocess.run(make, check=True, env=environment)
        install = [uv, "pip", "install", "-q", "--python", python, "-r", str(requirements)]
        subprocess.run(install, check=True, env=environment)
        (folder / "complete").touch()
    return python


class _Programs:
    """The programs of one compared system, which all end with it."""

    def __init__(self, app: str, python: str, folder: Path, environment: Mapping[str, str], stops: ExitStack) -> None:
        self._source, self._python, self._folder, self._stops = HERE / f"{app}_app", python, folder, stops
        self._environment = {"PATH": os.environ["PATH"], **environment}

    def start(self, name: str, *arguments: str, **more: str) -> Started:
        """Start Python with these arguments and more variables."""
        command, log = [self._python, *arguments], self._folder / f"{name}.log"
        started = spawn(name, command, log, {**self._environment, **more}, self._source)
        self._stops.callback(started.stop)
        return started

    def serve(self, name: str, port: int = 0, **more: str) -> tuple[Started, Target]:
        """Start the ASGI app, and wait until it answers."""
        port = port or PORTS.take()
        arguments = ["-m", "uvicorn", "app:app", "--port", str(port), "--no-access-log"]
        arguments += ["--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
        api = self.start(name, *arguments, **more)
        url = f"http://127.0.0.1:{port}"
        wait_until(api, lambda: http_ok(f"{url}/healthz"))
        return api, Target(url, "/jobs")

    def run(self, *arguments: str) -> str:
        """Run Python with these arguments to its end, and return what it printed."""
        command = [self._python, *arguments]
        return subprocess.check_output(command, cwd=self._source, env=self._environment, text=True)


def _redis(folder: Path, stops: ExitStack, *settings: str) -> tuple[RedisHandle, dict[str, str]]:
    redis = start_redis(folder, *settings)
    stops.callback(redis.stop)
    address = redis.address
    return redis, {"BASELINE_REDIS_URL": f"redis://:{address.password}@{address.host}:{address.port}/0"}


@contextmanager
def celery(folder: Path, *, durable: bool) -> Iterator[System]:
    """FastAPI, Celery with a worker process per core, Redis as broker and result backend."""
    with ExitStack() as stops:
        redis, environment = _redis(folder, stops, *(["appendfsync always"] if durable else []))
        environment |= {"BASELINE_DURABLE": "1"} if durable else {}
        programs = _Programs("celery", _python("celery"), folder, environment, stops)
        # In its favour: no chatter between workers.
        quiet = ["--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
        pool = ["--pool", "prefork", "--concurrency", str(CORES)]
        workers = programs.start("workers", "-m", "celery", "-A", "tasks", "worker", *pool, *quiet)
        api, target = programs.serve("api")

        def run_batches(batches: int, size: int) -> float:
            return float(json.loads(programs.run("batches.py", str(batches), str(size)))["seconds"])

        processes = {"api": api.pid, "workers": workers.pid, "redis": redis.pid}
        # The durable one would take minutes for them.
        yield System([target], processes, None if durable else run_batches)


@contextmanager
def procrastinate(folder: Path) -> Iterator[System]:
    """FastAPI, Procrastinate with an asynchronous worker per core, PostgreSQL whose commits wait for the disk."""
    with ExitStack() as stops:
        postgres = stops.enter_context(postgres_server(durable=True))
        environment = {"BASELINE_POSTGRES_URL": postgres.url}
        programs = _Programs("procrastinate", _python("procrastinate"), folder, environment, stops)
        programs.run("-c", "import asyncio, tasks; asyncio.run(tasks.make_tables())")
        workers = {f"worker {number}": programs.start(f"worker-{number}", "worker.py").pid for number in range(CORES)}
        api, target = programs.serve("api")
        yield System([target], {"api": api.pid, **workers, "postgres": postgres.started.pid})


@contextmanager
def floor(folder: Path) -> Iterator[System]:
    """Bare Redis Streams with the least HTTP around them."""
    with ExitStack() as stops:
        redis, environment = _redis(folder, stops)
        programs = _Programs("floor", _python("celery"), folder, environment, stops)
        worker = programs.start("worker", "worker.py")
        api, target = programs.serve("api")
        yield System([target], {"api": api.pid, "worker": worker.pid, "redis": redis.pid})


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
def dapr(folder: Path) -> Iterator[System]:
    """Two apps with a sidecar each, a topic there and one back."""
    with ExitStack() as stops:
        redis, _ = _redis(folder, stops)
        programs = _Programs("dapr", sys.executable, folder, {}, stops)
        processes = {"redis": redis.pid}
        for role, topic in (("worker", "jobs"), ("api", "replies")):
            resources, port = folder / role, PORTS.take()
            resources.mkdir()
            (resources / "bus.yaml").write_text(_BUS.format(topic=topic))
            log = folder / f"{role}.daprd.log"
            daprd = start_daprd(role, [resources], log, env=redis.environment(), app_port=port, wait=False)
            stops.callback(daprd.stop)
            told = {"ROLE": role, "DAPR_HTTP_PORT": str(daprd.http_port), "DAPR_API_TOKEN": daprd.api_token}
            app, target = programs.serve(role, port, **told)
            wait_until(daprd, partial(http_ok, daprd.plan.health_url))
            processes |= {role: app.pid, f"{role}.daprd": daprd.pid}
        yield System([target], processes)


PEERS: dict[str, Start] = {
    "celery": partial(celery, durable=False),
    "celery durable": partial(celery, durable=True),
    "procrastinate": procrastinate,
    "dapr": dapr,
    "floor": floor,
}
