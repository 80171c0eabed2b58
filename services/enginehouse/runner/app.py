"""Wires a runner together, and starts and stops its parts in the order that loses no job."""

import asyncio
from collections.abc import Callable

import structlog
from starlette.applications import Starlette
from starlette.routing import BaseRoute

from enginehouse.checkers import Checkers
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import GATEWAY_APP, JOBS_ROUTE, PLATFORM_TENANT, jobs_component
from enginehouse.runner.admit import Admission
from enginehouse.runner.attempt import Attempt
from enginehouse.runner.blame import Blame
from enginehouse.runner.calls import EngineCalls
from enginehouse.runner.card import CardKeeper, authors_example
from enginehouse.runner.claims import Claims, RecordWatch
from enginehouse.runner.clients.base import EngineClient, Health
from enginehouse.runner.clients.batch import BatchingEngine
from enginehouse.runner.clients.choose import engine_client
from enginehouse.runner.clients.wire import Limits
from enginehouse.runner.containers import EngineContainers
from enginehouse.runner.control import ControlReader
from enginehouse.runner.execute import NO_JOBS_NOW, Executor
from enginehouse.runner.fit import Fitness
from enginehouse.runner.handle import JobHandler
from enginehouse.runner.hangs import HangGuard
from enginehouse.runner.health import HealthWatch, Restarts
from enginehouse.runner.heartbeat import Heartbeats
from enginehouse.runner.leave import leave
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.runner.objects import ObjectAccess
from enginehouse.runner.outcome import HandedBack
from enginehouse.runner.pace import DEFAULT_PACE, Pace
from enginehouse.runner.pages import health_app, pages
from enginehouse.runner.problem import ProblemWatch
from enginehouse.runner.read import DeliveryReader
from enginehouse.runner.receive import Receiver
from enginehouse.runner.recent_ends import RecentEnds
from enginehouse.runner.replicas import Replica, ReplicaPool
from enginehouse.runner.service import ServiceEvents, ServiceWatch
from enginehouse.runner.settings import RunnerSettings, load_engine
from enginehouse.runner.settle import Settler
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.dapr import DaprSidecar
from enginehouse.sidecar.delivery import DeliveryApp, delivery_app
from enginehouse.sidecar.records import JobRecords

_log = structlog.get_logger(__name__)

_SETTLE_GRACE_SECONDS = 5.0


