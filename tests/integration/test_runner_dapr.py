"""Runners as real processes, each with a real daprd over a real Redis."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml
from aiohttp import web
from tests.support.dapr import (
    PORTS,
    DaprdHandle,
    RedisHandle,
    Started,
    http_ok,
    spawn,
    start_daprd,
    start_redis,
    wait_until,
)
from tests.support.job_events import jobs_event, one_job_event
from tests.support.proofs import key_of
from tests.support.runner import TinyEngine, echo
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineCard, EngineSpec, WorkerList
from enginehouse.contracts.events import JobOrder
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.local.sidecar import Tokens, app_environment
from enginehouse.registry.bundle import render_engine
from enginehouse.sidecar.dapr import DaprSidecar
from enginehouse.sidecar.records import JobRecords

ROOT = Path(__file__).parents[2]
SPEC = EngineSpec(tenant="tests", name="tiny", concurrency=2, execution_timeout_seconds=20)
API_TOKEN, APP_TOKEN = "an-api-token-for-tests", "an-app-token-for-tests"
TOKENS = {"DAPR_API_TOKEN": API_TOKEN, "APP_API_TOKEN": APP_TOKEN}
TOPIC = names.job_topic(SPEC.id)
STORE = names.results_component(SPEC.id)


class Stack:
    """One engine's runners over one Redis, and a gateway's sidecar to look through."""

    def __init__(self, folder: Path, redis: RedisHandle) -> None:
        self.folder = folder
        self.redis = redis
        self.started: list[Started] = [redis]
        self.bundle = folder / "bundle"
        for path, text in render_engine(SPEC, ".").items():
            (self.bundle / path).parent.mkdir(parents=True, exist_ok=True)
            (self.bundle / path).write_text(text)
        gateway = self._daprd("gateway", [ROOT / "components/local", self.bundle / "gateway"])
        self.sidecar = DaprSidecar(gateway.http_port, API_TOKEN)
        self.records = JobRecords(self.sidecar, SPEC.id)

    def quick_broker(self, processing_timeout: str) -> None:
        """Let Redis deliver again much sooner than it would."""
        path = self.bundle / "slots/a/dapr/jobs.yaml"
        component = yaml.safe_load(path.read_text())
        for item in component["spec"]["metadata"]:
            if item["name"] == "processingTimeout":
                item["value"] = processing_timeout
            if item["name"] == "redeliverInterval":
                item["value"] = "250"
        path.write_text(yaml.safe_dump(component))

    def _daprd(self, app: str, resources: list[Path], port: int | None = None, name: str = "") -> DaprdHandle:
        handle = start_daprd(
            app,
            [*resources, ROOT / "dapr/resiliency"],
            self.folder / f"daprd-{name or app}.log",
            env={**self.redis.environment(), **TOKENS},
            app_port=port,
            wait=port is None,
        )
        self.started.append(handle)
        return handle

    def runner(self, engine_url: str, worker: str, **settings: str) -> "RunnerProcess":
        """Start a runner with its daprd."""
        port = PORTS.take()
        app = names.app_id(SPEC.id, "a")
        daprd = self._daprd(app, [self.bundle / "engine", self.bundle / "slots/a/dapr"], port, worker)
        environment = {
            **os.environ,
            **app_environment(daprd.plan.ports, Tokens(API_TOKEN, APP_TOKEN)),
            "ENGINEHOUSE_RUNNER_SPEC": str(self.bundle / "slots/a/engine.yaml"),
            "ENGINEHOUSE_RUNNER_SLOT": "a",
            "ENGINEHOUSE_RUNNER_WORKER": worker,
            "ENGINEHOUSE_RUNNER_ENGINE_URLS": json.dumps([engine_url]),
            "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(port),
            "ENGINEHOUSE_RUNNER_SUPERVISOR_DIR": str(self.folder),
            "ENGINEHOUSE_RUNNER_PROOF_KEY": key_of(SPEC.id),
            **{f"ENGINEHOUSE_RUNNER_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-m", "enginehouse.runner"]
        started = spawn(worker, command, self.folder / f"{worker}.log", environment)
        self.started.append(started)
        return RunnerProcess(started, daprd, port)

    async def publish(self, job_id: str, data: Any, attempt: int = 1, at: datetime | None = None) -> None:
        """Hand a job over as the gateway does, now or as if it was `at` a moment."""
        order = JobOrder(
            input=data,
            execution_timeout_seconds=20,
            retry=RetryPolicy(initial_delay_ms=5_000),
            record_ttl_seconds=600,
        )
        expires = now() + timedelta(hours=1)
        event = one_job_event(
            key_of(SPEC.id), SPEC.id, SPEC.tenant, job_id, order, attempt=attempt, expires=expires, at=at
        )
        await self.sidecar.publish(names.GATEWAY_JOBS_COMPONENT, TOPIC, event)

    async def record(self, job_id: str, wanted: Callable[[JobRecord], bool]) -> JobRecord:
        """Wait until the job's record is as wanted, and return it."""

        async def found() -> JobRecord | None:
            stored = await self.records.read(job_id)
            return stored.record if stored and wanted(stored.record) else None

        record: JobRecord = await until_async(found, f"the record of {job_id} is as wanted", 30, poll_seconds=0.02)
        return record

    def stream(self, topic: str) -> list[dict[str, Any]]:
        """Return the events on a topic, read directly from Redis."""
        entries = _redis_lines(self.redis, "XRANGE", topic, "-", "+")
        return [json.loads(line) for line in entries if "specversion" in line]

    async def stop(self) -> None:
        await self.sidecar.close()
        for started in reversed(self.started):
            started.stop()


