"""Wires a gateway together, once, at start, and runs it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI

from enginehouse.audit.log import AuditLog
from enginehouse.audit.ship import Shipper
from enginehouse.background import Background
from enginehouse.checkers import Checkers
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.names import AUDIT_COMPONENT, AUDIT_TOPIC, GATEWAY_APP
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.gateway.engines.breaker_feed import BreakerFeed
from enginehouse.gateway.engines.broadcast import Broadcasts
from enginehouse.gateway.engines.calls import EngineCalls
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.engine_view import EngineViews
from enginehouse.gateway.engines.misbehaviour import Misbehaviour
from enginehouse.gateway.engines.operations import EngineOperations
from enginehouse.gateway.engines.quarantines import QuarantineList
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.gateway import Gateway
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.handover.job_event import JobEvents
from enginehouse.gateway.handover.unfinished import UnfinishedJobs
from enginehouse.gateway.http.api import create_api
from enginehouse.gateway.inference.infer import Inference
from enginehouse.gateway.inference.models import Models
from enginehouse.gateway.intake.bodies import Bodies
from enginehouse.gateway.intake.cloud_events import EventIntake
from enginehouse.gateway.intake.submit import Submitter
from enginehouse.gateway.jobs.dead_letters import DeadLetters
from enginehouse.gateway.jobs.follow import Followers
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.jobs.purge import Purge
from enginehouse.gateway.jobs.replay import Replays
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.notify.webhook_secrets import WebhookSecrets
from enginehouse.gateway.notify.webhooks import Webhooks
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome import dead_letters
from enginehouse.gateway.outcome.consequences import Consequences
from enginehouse.gateway.outcome.end_samples import EndSamples
from enginehouse.gateway.outcome.expected_jobs import ExpectedJobs
from enginehouse.gateway.outcome.hints import Hints
from enginehouse.gateway.outcome.mirroring import Mirroring
from enginehouse.gateway.outcome.records import Records
from enginehouse.gateway.outcome.restored_store import RestoredStores
from enginehouse.gateway.outcome.waiters import Waiters
from enginehouse.gateway.pace import USUAL, Pace
from enginehouse.gateway.recovery.ended_trials import EndedTrials
from enginehouse.gateway.recovery.expiry import Expiry
from enginehouse.gateway.recovery.lost_jobs import LostJobs
from enginehouse.gateway.recovery.recount import Recount
from enginehouse.gateway.recovery.removed_engines import RemovedEngines
from enginehouse.gateway.recovery.removed_tenants import RemovedTenants
from enginehouse.gateway.recovery.retention import Retention
from enginehouse.gateway.recovery.sweep import Sweep
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.gateway.store_budget import StoreBudget
from enginehouse.gateway.tenants.limits import BytesInHand, Limits, OpenRequests
from enginehouse.gateway.tenants.loop_time import LoopTime
from enginehouse.gateway.tenants.stored_bytes import StoredBytes
from enginehouse.gateway.tenants.tenants import Tenants
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.dapr import DaprSidecar
from enginehouse.sidecar.delivery import DeliveryApp, delivery_app

_NO_END_SECONDS = 1e9
_STORES_SWEPT_AT_ONCE = 64
"""So that no store's time is spent on waiting for the others."""


