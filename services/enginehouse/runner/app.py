"""Wires a runner together, and starts and stops its parts in the order that loses nothing."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
import yaml
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EnginehouseError, UnsafeSettings
from enginehouse.contracts.names import JOBS_ROUTE
from enginehouse.runner.admit import Admission
from enginehouse.runner.card import CardKeeper
from enginehouse.runner.claims import Claims, Watch
from enginehouse.runner.clients.base import EngineClient
from enginehouse.runner.clients.batch import BatchingEngine
from enginehouse.runner.clients.http import HttpEngine
from enginehouse.runner.control import Control
from enginehouse.runner.execute import NO_JOBS_NOW, Executor
from enginehouse.runner.handle import JobHandler
from enginehouse.runner.health import HangGuard, HealthWatch, Restarts
from enginehouse.runner.heartbeat import Heart
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.runner.objects import ObjectAccess
from enginehouse.runner.outcome import HandedBack
from enginehouse.runner.pace import DEFAULT_PACE, Pace
from enginehouse.runner.read import DeliveryReader
from enginehouse.runner.receive import Receiver
from enginehouse.runner.replicas import ReplicaPool
from enginehouse.runner.settings import RunnerSettings
from enginehouse.runner.settle import Settler
from enginehouse.runner.settled import Settled
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.dapr import DaprSidecar
from enginehouse.sidecar.delivery import DeliveryApp, delivery_app
from enginehouse.sidecar.records import JobRecords

_log = structlog.get_logger(__name__)

_SETTLE_GRACE_SECONDS = 5.0


def load_spec(path: Path) -> EngineSpec:
    """The engine.yaml at `path`; UnsafeSettings if it is not one."""
    try:
        return EngineSpec.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError, EnginehouseError) as error:
        raise UnsafeSettings(f"the runner does not start: {path} is no engine.yaml: {error}") from None


class Runner:
    """One engine's Dapr app. `app` is its delivery listener. Made, started and stopped in one event loop."""

    def __init__(
        self,
        settings: RunnerSettings,
        spec: EngineSpec,
        sidecar: Sidecar,
        pace: Pace = DEFAULT_PACE,
        make_client: Callable[[str], EngineClient] | None = None,
    ) -> None:
        """`make_client` makes the client of the replica at a URL. Default: HTTP, with batches if the engine has them."""
        self._settings = settings
        self.spec = spec
        self._sidecar = sidecar
        self._pace = pace
        self.metrics = RunnerMetrics()
        clients = [(make_client or self._http_client)(url) for url in settings.engine_urls]
        self._batching = [client for client in clients if isinstance(client, BatchingEngine)]
        self.pool = ReplicaPool(clients, spec.jobs_at_once)
        restarts = Restarts(settings.restart_dir)
        self._hangs = HangGuard(
            self.pool,
            restarts,
            pace,
            after_seconds=settings.restart_after_seconds,
            execution_timeout_seconds=spec.execution_timeout_seconds,
        )
        self.cards = CardKeeper(sidecar, spec, settings.slot, pace)
        self._health = HealthWatch(self.pool, restarts, lambda replica: self.cards.came_up(replica.client))
        self.objects = ObjectAccess(
            pace, record_max_bytes=settings.output_max_bytes, answer_max_bytes=settings.predict_max_bytes
        )
        self._wire_jobs()
        self.heart = Heart(
            sidecar,
            spec,
            settings.slot,
            settings.worker,
            pace,
            concurrency=self.pool.concurrency,
            in_hand=lambda: self.receiver.in_hand,
            healthy=lambda: self.pool.any_healthy,
        )
        self._control = Control(sidecar, spec.id, self._told, pace)
        self._sidecar_ready = False
        self.app = self._delivery_app()

    def _http_client(self, url: str) -> EngineClient:
        client = HttpEngine(
            url,
            predict_max_bytes=self._settings.predict_max_bytes,
            output_max_bytes=self._settings.output_max_bytes,
        )
        batch = self.spec.batch
        if batch.max_size == 1:
            return client
        return BatchingEngine(
            client,
            calls=self.spec.concurrency,
            max_size=batch.max_size,
            max_delay_seconds=batch.max_delay_ms / 1000,
            count=self.metrics.batch_jobs.observe,
        )

    def _wire_jobs(self) -> None:
        sidecar, settings, engine_id = self._sidecar, self._settings, self.spec.id
        records = JobRecords(sidecar, engine_id)
        settled = Settled(self._pace)
        admission = Admission(sidecar, records, settled, self._pace, engine_id=engine_id, worker=settings.worker)
        self._settler = Settler(sidecar, records, settled, self._pace, engine_id)
        claims = Claims(records, admission, self._settler.announce_start)
        self._watch = Watch(records, claims, settings.watch_every_seconds)
        self._executor = Executor(
            self.pool,
            claims,
            self._watch,
            self._hangs,
            claim_after_seconds=settings.claim_after_seconds,
            hand_back_after_seconds=settings.hand_back_after_seconds,
        )
        handler = JobHandler(
            sidecar,
            admission,
            self._executor,
            self.objects,
            self.metrics,
            self._pace,
            spec=self.spec,
            worker=settings.worker,
        )
        reader = DeliveryReader(sidecar, self.metrics, engine_id)
        self.receiver = Receiver(reader, admission, handler, self._settler, self.metrics)

    def _delivery_app(self) -> DeliveryApp:
        async def live(request: Request) -> Response:
            return PlainTextResponse("alive")

        async def metrics(request: Request) -> Response:
            return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

        return delivery_app(
            {JOBS_ROUTE: self.receiver.deliver},
            self._settings.app_api_token.get_secret_value(),
            self.ready,
            extra=[Route("/healthz/live", live), Route("/metrics", metrics)],
        )

    def ready(self) -> bool:
        """Whether jobs may be delivered; while not, the sidecar pauses the subscription.

        Not while the gateway has stopped the engine: what is delivered then is handed back. A subscription that a
        sidecar takes up again loses the first event, until the broker's clock or the gateway's finds it.
        """
        told = self._control.stopped is not None
        return self._sidecar_ready and self.pool.any_healthy and told and not self.receiver.draining

    async def start(self) -> None:
        """Start everything but the listener, which should be up already: the sidecar looks for it."""
        self._health.start()
        await self._sidecar.start()
        self._sidecar_ready = True
        self._control.start()
        self.heart.start()
        self.cards.start()
        _log.info(
            "The runner serves its engine", action="runner_started", engine_id=self.spec.id, slot=self._settings.slot
        )

    async def drain(self) -> None:
        """Take nothing more, let what runs end in its time, and hand the rest back to the queue."""
        self.receiver.draining = True
        self._begin_nothing()
        grace = self._settings.stop_grace_seconds
        grace = self.spec.execution_timeout_seconds if grace is None else grace
        _log.info("The runner ends what it has in hand", action="draining", jobs=len(self.receiver.in_hand))
        try:
            async with asyncio.timeout(grace):
                await self.receiver.settled()
        except TimeoutError:
            await self.hand_back()

    def _told(self, stopped: bool) -> None:
        """The gateway stopped the engine, or lets it go on."""
        if self.receiver.draining:
            return
        self.receiver.stopped = stopped
        if stopped:
            self._begin_nothing()
        else:
            self.pool.resume()

    def _begin_nothing(self) -> None:
        self.pool.stop()
        for client in self._batching:
            client.turn_away(HandedBack(NO_JOBS_NOW))

    async def hand_back(self) -> None:
        """Close what still runs, and settle it as handed back."""
        self._executor.hand_back_running()
        try:
            async with asyncio.timeout(_SETTLE_GRACE_SECONDS):
                await self.receiver.settled()
        except TimeoutError:
            _log.warning("Jobs are left to the ledger", action="left_in_hand", jobs=self.receiver.in_hand)

    async def stop(self) -> None:
        """Stop every part."""
        await self._control.stop()
        await self._watch.stop()
        await self._hangs.stop()
        await self._health.stop()
        await self.cards.stop()
        await self.heart.stop()
        for replica in self.pool.replicas:
            await replica.client.close()
        await self.objects.close()
        await self._settler.close()
        await self._sidecar.close()


def create_runner(settings: RunnerSettings) -> Runner:
    """A runner as the settings say, with its own sidecar. Call inside the event loop; nothing connects yet."""
    sidecar = DaprSidecar(settings.dapr_http_port, settings.dapr_api_token.get_secret_value())
    return Runner(settings, load_spec(settings.spec), sidecar)
