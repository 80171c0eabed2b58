"""A whole gateway over a fake sidecar, with tenants and their keys, and a scripted runner for each engine."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import yaml
from fastapi import FastAPI
from httpx2._transports import default
from sqlalchemy import func, select
from tests.support.ledger import sqlite_url
from tests.support.proofs import PROOF_KEY
from tests.support.scripted_runner import ScriptedRunner
from tests.support.waiting import until_async

from enginehouse.contracts import names
from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, new_key
from enginehouse.gateway.app import create_app, running, wire
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.ledger.schema import idempotency_keys, jobs, metadata
from enginehouse.gateway.outcome import dead_letters
from enginehouse.gateway.pace import USUAL, Pace
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar

STANDARD, ECHO, PRIVATE = "shared--standard", "acme--echo", "umbra--private"
TOKEN = "a-token-of-a-test"


UNHURRIED = replace(USUAL, store_seconds=60)
"""The usual pace, but a store has much time to answer: on a busy machine the fake one takes longer than a real one."""


class Clock:
    """A clock that a test can put forward. Give it to a gateway as `Pace.clock`."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class GatewayWorld:
    """A gateway, the fake Dapr below it, a client for each tenant and a runner for each engine."""

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
        """Return the runner of acme's engine `echo`."""
        return self.runners[ECHO]

    def client(self, tenant: str = "acme") -> httpx2.AsyncClient:
        """Return a client that calls the API with the key of `tenant`."""
        if tenant not in self._clients:
            self._clients[tenant] = httpx2.AsyncClient(
                transport=httpx2.ASGITransport(self.app),
                base_url="http://gateway",
                headers={"Authorization": f"Bearer {self.keys[tenant]}"},
            )
        return self._clients[tenant]

    async def submit(self, value: Any = "hello", *, tenant: str = "acme", engine: str = "echo", **options: Any) -> str:
        """Submit a job, which must be accepted, and return its id."""
        answer = await self.client(tenant).post(f"/v1/engines/{engine}/jobs", json={"input": value, **options})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    async def job(self, job_id: str, *, tenant: str = "acme", wait: float = 0) -> dict[str, Any]:
        """Return a job as the API shows it."""
        answer = await self.client(tenant).get(f"/v1/jobs/{job_id}", params={"wait": wait} if wait else {})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def until_status(self, job_id: str, status: Status) -> dict[str, Any]:
        """Wait until the job has that status, and return it."""

        async def reached() -> dict[str, Any] | None:
            found = await self.job(job_id)
            return found if found["status"] == status else None

        found: dict[str, Any] = await until_async(reached)
        return found

    async def delivered(self, job_id: str, times: int = 1, engine: str = ECHO) -> HandedJob:
        """Wait until a job was delivered that many times, and return its last delivery."""

        def deliveries() -> list[HandedJob]:
            return [event for event in self.runners[engine].events if event.id == job_id]

        await until_async(lambda: len(deliveries()) >= times)
        return deliveries()[-1]

    def handed_over(self) -> int:
        """Return how many jobs have been published so far."""
        return sum(len(events) for topic, events in self.dapr.published.items() if topic.startswith("engine."))

    def record(self, job_id: str, engine: str = ECHO) -> JobRecord | None:
        """Return the job's record, or None if there is none."""
        entry = self.dapr.stores[names.results_component(engine)].get(job_id)
        return JobRecord.model_validate_json(entry.value) if entry else None

    async def stored(self) -> dict[str, int]:
        """Return the number of rows in the tables of jobs, idempotency keys and dead letters."""

        def count(connection: Any) -> dict[str, int]:
            tables = [jobs, idempotency_keys, metadata.tables["dead_letters"]]
            return {t.name: connection.execute(select(func.count()).select_from(t)).scalar_one() for t in tables}

        found: dict[str, int] = await self.gateway.ledger.read(count)
        return found

    async def change(self, job_id: str, **columns: Any) -> None:
        """Set columns of a job's row. Most tests set a moment, so that they need not wait for it."""
        statement = jobs.update().where(jobs.c.id == job_id).values(columns)
        await self.gateway.ledger.database.transact(lambda connection: connection.execute(statement), durable=False)

    async def aged(self, job_id: str, seconds: float) -> None:
        """Make a job's hand-over that many seconds older."""
        await self.change(job_id, handed_over_at=jobs.c.handed_over_at - seconds)

    async def sweep(self) -> None:
        """Run one sweep now. It reads every heartbeat anew."""
        for engine in self.gateway.catalogue:
            engine.workers_read_at = 0
        await self.gateway.sweep.once()

    async def idle(self) -> None:
        """Wait until the gateway has no task under way and the broker no delivery."""
        dispatcher, mirroring, hints = self.gateway.dispatcher, self.gateway.mirroring, self.gateway.hints
        await until_async(
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
        """Forget a job's engine, as a gateway does that was started again."""
        self.gateway.hints._expected.forget(job_id)

    async def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            await client.aclose()


def impatient(clock: Clock) -> Pace:
    """Return a pace with `clock` at which a broker is soon asked again, and every ended job is sampled."""
    return replace(UNHURRIED, clock=clock, broker_retry_seconds=0.05, sample_every_seconds=0)


async def sweep_in(world: GatewayWorld, clock: Clock, seconds: float) -> None:
    """Put the clock forward, sweep, and wait until nothing is in hand."""
    clock.ahead += seconds
    await world.sweep()
    await world.idle()


def make_tenant(folder: Path, name: str, *, admin: bool = False, **fields: Any) -> str:
    """Write a tenant's file, and return its API key."""
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
    await FakeSidecar(dapr, engine_id).put(store, names.card_key(card.slot), card.model_dump_json().encode())


def gateway_settings(folder: Path, **changes: Any) -> GatewaySettings:
    """Return settings of a gateway that sweeps only when the test calls `sweep`."""
    values: dict[str, Any] = {
        "ledger_url": sqlite_url(folder) if "ledger_url" not in changes else None,
        "tenants_dir": folder / "tenants",
        "sweep_seconds": 3_600,
        "dapr_api_token": TOKEN,
        "app_api_token": TOKEN,
        "proof_key": PROOF_KEY,
    }
    return GatewaySettings(**{**values, **changes})


_FREE_APPS: list[FastAPI] = []


@contextlib.contextmanager
def _app() -> Iterator[FastAPI]:
    """Lend the block an app that still needs a gateway. Apps are used again, because FastAPI is slow to make one."""
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
    """Make all HTTP clients share one TLS context, because reading the machine's certificates takes long."""
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
    """Run a gateway that knows `engines`, and has the tenants acme and umbra and an administrator's key `admin`."""
    dapr = dapr or FakeDapr()
    dapr.components |= {names.results_component(engine) for engine in engines}
    tenants = folder / "tenants"
    keys = {name: make_tenant(tenants, name) for name in ("acme", "umbra")}
    keys["admin"] = make_tenant(tenants, "operators", admin=True)
    for engine, card in (cards or {}).items():
        await show_card(dapr, engine, **card)
    gateway = wire(gateway_settings(folder, **changes), FakeSidecar(dapr, "gateway"), pace)
    dapr.subscribe(names.COMPLETIONS_TOPIC, gateway.hints.deliver)
    dapr.subscribe(
        names.DEAD_LETTERS_TOPIC, dead_letters.receiver(gateway.ledger, gateway.jobs.records, gateway.proof_keys)
    )
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