def wire(settings: GatewaySettings, sidecar: Sidecar, pace: Pace = USUAL) -> Gateway:
    """Put the parts together; nothing runs yet.

    The function is long because it is one list: layer by layer from the bottom, each part below those that it uses.
    """
    audit = AuditLog(settings.audit_dir, GATEWAY_APP, max_bytes=settings.audit_max_bytes)
    # ledger | objects | tenants
    ledger = Ledger(settings.ledger_url.get_secret_value(), pace.ledger)
    objects = _objects(settings)
    proof_keys = ProofKeys(settings.proof_key.get_secret_value())
    tenants, limits = Tenants(settings.tenants_dir), Limits()
    stored = StoredBytes(tenants.get, recounted_every_seconds=pace.clean_up_seconds)
    # Callers have a budget without places, so that a sweep over many stores that hang keeps none of them waiting.
    budget = StoreBudget(pace.store_seconds)
    sweep_budget = StoreBudget(pace.store_seconds, at_once=_STORES_SWEPT_AT_ONCE)
    # notify
    webhooks = Webhooks(WebhookSecrets(settings.webhook_secrets_dir), allow_inside=settings.webhook_allow_inside)
    notifier = Notifier(sidecar, ledger, webhooks, idle_seconds=pace.outbox_idle_seconds, backoff=pace.notice_backoff)
    # engines
    catalogue = Catalogue(
        sidecar,
        ledger,
        budget,
        window_min=settings.window_min,
        window_factor=settings.window_factor,
        bundles=settings.engines_dir,
    )
    quarantines = QuarantineList(catalogue)
    transitions = Transitions(
        sidecar,
        catalogue,
        notifier,
        tenants,
        sweep_budget,
        audit,
        wake=lambda engine_id: dispatcher.wake(engine_id),
        on_change=quarantines.note_change,
    )
    misbehaviour = Misbehaviour(
        catalogue,
        transitions,
        window_seconds=settings.misbehaviour_window_seconds,
        enough={
            Misdeed.DENIED_COMMANDS: settings.denied_commands_max,
            Misdeed.CRASHES_WHILE_STARTING: settings.crashes_while_starting_max,
            Misdeed.MALFORMED_ANSWERS: settings.malformed_answers_max,
            Misdeed.CRASHES: settings.crashes_max,
            Misdeed.OUT_OF_MEMORY: settings.out_of_memory_max,
            Misdeed.HANGS: settings.hangs_max,
        },
    )
    breaker_feed = BreakerFeed(catalogue, transitions, misbehaviour)
    engine_calls = EngineCalls(catalogue, sidecar, proof_keys, tenant_namespaces=settings.tenant_namespaces)
    catalogue.on_deployment = breaker_feed.start_anew
    # handover
    job_events = JobEvents(proof_keys, objects, record_margin_seconds=settings.record_margin_seconds)
    dispatcher = Dispatcher(
        sidecar,
        ledger,
        catalogue,
        job_events,
        weights=tenants.weights,
        broker_retry_seconds=pace.broker_retry_seconds,
    )
    catalogue.on_trial = dispatcher.rinse
    # outcome
    waiters, expected, samples = Waiters(), ExpectedJobs(ledger), EndSamples(pace.sample_every_seconds)
    consequences = Consequences(
        dispatcher,
        breaker_feed,
        notifier,
        waiters=waiters,
        limits=limits,
        expected=expected,
        samples=samples,
        audit=audit,
    )
    mirroring = Mirroring(sidecar, ledger, consequences)
    records, sweep_records = (
        Records(sidecar, mirroring, spent, margin_seconds=settings.record_margin_seconds, clock=pace.clock)
        for spent in (budget, sweep_budget)
    )
    hints = Hints(ledger, catalogue, expected, mirroring, waiters, proof_keys)
    # intake and jobs
    checkers = Checkers()
    bodies = Bodies(checkers)
    submitter = Submitter(
        ledger,
        catalogue,
        dispatcher,
        expected,
        checkers,
        limits=limits,
        webhooks=webhooks,
        objects=objects,
        stored=stored,
        inline_max_bytes=settings.inline_max_bytes,
    )
    jobs = Jobs(ledger, catalogue, submitter, records, waiters, objects)
    engine_views, bytes_in_hand, loop_time = EngineViews(catalogue, ledger, misbehaviour), BytesInHand(), LoopTime()
    # recovery, in the order of a sweep
    lost_jobs = LostJobs(ledger, catalogue, dispatcher, sweep_records, consequences, clock=pace.clock)
    hints.on_worker_left = lost_jobs.worker_left
    removed_tenants = RemovedTenants(ledger, objects, tenants, catalogue, sweep_records)
    sweep = Sweep(
        {
            "recount": Recount(ledger, catalogue, dispatcher, limits).recount,
            "control messages": transitions.catch_up,
            "expiry": Expiry(ledger, sweep_records, engine_seconds=pace.store_seconds, clock=pace.clock).expire,
            "restored stores": RestoredStores(ledger, catalogue, transitions, sweep_records, samples).check,
            "lost jobs": lost_jobs.recover,
            "ended trials": EndedTrials(ledger, catalogue, expected, sweep_records, lost_jobs).settle_jobs,
            "removed engines": RemovedEngines(ledger, catalogue, sweep_records, mirroring).end_jobs,
            "removed tenants": removed_tenants.delete,
            "retention": Retention(
                ledger,
                objects,
                stored,
                rows_kept_seconds=settings.rows_kept_seconds,
                clean_up_seconds=pace.clean_up_seconds,
                clock=pace.clock,
            ).delete_due,
        }
    )
    return Gateway(
        settings=settings,
        audit=audit,
        shipper=_shipper(settings, sidecar),
        pace=pace,
        sidecar=sidecar,
        ledger=ledger,
        objects=objects,
        proof_keys=proof_keys,
        tenants=tenants,
        stored=stored,
        notifier=notifier,
        webhooks=webhooks,
        catalogue=catalogue,
        transitions=transitions,
        quarantines=quarantines,
        misbehaviour=misbehaviour,
        engine_operations=EngineOperations(catalogue, transitions),
        engine_views=engine_views,
        engine_calls=engine_calls,
        broadcasts=Broadcasts(catalogue, engine_calls, bytes_in_hand),
        dispatcher=dispatcher,
        unfinished=UnfinishedJobs(ledger, catalogue, clock=pace.clock),
        mirroring=mirroring,
        hints=hints,
        sweep=sweep,
        bytes_in_hand=bytes_in_hand,
        open_requests=OpenRequests(),
        loop_time=loop_time,
        batches=defaultdict(asyncio.Lock),
        bodies=bodies,
        events=EventIntake(bodies, submitter, tenants, notifier, ledger),
        jobs=jobs,
        followers=Followers(jobs),
        dead_letters=DeadLetters(ledger, jobs),
        purge=Purge(catalogue, ledger, records),
        models=Models(catalogue, engine_views),
        removed_tenants=removed_tenants,
        replays=Replays(
            sidecar,
            ledger,
            catalogue,
            dispatcher.backlog,
            job_events,
            objects,
            margin_seconds=settings.record_margin_seconds,
        ),
        inference=Inference(jobs, bodies, bytes_in_hand, loop_time, objects),
    )