class Runner:
    """The Dapr app of one engine. Made, started and stopped in one event loop.

    `app` is its delivery listener; `health_app` is what it shows on all addresses, where its settings want that.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        spec: EngineSpec,
        sidecar: Sidecar,
        pace: Pace = DEFAULT_PACE,
        make_client: Callable[[str], EngineClient] | None = None,
    ) -> None:
        """Wire the runner. `make_client` makes the client of the replica at a URL; default: as its engine.yaml says."""
        self._settings = settings
        self._key = settings.engine_key
        self.spec = spec
        self._pubsub = settings.jobs_component or jobs_component(spec.id)
        self._sidecar = sidecar
        self._pace = pace
        self.metrics = RunnerMetrics()
        self._checkers = Checkers()
        self._containers = EngineContainers(settings.supervisor_dir, spec.resources.memory_bytes)
        self._wire_engine(make_client or self._client)
        self._wire_jobs()
        self._wire_gateway()
        self._sidecar_ready = False
        folder, most, is_on_trial = settings.spec.parent, settings.predict_max_bytes, self.heartbeats.is_on_trial
        self._fitness = Fitness(
            spec, folder, self.pool, self._executor, pace, output_max_bytes=most, is_on_trial=is_on_trial
        )
        shared = pages(self.metrics.text, lambda: self._problems.found)
        self.app = self._delivery_app(shared)
        self.health_app: Starlette = health_app(shared, self.misfit)

    def _wire_engine(self, make_client: Callable[[str], EngineClient]) -> None:
        """Make the parts that watch the engine's replicas."""
        settings, spec, pace = self._settings, self.spec, self._pace
        once = spec.one_job_each
        blame = Blame() if spec.tenant == PLATFORM_TENANT and not once else None
        clients = [make_client(url) for url in settings.engine_urls]
        self.pool = ReplicaPool(clients, spec.jobs_at_once, blame=blame, once=once)
        restarts = Restarts(settings.supervisor_dir)
        self._hangs = HangGuard(
            pool=self.pool,
            restarts=restarts,
            pace=pace,
            calls=spec.concurrency,
            after_seconds=settings.restart_after_seconds,
            execution_timeout_seconds=spec.execution_timeout_seconds,
        )
        self.cards = CardKeeper(
            sidecar=self._sidecar,
            spec=spec,
            slot=settings.slot,
            pace=pace,
            content=settings.deployment,
            example=authors_example(settings.spec),
            key=self._key,
            pubsub=self._pubsub,
        )
        self._health = HealthWatch(
            pool=self.pool,
            restarts=restarts,
            on_up=self._replica_is_up,
            on_answer=self._heard,
        )
        self._problems = ProblemWatch(
            self._health, settings.supervisor_dir, on_change=lambda: self.heartbeats.wake(), pace=pace
        )
        self._service = self._service_watch(settings.engine_service, make_client) if settings.engine_service else None
        if self._service is not None:
            self.pool.on_spent = self._service.dismiss

    def _service_watch(self, service: str, make_client: Callable[[str], EngineClient]) -> ServiceWatch:
        return ServiceWatch(
            service,
            self.pool,
            make_client,
            ServiceEvents(self._replica_found, self._replica_left, self._health.note_search),
            self._pace,
            is_wanted=lambda: bool(self.receiver.in_hand),
        )

    @property
    def _batching(self) -> list[BatchingEngine]:
        return [replica.client for replica in self.pool.replicas if isinstance(replica.client, BatchingEngine)]

    def _heard(self, replica: Replica, health: Health) -> None:
        """Take note of what a replica said at a health check."""
        self._hangs.look_at(replica, health)
        if self.spec.batch.max_size == 1:
            self.pool.limit(replica, health.concurrency)

    def _warning(self) -> str | None:
        return self.pool.warning or next((client.advice for client in self._batching if client.advice), None)

    def _replica_found(self, replica: Replica) -> None:
        self._health.watch(replica)
        self.heartbeats.wake()

    def _replica_left(self, replica: Replica) -> None:
        self._health.forget(replica)
        others = (other.client for other in self.pool.replicas if other.healthy)
        self.cards.forget(replica.client, next(others, None))
        self.heartbeats.wake()

    def _replica_is_up(self, replica: Replica) -> None:
        self.cards.refresh(replica.client)
        self.heartbeats.wake()

    def _wire_gateway(self) -> None:
        """Make the parts that show the worker to the gateway and read what it says."""
        sidecar, settings, spec, pace = self._sidecar, self._settings, self.spec, self._pace
        self.heartbeats = Heartbeats(
            sidecar=sidecar,
            spec=spec,
            slot=settings.slot,
            worker=settings.worker,
            pace=pace,
            pubsub=self._pubsub,
            concurrency=lambda: self.pool.concurrency or self.spec.jobs_at_once,
            in_hand=lambda: self.receiver.in_hand,
            healthy=lambda: self.pool.any_healthy,
            asleep=lambda: self.is_asleep,
            warning=self._warning,
            problem=lambda: self._problems.problem,
            on_routed=self.cards.announce,
        )
        self._control = ControlReader(sidecar=sidecar, engine_id=spec.id, on_change=self._set_stopped, pace=pace)

    def _client(self, url: str) -> EngineClient:
        limits = Limits(self._settings.predict_max_bytes, self._settings.output_max_bytes)
        return engine_client(self.spec, url, self._checkers, limits, count_jobs=self.metrics.batch_jobs.observe)

    def _wire_jobs(self) -> None:
        """Make the parts on a job's way."""
        sidecar, settings, pace, engine_id = self._sidecar, self._settings, self._pace, self.spec.id
        records = JobRecords(sidecar, engine_id)
        recent_ends = RecentEnds(pace)
        admission = Admission(
            sidecar=sidecar,
            records=records,
            recent_ends=recent_ends,
            pace=pace,
            engine_id=engine_id,
            worker=settings.worker,
        )
        self._settler = Settler(
            sidecar=sidecar,
            records=records,
            recent_ends=recent_ends,
            pace=pace,
            engine_id=engine_id,
            key=self._key,
            pubsub=self._pubsub,
        )
        claims = Claims(records=records, admission=admission, announce=self._note_claimed)
        self._watch = RecordWatch(records=records, claims=claims, every_seconds=settings.watch_every_seconds)
        self._executor = Executor(
            pool=self.pool,
            claims=claims,
            watch=self._watch,
            hangs=self._hangs,
            containers=self._containers,
            claim_after_seconds=settings.claim_after_seconds,
            hand_back_after_seconds=settings.hand_back_after_seconds,
            execution_timeout_seconds=self.spec.execution_timeout_seconds,
        )
        self.receiver = Receiver(
            reader=DeliveryReader(sidecar, self.metrics, engine_id, self._key, self._pubsub),
            admission=admission,
            handler=self._job_handler(admission),
            settler=self._settler,
            metrics=self.metrics,
        )

    def _note_claimed(self, attempt: Attempt) -> None:
        self._settler.announce_start(attempt)
        self.receiver.note_claimed(attempt.job_id)

    def _job_handler(self, admission: Admission) -> JobHandler:
        settings, pace = self._settings, self._pace
        self.objects = ObjectAccess(
            pace,
            self._checkers,
            record_max_bytes=settings.output_max_bytes,
            answer_max_bytes=settings.predict_max_bytes,
        )
        return JobHandler(
            sidecar=self._sidecar,
            admission=admission,
            executor=self._executor,
            objects=self.objects,
            metrics=self.metrics,
            containers=self._containers,
            pace=pace,
            spec=self.spec,
            worker=settings.worker,
            key=self._key,
            pubsub=self._pubsub,
        )

    def _delivery_app(self, shared: list[BaseRoute]) -> DeliveryApp:
        self._calls = EngineCalls(self.spec, self._settings.worker, self.pool, lambda: self._problems.found, self._key)
        return delivery_app(
            {JOBS_ROUTE: self.receiver.deliver},
            self._settings.app_api_token.get_secret_value(),
            self.takes_deliveries,
            extra=shared,
            callers={GATEWAY_APP: self._calls.app},
        )

    def misfit(self) -> str | None:
        """Say why the version is not fit to serve; None if it is. Its own examples are tried when this is first asked."""
        return self._fitness.misfit(self._problems.found, is_asleep=self.is_asleep)

    def ready(self) -> bool:
        """Return whether jobs can run now."""
        return self.pool.any_healthy and self.takes_deliveries()

    @property
    def is_asleep(self) -> bool:
        """Say whether the engine has no replica, not even one that is ill: that is no fault, and one comes for a job."""
        return self._service is not None and self._service.is_empty

    def takes_deliveries(self) -> bool:
        """Return whether jobs may be delivered. While they may not, the sidecar pauses the subscription.

        A paused subscription loses what is in hand and the first event after the pause, until the broker's clock or the
        gateway finds them. So jobs wait here while an engine restarts, unless that takes long; and the runner of an
        engine that the gateway has stopped hands back each delivery. They wait for an engine that is asleep as well, for which
        they are the reason to wake up.

        A sidecar that is told to stop goes on until its app says no. So a runner that stops says so only when the last
        result is written.
        """
        well = self.pool.any_healthy or self.is_asleep or self.pool.seconds_down < self._pace.restart_seconds
        control_is_known = self._control.stopped is not None
        return (
            self._sidecar_ready
            and well
            and control_is_known
            and not (self.receiver.draining and not self.receiver.in_hand)
        )

    async def start(self) -> None:
        """Start everything but the listener, which should be up already, because the sidecar looks for it."""
        self._health.start()
        if self._service is not None:
            self._service.start()
        self._problems.start()
        await self._sidecar.start()
        self._sidecar_ready = True
        self._control.start()
        self.heartbeats.start()
        self.cards.start()
        _log.info(
            "The runner serves its engine", action="runner_started", engine_id=self.spec.id, slot=self._settings.slot
        )

    async def drain(self) -> None:
        """Take no more jobs, let running ones end in their time, and hand the others back to the queue."""
        self.receiver.draining = True
        self._begin_no_more()
        grace = self._settings.stop_grace_seconds
        grace = self.spec.execution_timeout_seconds if grace is None else grace
        in_hand = self.receiver.in_hand
        _log.info(
            "The runner takes no more jobs and ends those in hand",
            action="draining",
            jobs=len(in_hand),
            job_ids=in_hand,
        )
        self.receiver.let_go()
        self._executor.claim_all()
        leaving = asyncio.create_task(
            leave(
                self._sidecar,
                self.heartbeats,
                engine_id=self.spec.id,
                slot=self._settings.slot,
                key=self._key,
                pubsub=self._pubsub,
            )
        )
        try:
            async with asyncio.timeout(grace):
                await self.receiver.wait_until_idle()
        except TimeoutError:
            await self.hand_back()
        await leaving

    def _set_stopped(self, stopped: bool) -> None:
        """Begin no more jobs while the gateway has stopped the engine, and begin jobs again when it resumes it."""
        if self.receiver.draining:
            return
        self.receiver.stopped = stopped
        if stopped:
            self._begin_no_more()
        else:
            self.pool.resume()

    def _begin_no_more(self) -> None:
        self.pool.stop()
        for client in self._batching:
            client.answer_waiting(HandedBack(NO_JOBS_NOW))

    async def hand_back(self) -> None:
        """Close the calls that still run, and hand their jobs back to the queue."""
        self._executor.hand_back_running()
        try:
            async with asyncio.timeout(_SETTLE_GRACE_SECONDS):
                await self.receiver.wait_until_idle()
        except TimeoutError:
            _log.warning(
                "Some jobs could not be handed back in time, so the gateway has to find them",
                action="left_in_hand",
                job_ids=self.receiver.in_hand,
            )

    async def stop(self) -> None:
        """Stop every part."""
        await self._control.stop()
        await self._fitness.stop()
        await self._watch.stop()
        await self._hangs.stop()
        await self._problems.stop()
        if self._service is not None:
            await self._service.stop()
        await self._health.stop()
        await self.cards.stop()
        await self.heartbeats.stop()
        for replica in self.pool.replicas:
            await replica.client.close()
        await self._calls.close()
        await self.objects.close()
        await self._settler.close()
        await self._sidecar.close()


def create_runner(settings: RunnerSettings) -> Runner:
    """Return a runner with its own sidecar, as the settings say. Call inside the event loop; nothing connects yet."""
    sidecar = DaprSidecar(settings.dapr_http_port, settings.dapr_api_token.get_secret_value())
    return Runner(settings, load_engine(settings), sidecar)