class RunnerProcess:
    """A runner and its daprd."""

    def __init__(self, process: Started, daprd: DaprdHandle, port: int) -> None:
        self.process = process
        self.daprd = daprd
        self.url = f"http://127.0.0.1:{port}"

    async def ready(self) -> "RunnerProcess":
        """Wait until jobs may be delivered."""
        await asyncio.to_thread(wait_until, self.process, lambda: http_ok(f"{self.url}/healthz"))
        await asyncio.to_thread(wait_until, self.daprd, lambda: http_ok(self.daprd.plan.health_url))
        return self

    def count(self, metric: str) -> float:
        """Return the value of one of its metrics; 0 if it has none yet."""
        try:
            with urlopen(f"{self.url}/metrics", timeout=2) as answer:
                lines = answer.read().decode().splitlines()
        except URLError:
            return 0
        return next((float(line.split()[-1]) for line in lines if line.startswith(metric + " ")), 0)


def _redis_lines(handle: RedisHandle, *command: str) -> list[str]:
    import redis

    with contextmanager(_client)(redis, handle) as client:
        answer = client.execute_command(*command)
    return [value.decode() for _, fields in answer for value in fields[1::2]] if isinstance(answer, list) else []


def _client(redis: Any, handle: RedisHandle) -> Iterator[Any]:
    address = handle.address
    client = redis.Redis(host=address.host, port=address.port, password=address.password)
    client.response_callbacks.clear()
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    made = Stack(tmp_path, start_redis(tmp_path))
    await made.sidecar.start()
    yield made
    await made.stop()


@pytest.fixture
async def engine() -> AsyncIterator[TinyEngine]:
    made = TinyEngine()
    await made.start()
    yield made
    await made.stop()


def ended(record: JobRecord) -> bool:
    return record.status.is_final


async def test_a_delivered_job_is_settled_and_told_of(stack: Stack, engine: TinyEngine) -> None:
    engine.openapi = {"paths": {}, "openapi": "3.1.0"}
    await stack.runner(engine.url, "worker-1").ready()
    job_id = names.new_job_id()
    await stack.publish(job_id, {"text": "hello"})
    record = await stack.record(job_id, ended)
    assert (record.status, record.output, record.worker) == (Status.SUCCEEDED, {"text": "hello"}, "worker-1")

    def completions() -> list[dict[str, Any]]:
        return [event for event in stack.stream(names.COMPLETIONS_TOPIC) if event.get("subject") == job_id]

    (completion,) = await until_async(completions)
    along = JobRecord.model_validate_json(completion["data"]["records"][job_id])
    assert (completion["data"]["status"], along) == ("succeeded", record)
    assert completion["source"] == f"/engines/{SPEC.id}"
    card = await stack.sidecar.read(STORE, names.card_key("a"))
    assert card is not None
    assert EngineCard.model_validate_json(card.value).engine == SPEC.id
    workers = await stack.sidecar.read(STORE, names.WORKERS_KEY)
    assert workers is not None
    assert WorkerList.model_validate_json(workers.value).workers == ["worker-1"]
    assert await stack.sidecar.read(STORE, names.worker_key("worker-1")) is not None

    # Garbage on the topic is dead-lettered with a reason, and the engine goes on.
    await stack.sidecar.publish(names.GATEWAY_JOBS_COMPONENT, TOPIC, b'{"specversion": "1.0", "id": "x", "data": 1}')
    (letter,) = await until_async(lambda: stack.stream(names.DEAD_LETTERS_TOPIC))
    assert letter["data"]["reason"] == "UNPARSABLE"
    again = names.new_job_id()
    await stack.publish(again, 1)
    assert (await stack.record(again, ended)).status is Status.SUCCEEDED


async def test_an_engine_killed_in_mid_predict_is_a_failed_attempt(stack: Stack) -> None:
    port = PORTS.take()
    killed = _engine_process(stack, "sleeps", port)
    await stack.runner(f"http://127.0.0.1:{port}", "worker-1").ready()
    job_id = names.new_job_id()
    await stack.publish(job_id, {"seconds": 60})
    await stack.record(job_id, lambda record: record.status is Status.RUNNING)
    killed.kill()
    record = await stack.record(job_id, lambda record: record.status is Status.QUEUED)
    assert record.attempt == 1
    assert record.error is not None
    assert record.error.code == "PREDICT_ERROR"
    assert record.retry_at is not None
    assert 0 < (record.retry_at - now()).total_seconds() <= 5
    # The engine is back and the job is handed over again when it is due: the second attempt ends it.
    _engine_process(stack, "sleeps", port)
    await stack.publish(job_id, {"seconds": 0}, attempt=2, at=record.retry_at)
    record = await stack.record(job_id, ended)
    assert (record.status, record.attempt) == (Status.SUCCEEDED, 2)


