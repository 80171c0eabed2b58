"""A gateway over a fake sidecar, with tenants and their keys, and runners that do what the test says."""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
import yaml
from fastapi import FastAPI
from httpx2._transports import default
from sqlalchemy import func, select
from tests.support.dapr import PORTS
from tests.support.ledger import sqlite_url

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.engine import EngineCard, Heartbeat, WorkerList
from enginehouse.contracts.events import JOB_COMPLETED, JOB_STARTED, JobEvent, completion_event
from enginehouse.contracts.job import JobError, JobRecord, Status, may_change
from enginehouse.contracts.moments import now
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, new_key
from enginehouse.gateway.app import create_app, running, wire
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.ledger.schema import idempotency_keys, jobs, metadata
from enginehouse.gateway.outcome import dead_letters
from enginehouse.gateway.pace import USUAL, Pace
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.sidecar.records import JobRecords

STANDARD, ECHO, PRIVATE = "shared--standard", "acme--echo", "umbra--private"
TOKEN = "a-token-of-a-test"

Answer = Callable[["ScriptedRunner", JobEvent], Awaitable[bool]]


async def until(condition: Callable[[], Any], timeout_seconds: float = 20) -> Any:
    """The first true value of `condition`, which may be a coroutine function; fails when there is none in time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)


class ScriptedRunner:
    """Stands where an engine's runner would: takes its deliveries and does with each what `answer` says."""

    def __init__(self, dapr: FakeDapr, engine_id: str, worker: str = "worker-1") -> None:
        self.engine_id = engine_id
        self.worker = worker
        self.answer: Answer = succeed
        self.events: list[JobEvent] = []
        self.sidecar = FakeSidecar(dapr, names.app_id(engine_id, "a"))
        self.records = JobRecords(self.sidecar, engine_id)
        dapr.subscribe(names.job_topic(engine_id), self.deliver)

    async def deliver(self, body: bytes) -> bool:
        """A delivery; True acknowledges it."""
        event = read_event(JobEvent, body)
        self.events.append(event)
        return await self.answer(self, event)

    def inputs(self) -> list[Any]:
        """What it was asked to run, in order."""
        return [event.data.input for event in self.events]

    async def write(self, event: JobEvent, status: Status, **fields: Any) -> JobRecord:
        """Set the job's record, if the table allows that; what holds in the end."""

        def decide(present: JobRecord | None) -> JobRecord | None:
            if present and (present.attempt > event.attempt or not may_change(present.status, status)):
                return None
            return JobRecord(status=status, attempt=event.attempt, worker=self.worker, **fields)

        return await self.records.change(event.id, event.data.record_ttl_seconds, decide)

    async def tell(self, kind: str, job_id: str, status: Status, attempt: int) -> None:
        """Publish a completion."""
        await self.sidecar.publish(
            names.jobs_component(self.engine_id),
            names.COMPLETIONS_TOPIC,
            completion_event(kind, self.engine_id, job_id, status, attempt),
        )

    async def end(
        self, event: JobEvent, status: Status = Status.SUCCEEDED, *, tell: bool = True, **fields: Any
    ) -> None:
        """Write how an attempt ended, and tell of it."""
        if status.is_final:
            fields = {"finished_at": now(), "predict_time": 0.01, **fields}
        held = await self.write(event, status, started_at=now(), **fields)
        if tell:
            await self.tell(JOB_COMPLETED, event.id, held.status, held.attempt)

    async def claim(self, event: JobEvent) -> None:
        """Say that the job runs."""
        await self.write(event, Status.RUNNING, started_at=now())
        await self.tell(JOB_STARTED, event.id, Status.RUNNING, event.attempt)

    async def beat(
        self,
        *,
        in_hand: Iterable[str] = (),
        idle_for: float | None = None,
        healthy: bool = True,
        concurrency: int = 2,
        subscribed: bool = True,
    ) -> None:
        """Leave a heartbeat: idle for that many seconds, or busy."""
        beat = Heartbeat(
            worker=self.worker,
            slot="a",
            version="v1",
            concurrency=concurrency,
            in_hand=list(in_hand),
            idle_since=None if idle_for is None else now() - timedelta(seconds=idle_for),
            healthy=healthy,
            subscribed=subscribed,
            at=now(),
        )
        store = names.results_component(self.engine_id)
        workers = WorkerList(workers=[self.worker])
        await self.sidecar.put(store, names.WORKERS_KEY, workers.model_dump_json().encode())
        await self.sidecar.put(store, names.worker_key(self.worker), beat.model_dump_json().encode(), 15)


async def succeed(runner: ScriptedRunner, event: JobEvent) -> bool:
    """Answer the input."""
    await runner.end(event, output={"echo": event.data.input})
    return True


async def succeed_untold(runner: ScriptedRunner, event: JobEvent) -> bool:
    """Answer the input; the completion gets lost."""
    await runner.end(event, output={"echo": event.data.input}, tell=False)
    return True


async def fail(runner: ScriptedRunner, event: JobEvent) -> bool:
    """Fail for good."""
    error = JobError(code="PREDICT_ERROR", message="it broke", retryable=True)
    await runner.end(event, Status.FAILED, error=error, dead_lettered=True)
    return True