def _objects(settings: GatewaySettings) -> Objects | None:
    if settings.objects_url is None:
        return None
    public_url = settings.public_url or f"http://{settings.host}:{settings.port}"
    return Objects(
        settings.objects_url.get_secret_value(),
        public_url,
        max_bytes=settings.object_max_bytes,
        shared_max_bytes=settings.shared_object_max_bytes,
    )


def _shipper(settings: GatewaySettings, sidecar: Sidecar) -> Shipper | None:
    if settings.audit_dir is None or not settings.audit_shipped:
        return None
    return Shipper(settings.audit_dir, partial(sidecar.publish, AUDIT_COMPONENT, AUDIT_TOPIC))


@asynccontextmanager
async def running(gateway: Gateway) -> AsyncIterator[None]:
    """Open the ledger and keep all tasks running; at the end, finish the work in hand."""
    await gateway.ledger.open()
    await gateway.catalogue.restore()
    background, stop = Background(), asyncio.Event()
    _keep_running(gateway, background, stop)
    try:
        yield
    finally:
        stop.set()
        await gateway.inference.close()
        await background.close()
        await asyncio.gather(gateway.hints.close(), gateway.mirroring.close(), gateway.replays.close())
        await gateway.unfinished.close()
        await gateway.dispatcher.close()
        await gateway.ledger.close()
        await gateway.sidecar.close()
        await gateway.audit.close()


def _keep_running(gateway: Gateway, background: Background, stop: asyncio.Event) -> None:
    restart_seconds = gateway.pace.task_restart_seconds

    async def with_sidecar() -> None:
        # Jobs are accepted even before the sidecar answers: they wait in the ledger.
        await gateway.sidecar.start(timeout_seconds=_NO_END_SECONDS)
        for name, task in {
            "engines": lambda: gateway.catalogue.run(gateway.pace.engines_poll_seconds),
            "sweep": lambda: gateway.sweep.run(gateway.settings.sweep_seconds),
            "notifier": gateway.notifier.run,
            "listener": gateway.hints.listen_to_others,
            **({"audit shipping": gateway.shipper.run} if gateway.shipper else {}),
        }.items():
            background.keep(name, task, restart_seconds)

    background.keep("sidecar", with_sidecar, restart_seconds)
    background.keep("audit", gateway.audit.run, restart_seconds)
    background.keep("tenants", lambda: gateway.tenants.watch(stop), restart_seconds)


def create_gateway(settings: GatewaySettings, sidecar: Sidecar | None = None) -> Gateway:
    """Put a gateway together, with the real sidecar unless another one is given."""
    return wire(settings, sidecar or DaprSidecar(settings.dapr_http_port, settings.dapr_api_token.get_secret_value()))


def create_app(settings: GatewaySettings, sidecar: Sidecar | None = None) -> FastAPI:
    """Build the public API by itself."""
    gateway = create_gateway(settings, sidecar)
    return create_api(gateway, running(gateway))


def create_delivery_app(gateway: Gateway) -> DeliveryApp:
    """Build the loopback listener for the gateway's own sidecar."""

    async def take_request(body: bytes, tenant: str, **more: Any) -> bool:
        with gateway.audit.recording("event on requests.{tenant}", by=tenant):
            return await gateway.events.deliver(body, tenant, **more)

    return delivery_app(
        {
            "/completions": gateway.hints.deliver,
            "/dead-letters": dead_letters.receiver(gateway.ledger, gateway.jobs.records, gateway.proof_keys),
            "/requests/{tenant}": take_request,
        },
        gateway.settings.app_api_token.get_secret_value(),
        healthy=lambda: True,
    )