def _engine_process(stack: Stack, folder: str, port: int) -> Started:
    spec = EngineSpec.model_validate(yaml.safe_load((ROOT / "tests/engines" / folder / "engine.yaml").read_text()))
    assert spec.run is not None
    command = [sys.executable if part == "python" else part for part in spec.run.command]
    environment = {"PATH": os.environ["PATH"], "PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    started = spawn(folder, command, stack.folder / f"{folder}.log", environment, ROOT / "tests/engines" / folder)
    stack.started.append(started)
    wait_until(started, lambda: http_ok(f"http://127.0.0.1:{port}/healthz"))
    return started


async def test_a_job_longer_than_the_brokers_clock_runs_once(stack: Stack, engine: TinyEngine) -> None:
    may_end = asyncio.Event()

    async def predict(request: web.Request) -> web.StreamResponse:
        await may_end.wait()
        return await echo(request)

    engine.predict = predict
    stack.quick_broker("4s")
    runners = [stack.runner(engine.url, "worker-1"), stack.runner(engine.url, "worker-2")]
    for runner in runners:
        await runner.ready()
    job_id = names.new_job_id()
    await stack.publish(job_id, "long")

    def delivered_again() -> bool:
        actions = [f'enginehouse_runner_deliveries_total{{action="{action}"}}' for action in ("joined", "skipped")]
        return sum(runner.count(action) for runner in runners for action in actions) >= 1

    await until_async(
        partial(asyncio.to_thread, delivered_again), "the broker delivers a second time", 30, poll_seconds=0.03
    )
    assert (await stack.record(job_id, lambda _: True)).status is Status.RUNNING
    may_end.set()
    record = await stack.record(job_id, ended)
    assert (record.status, record.attempt, record.output) == (Status.SUCCEEDED, 1, "long")
    assert len(engine.calls) == 1


async def test_a_group_whose_worker_is_killed_when_half_of_it_is_done_comes_again_and_only_the_rest_runs(
    stack: Stack, engine: TinyEngine
) -> None:
    may_end = asyncio.Event()

    async def predict(request: web.Request) -> web.StreamResponse:
        if (await request.json())["data"] >= 2:
            await may_end.wait()
        return await echo(request)

    engine.predict = predict
    stack.quick_broker("2s")
    # It claims nothing meanwhile, so that another worker need not wait until its heartbeat is over.
    killed = await stack.runner(engine.url, "worker-1", claim_after_seconds="60").ready()
    job_ids = [names.new_job_id() for _ in range(4)]
    order = JobOrder(execution_timeout_seconds=20, retry=RetryPolicy(), record_ttl_seconds=600)
    orders = {job_id: order.model_copy(update={"input": number}) for number, job_id in enumerate(job_ids)}
    event = jobs_event(key_of(SPEC.id), SPEC.id, SPEC.tenant, orders, expires=now() + timedelta(hours=1))
    await stack.sidecar.publish(names.GATEWAY_JOBS_COMPONENT, TOPIC, event)
    for job_id in job_ids[:2]:
        await stack.record(job_id, ended)
    await until_async(lambda: len(engine.calls) == 4, "the other half runs")
    killed.process.process.kill()
    await asyncio.to_thread(killed.process.process.wait, 15)
    may_end.set()
    await stack.runner(engine.url, "worker-2").ready()
    found = [await stack.record(job_id, ended) for job_id in job_ids]
    assert [(record.status, record.output) for record in found] == [(Status.SUCCEEDED, n) for n in range(4)]
    assert [record.worker for record in found] == ["worker-1"] * 2 + ["worker-2"] * 2
    assert sorted(call["data"] for call in engine.calls) == [0, 1, 2, 2, 3, 3]


async def test_sigterm_lets_what_runs_end(stack: Stack, engine: TinyEngine) -> None:
    may_end = asyncio.Event()

    async def predict(request: web.Request) -> web.StreamResponse:
        await may_end.wait()
        return await echo(request)

    engine.predict = predict
    runner = await stack.runner(engine.url, "worker-1").ready()
    job_id = names.new_job_id()
    await stack.publish(job_id, "slow")
    await stack.record(job_id, lambda record: record.status is Status.RUNNING)
    runner.process.process.terminate()
    await until_async(lambda: '"draining"' in runner.process.logs(), "it takes no more jobs")
    assert http_ok(f"{runner.url}/healthz"), "its sidecar goes on until the result is written"
    assert runner.process.process.poll() is None
    may_end.set()
    assert (await stack.record(job_id, ended)).status is Status.SUCCEEDED
    assert await asyncio.to_thread(runner.process.process.wait, 15) == 0
    assert await stack.sidecar.read(STORE, names.worker_key("worker-1")) is None
    workers = await stack.sidecar.read(STORE, names.WORKERS_KEY)
    assert workers is not None
    assert WorkerList.model_validate_json(workers.value).workers == []