async def retry(runner: ScriptedRunner, event: JobEvent) -> bool:
    """Fail, to be tried again at once; for good when no attempts are left."""
    if event.attempt >= event.data.retry.max_attempts:
        return await fail(runner, event)
    error = JobError(code="PREDICT_ERROR", message="it broke", retryable=True)
    await runner.end(event, Status.QUEUED, error=error, retry_at=now())
    return True


async def never(runner: ScriptedRunner, event: JobEvent) -> bool:
    """Begin, and never end."""
    await runner.claim(event)
    return True


async def lose(runner: ScriptedRunner, event: JobEvent) -> bool:
    """As if the broker had lost it."""
    return True


class Clock:
    """A clock that a test can put forward; given to a gateway as `Pace.clock`."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class GatewayWorld:
    """A gateway and what is around it."""

    def __init__(self, app: FastAPI, dapr: FakeDapr, keys: dict[str, str]) -> None:
        self.app = app
        self.dapr = dapr
        self.keys = keys
        self.gateway: Gateway = app.state.gateway
        self.sidecar = FakeSidecar(dapr, "test")
        self.runners: dict[str, ScriptedRunner] = {}
        self._clients: dict[str, httpx2.AsyncClient] = {}

    @property
    def runner(self) -> ScriptedRunner:
        """Of the engine `echo` of acme."""
        return self.runners[ECHO]

    def client(self, tenant: str = "acme") -> httpx2.AsyncClient:
        """Calls the API with a key of `tenant`."""
        if tenant not in self._clients:
            self._clients[tenant] = httpx2.AsyncClient(
                transport=httpx2.ASGITransport(self.app),
                base_url="http://gateway",
                headers={"Authorization": f"Bearer {self.keys[tenant]}"},
            )
        return self._clients[tenant]

    async def submit(self, value: Any = "hello", *, tenant: str = "acme", engine: str = "echo", **options: Any) -> str:
        """Submit a job that must be accepted; its id."""
        answer = await self.client(tenant).post(f"/v1/engines/{engine}/jobs", json={"input": value, **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def job(self, job_id: str, *, tenant: str = "acme", wait: float = 0) -> dict[str, Any]:
        """What the API says of a job."""
        answer = await self.client(tenant).get(f"/v1/jobs/{job_id}", params={"wait": wait} if wait else {})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until_status(self, job_id: str, status: Status) -> dict[str, Any]:
        """The job, once it has that status."""

        async def reached() -> dict[str, Any] | None:
            found = await self.job(job_id)
            return found if found["status"] == status else None

        found: dict[str, Any] = await until(reached)
        return found

    async def delivered(self, job_id: str, times: int = 1, engine: str = ECHO) -> JobEvent:
        """The last delivery of a job, once there have been so many."""

        def deliveries() -> list[JobEvent]:
            return [event for event in self.runners[engine].events if event.id == job_id]

        await until(lambda: len(deliveries()) >= times)
        return deliveries()[-1]

    def handed_over(self) -> int:
        """How many jobs have been published so far."""
        return sum(len(events) for topic, events in self.dapr.published.items() if topic.startswith("engine."))

    def record(self, job_id: str, engine: str = ECHO) -> JobRecord | None:
        """The job's record, if there is one."""
        entry = self.dapr.stores[names.results_component(engine)].get(job_id)
        return JobRecord.model_validate_json(entry.value) if entry else None

    async def stored(self) -> dict[str, int]:
        """How many rows each table of what was accepted has."""

        def count(connection: Any) -> dict[str, int]:
            tables = [jobs, idempotency_keys, metadata.tables["dead_letters"]]
            return {t.name: connection.execute(select(func.count()).select_from(t)).scalar_one() for t in tables}

        found: dict[str, int] = await self.gateway.ledger.read(count)
        return found

    async def change(self, job_id: str, **columns: Any) -> None:
        """Set columns of a job's row: moments, mostly, so that a test need not wait for them."""
        statement = jobs.update().where(jobs.c.id == job_id).values(columns)
        await self.gateway.ledger.database.transact(lambda connection: connection.execute(statement), durable=False)

    async def aged(self, job_id: str, seconds: float) -> None:
        """Make a job's hand-over that much older."""
        await self.change(job_id, handed_over_at=jobs.c.handed_over_at - seconds)

    async def sweep(self) -> None:
        """Do now what the gateway does every few seconds. Heartbeats are read afresh."""
        for engine in self.gateway.catalogue:
            engine.workers_read_at = 0
        await self.gateway.sweep.once()

    async def idle(self) -> None:
        """Wait until the gateway and the broker have nothing in hand."""
        dispatcher, mirroring, hints = self.gateway.dispatcher, self.gateway.mirroring, self.gateway.hints
        await until(
            lambda: (
                not (
                    dispatcher._background._tasks
                    or dispatcher._publishing._under_way
                    or mirroring._reading._under_way
                    or hints._background._tasks
                    or self.dapr._tasks
                )
            )
        )

    def forget(self, job_id: str) -> None:
        """Forget a job's engine, as a gateway that was started again has."""
        self.gateway.hints._expected.forget(job_id)

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.aclose()


