"""The parts of a running gateway; `app.wire` puts them together."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from enginehouse.audit.log import AuditLog
from enginehouse.audit.ship import Shipper
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.gateway.engines.broadcast import Broadcasts
from enginehouse.gateway.engines.calls import EngineCalls
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.engine_view import EngineViews
from enginehouse.gateway.engines.misbehaviour import Misbehaviour
from enginehouse.gateway.engines.operations import EngineOperations
from enginehouse.gateway.engines.quarantines import QuarantineList
from enginehouse.gateway.engines.transitions import Transitions
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.handover.unfinished import UnfinishedJobs
from enginehouse.gateway.inference.infer import Inference
from enginehouse.gateway.inference.models import Models
from enginehouse.gateway.intake.bodies import Bodies
from enginehouse.gateway.intake.cloud_events import EventIntake
from enginehouse.gateway.jobs.dead_letters import DeadLetters
from enginehouse.gateway.jobs.follow import Followers
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.jobs.purge import Purge
from enginehouse.gateway.jobs.replay import Replays
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.notify.webhooks import Webhooks
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome.hints import Hints
from enginehouse.gateway.outcome.mirroring import Mirroring
from enginehouse.gateway.pace import Pace
from enginehouse.gateway.recovery.removed_tenants import RemovedTenants
from enginehouse.gateway.recovery.sweep import Sweep
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.gateway.tenants.limits import BytesInHand, OpenRequests
from enginehouse.gateway.tenants.loop_time import LoopTime
from enginehouse.gateway.tenants.stored_bytes import StoredBytes
from enginehouse.gateway.tenants.tenants import Tenants
from enginehouse.sidecar.base import Sidecar


@dataclass(frozen=True, slots=True)
class Gateway:
    """Everything that routes, deliveries and background tasks use."""

    settings: GatewaySettings
    audit: AuditLog
    shipper: Shipper | None
    """None: entries of the audit log are not published."""
    pace: Pace
    sidecar: Sidecar
    ledger: Ledger
    objects: Objects | None
    proof_keys: ProofKeys
    tenants: Tenants
    stored: StoredBytes
    notifier: Notifier
    webhooks: Webhooks
    catalogue: Catalogue
    transitions: Transitions
    quarantines: QuarantineList
    misbehaviour: Misbehaviour
    engine_operations: EngineOperations
    engine_views: EngineViews
    engine_calls: EngineCalls
    broadcasts: Broadcasts
    dispatcher: Dispatcher
    unfinished: UnfinishedJobs
    mirroring: Mirroring
    hints: Hints
    sweep: Sweep
    bytes_in_hand: BytesInHand
    open_requests: OpenRequests
    loop_time: LoopTime
    batches: Mapping[str, asyncio.Lock]
    """Held by a tenant while a part of one of its batches is accepted."""
    bodies: Bodies
    events: EventIntake
    jobs: Jobs
    followers: Followers
    dead_letters: DeadLetters
    purge: Purge
    models: Models
    inference: Inference
    removed_tenants: RemovedTenants
    replays: Replays

    async def readiness(self) -> dict[str, bool]:
        """Say which of the parts that are needed to accept jobs are there. The broker may be away."""
        return {"engines_loaded": self.catalogue.loaded.is_set(), "ledger": await self.ledger.is_well()}

    async def is_ready(self) -> bool:
        """Say whether jobs can be accepted."""
        return all((await self.readiness()).values())
