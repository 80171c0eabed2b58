"""A runner over a fake sidecar, beside a small real HTTP engine that does what the test says."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import ValidationError
from tests.support.job_events import one_job_event
from tests.support.proofs import key_of
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import Batch, EngineSpec, Heartbeat
from enginehouse.contracts.events import JobOrder
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.local.ports import PortPool
from enginehouse.runner.app import Runner
from enginehouse.runner.pace import DEFAULT_PACE, Pace
from enginehouse.runner.settings import RunnerSettings
from enginehouse.sidecar.base import StateItem
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar

ENGINE = "acme--echo"
STORE = names.results_component(ENGINE)
TOKEN = "an-app-token-of-a-test"
PORTS = PortPool()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def echo(request: web.Request) -> web.StreamResponse:
    """Answer the input."""
    return web.json_response({"result": (await request.json())["data"]})


async def echo_batch(request: web.Request) -> web.StreamResponse:
    """Answer each input."""
    return web.json_response({"results": [{"result": item} for item in (await request.json())["data"]]})


async def fails(_: web.Request) -> web.StreamResponse:
    """Answer 500."""
    raise web.HTTPInternalServerError


def batch_openapi(**properties: Any) -> dict[str, Any]:
    """Return a description with POST /predict/batch, whose body has these properties."""
    body = {"content": {"application/json": {"schema": {"type": "object", "properties": properties}}}}
    return {"paths": {"/predict/batch": {"post": {"requestBody": body}}}}


def patient_batch(max_size: int) -> Batch:
    """Return a batch that goes out only once it is full: its delay is longer than a deployment may choose."""
    return Batch.model_construct(max_size=max_size, max_delay_ms=60_000)


class TinyEngine:
    """An engine that is a plain HTTP server."""

    def __init__(self, host: str = "127.0.0.1", port: int | None = None) -> None:
        self.predict: Handler = echo
        self.predict_batch: Handler = echo_batch
        self.batches: list[Any] = []
        self.in_hand: int | None = None
        self.concurrency: int | None = None
        self.healthy = True
        self.openapi: Any = None
        self.offers_cancel = False
        self.warning: str | None = None
        self.calls: list[Any] = []
        self.headers: list[Any] = []
        self.canceled: list[str] = []
        self.health_checks = 0
        self.host = host
        self.port = port or PORTS.take()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Begin to listen."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/predict", self._predict)
        app.router.add_post("/predict/batch", self._predict_batch)
        app.router.add_post("/predict/{job}/cancel", self._cancel)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/openapi.json", self._openapi)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(await request.json())
        self.headers.append(request.headers.copy())
        return await self.predict(request)

    async def _predict_batch(self, request: web.Request) -> web.StreamResponse:
        self.batches.append(await request.json())
        return await self.predict_batch(request)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        self.canceled.append(request.match_info["job"])
        return web.Response(status=202 if self.offers_cancel else 404)

    async def _healthz(self, _: web.Request) -> web.StreamResponse:
        self.health_checks += 1
        counts = {"in_hand": self.in_hand, "concurrency": self.concurrency}
        body = {name: count for name, count in counts.items() if count is not None}
        headers = {"X-Engine-Warning": self.warning} if self.warning else {}
        return web.json_response(body, status=200 if self.healthy else 503, headers=headers)

    async def _openapi(self, _: web.Request) -> web.StreamResponse:
        return web.Response(status=404) if self.openapi is None else web.json_response(self.openapi)


class NotingSidecar(FakeSidecar):
    """A runner's fake sidecar, which notes the keys that are read one by one."""

    def __init__(self, dapr: FakeDapr, app_id: str) -> None:
        super().__init__(dapr, app_id)
        self.keys_read: list[str] = []

    async def read(self, store: str, key: str) -> StateItem | None:
        """Note the key and read it."""
        self.keys_read.append(key)
        return await super().read(store, key)