def make_tenant(folder: Path, name: str, *, admin: bool = False, **fields: Any) -> str:
    """Write a tenant's file; its API key."""
    key = new_key(name)
    known = ApiKey(id=key[:8], sha256=hash_key(key), admin=admin, created_at=now())
    tenant = Tenant(name=name, keys=[known], **fields)
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "tenant.yaml").write_text(yaml.safe_dump(tenant.model_dump(mode="json")))
    return key


async def show_card(dapr: FakeDapr, engine_id: str, **fields: Any) -> None:
    """Put an engine's card where the gateway reads it."""
    card = EngineCard(**{"engine": engine_id, "slot": "a", "version": "v1", "concurrency": 2, **fields})
    store = names.results_component(engine_id)
    await FakeSidecar(dapr, engine_id).put(store, names.card_key("a"), card.model_dump_json().encode())


def gateway_settings(folder: Path, **changes: Any) -> GatewaySettings:
    """Settings of a gateway whose sweep comes only when the test says so."""
    values: dict[str, Any] = {
        "ledger_url": sqlite_url(folder) if "ledger_url" not in changes else None,
        "tenants_dir": folder / "tenants",
        "sweep_seconds": 3_600,
        "dapr_api_token": TOKEN,
        "app_api_token": TOKEN,
    }
    return GatewaySettings(**{**values, **changes})


_FREE_APPS: list[FastAPI] = []


@contextlib.contextmanager
def _app() -> Iterator[FastAPI]:
    """The routes, to be given a gateway; made once, since FastAPI works them out anew for each app it makes."""
    if not _FREE_APPS:
        _read_certificates_once()
        _FREE_APPS.append(
            create_app(gateway_settings(Path("/nonexistent"), ledger_url="sqlite:////nonexistent/ledger"))
        )
    app = _FREE_APPS.pop()
    yield app
    _FREE_APPS.append(app)


@functools.cache
def _read_certificates_once() -> None:
    """Every HTTP client reads the machine's certificates, also for webhooks that no test here sends."""
    vars(default)["create_ssl_context"] = functools.cache(vars(default)["create_ssl_context"])


@contextlib.asynccontextmanager
async def gateway_world(
    folder: Path,
    *,
    dapr: FakeDapr | None = None,
    cards: dict[str, dict[str, Any]] | None = None,
    engines: Iterable[str] = (STANDARD, ECHO, PRIVATE),
    pace: Pace = USUAL,
    **changes: Any,
) -> AsyncIterator[GatewayWorld]:
    """A started gateway that knows its engines; acme and umbra are tenants, and `admin` is a key of acme's operator."""
    dapr = dapr or FakeDapr()
    dapr.components |= {names.results_component(engine) for engine in engines}
    tenants = folder / "tenants"
    keys = {name: make_tenant(tenants, name) for name in ("acme", "umbra")}
    keys["admin"] = make_tenant(tenants, "operators", admin=True)
    for engine, card in (cards or {}).items():
        await show_card(dapr, engine, **card)
    gateway = wire(gateway_settings(folder, **changes), FakeSidecar(dapr, "gateway"), pace)
    dapr.subscribe(names.COMPLETIONS_TOPIC, gateway.hints.deliver)
    dapr.subscribe(names.DEAD_LETTERS_TOPIC, dead_letters.receiver(gateway.ledger))
    async with running(gateway):
        with _app() as app:
            app.state.gateway = gateway
            world = GatewayWorld(app, dapr, keys)
            world.runners = {engine: ScriptedRunner(dapr, engine) for engine in engines}
            await asyncio.wait_for(gateway.catalogue.loaded.wait(), 10)
            try:
                yield world
            finally:
                await world.close()


def problem_of(answer: httpx2.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The problem that a refusal tells of, which must say what was wrong and what to do."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = json.loads(answer.content)
    assert body["status"] == status
    for name in ("title", "detail", "code", "advice"):
        assert isinstance(body[name], str)
        assert body[name]
    assert "Traceback" not in answer.text
    assert isinstance(body["retryable"], bool)
    if code:
        assert body["code"] == code, body
    return body


@contextlib.asynccontextmanager
async def listening(world: GatewayWorld) -> AsyncIterator[int]:
    """Serve a world's API as `python -m enginehouse.gateway` does, on a port of its own, for bytes no client sends."""
    port = PORTS.take()
    config = uvicorn.Config(world.app, "127.0.0.1", port, lifespan="off", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    with contextlib.ExitStack() as stack:
        stack.callback(PORTS.give_back, port)
        serving = asyncio.create_task(server._serve())
        await until(lambda: server.started)
        try:
            yield port
        finally:
            server.should_exit = True
            await serving


async def exchange(port: int, *parts: bytes, close: bool = False) -> bytes:
    """Send these bytes, and read what comes until the server closes or has sent a whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if close:
            writer.close()
            return b""
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        length = next(
            (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
        )
        return head + await asyncio.wait_for(reader.readexactly(length), 5)
    except (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError) as error:
        return getattr(error, "partial", b"")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