class World:
    """One runner, its engine, and the fake Dapr behind its sidecar."""

    def __init__(self, dapr: FakeDapr, engine: TinyEngine, runner: Runner, runners_sidecar: NotingSidecar) -> None:
        self.dapr = dapr
        self.engine = engine
        self.runner = runner
        self.runners_sidecar = runners_sidecar
        self.sidecar = FakeSidecar(dapr, "test")

    def event(
        self,
        job_id: str,
        data: Any = "hello",
        *,
        attempt: int = 1,
        seconds: float = 30,
        expires_in: float = 3600,
        max_attempts: int = 3,
        published_ago: float = 0,
        tenant: str = "acme",
        **order: Any,
    ) -> bytes:
        """Return a job event as the gateway publishes it: not before the job is due."""
        order.setdefault("retry", RetryPolicy(max_attempts=max_attempts, initial_delay_ms=1000))
        body = JobOrder(input=data, execution_timeout_seconds=seconds, record_ttl_seconds=600, **order)
        expires = now() + timedelta(seconds=expires_in)
        published = max(self._due(job_id), now()) - timedelta(seconds=published_ago)
        return one_job_event(
            key_of(ENGINE), ENGINE, tenant, job_id, body, attempt=attempt, expires=expires, at=published
        )

    def _due(self, job_id: str) -> datetime:
        """Return the moment from which the job may be handed over by its record, if that can be read."""
        with contextlib.suppress(ValidationError):
            record = self.find(job_id)
            if record and record.retry_at:
                return record.retry_at
        return now()

    async def run(self, data: Any = "hello", **options: Any) -> JobRecord:
        """Deliver a new job, see it acknowledged, and return its record."""
        job_id = names.new_job_id()
        assert await self.runner.receiver.deliver(self.event(job_id, data, **options))
        return self.record(job_id)

    def find(self, job_id: str) -> JobRecord | None:
        """Return the job's record, or None if there is none."""
        entry = self.dapr.stores[STORE].get(job_id)
        return JobRecord.model_validate_json(entry.value) if entry else None

    def record(self, job_id: str) -> JobRecord:
        """Return the job's record."""
        found = self.find(job_id)
        assert found is not None
        return found

    async def write(self, job_id: str, record: JobRecord) -> None:
        """Write a record over the present one, as another worker or the gateway would."""
        await self.sidecar.put(STORE, job_id, record.model_dump_json(exclude_none=True).encode())

    def completions(self, job_id: str) -> list[str]:
        """Return the statuses in the job's completions, in order."""
        events = [json.loads(event) for event in self.dapr.published[names.COMPLETIONS_TOPIC]]
        return [event["data"]["status"] for event in events if event["subject"] == job_id]

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return the dead letters."""
        return [json.loads(event) for event in self.dapr.published[names.DEAD_LETTERS_TOPIC]]

    async def running(self, job_id: str) -> JobRecord:
        """Wait until the job's record says running, and return it."""

        def claimed() -> JobRecord | None:
            record = self.find(job_id)
            return record if record and record.status is Status.RUNNING else None

        found: JobRecord = await until_async(claimed)
        return found


class Gate:
    """An engine's predict that waits until the test opens the gate."""

    def __init__(self, world: World) -> None:
        self.open = asyncio.Event()
        self.entered = 0
        self.closed = 0
        world.engine.predict = self.predict

    async def predict(self, request: web.Request) -> web.StreamResponse:
        self.entered += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.closed += 1
            raise
        return await echo(request)


def begin(world: World, job_id: str, **options: Any) -> "asyncio.Task[bool]":
    """Deliver the job, and return the task that answers the delivery. It has the job's id as its name."""
    return asyncio.create_task(world.runner.receiver.deliver(world.event(job_id, **options)), name=job_id)


async def other_worker(world: World, in_hand: list[str], name: str = "worker-2") -> None:
    """Write the heartbeat of another worker, which has these jobs in hand."""
    beat = Heartbeat(
        worker=name, slot="a", version="v1", concurrency=1, in_hand=in_hand, healthy=True, subscribed=True, at=now()
    )
    await world.sidecar.put(STORE, names.worker_key(name), beat.model_dump_json().encode(), 15)


def running_by(worker: str, attempt: int = 1, started_ago: float = 10) -> JobRecord:
    """Return the record of a job that `worker` runs."""
    return JobRecord(
        status=Status.RUNNING, attempt=attempt, worker=worker, started_at=now() - timedelta(seconds=started_ago)
    )


def runner_settings(folder: Path, engine_url: str, **changes: Any) -> RunnerSettings:
    """Return settings with short times."""
    values: dict[str, Any] = {
        "spec": folder / "engine.yaml",
        "slot": "a",
        "worker": "worker-1",
        "engine_urls": [engine_url],
        "delivery_port": 9999,
        "supervisor_dir": folder,
        "dapr_http_port": 9998,
        "dapr_api_token": TOKEN,
        "app_api_token": TOKEN,
        "proof_key": key_of(ENGINE),
        "claim_after_seconds": 0.05,
        "watch_every_seconds": 0.05,
        "hand_back_after_seconds": 0.3,
        "restart_after_seconds": 0.05,
    }
    return RunnerSettings(**{**values, **changes})


@contextlib.asynccontextmanager
async def runner_world(
    folder: Path,
    *,
    dapr: FakeDapr | None = None,
    concurrency: int = 2,
    engine: TinyEngine | None = None,
    batch: Batch | None = None,
    execution_timeout_seconds: float = 60,
    pace: Pace = DEFAULT_PACE,
    tenant: str = "acme",
    **changes: Any,
) -> AsyncIterator[World]:
    """Start a runner whose engine is healthy, and stop it at the end."""
    dapr = dapr or FakeDapr()
    mine = engine is None
    engine = engine or TinyEngine()
    if mine:
        engine.openapi = None if batch is None else batch_openapi(parameters={})
        await engine.start()
    spec = EngineSpec(
        tenant=tenant,
        name="echo",
        concurrency=concurrency,
        batch=batch or Batch(),
        execution_timeout_seconds=execution_timeout_seconds,
    )
    sidecar = NotingSidecar(dapr, f"{ENGINE}--a")
    runner = Runner(runner_settings(folder, engine.url, **changes), spec, sidecar, pace)
    try:
        await runner.start()
        await until_async(runner.ready)
        yield World(dapr, engine, runner, sidecar)
    finally:
        await runner.stop()
        if mine:
            await engine.stop()
