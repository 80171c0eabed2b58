"""What a running gateway consists of; wired in `app.wire`."""

from dataclasses import dataclass

from enginehouse.gateway.engines.catalogue import Engines
from enginehouse.gateway.engines.transitions import States
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.intake.cloud_events import EventIntake
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.notify.webhooks import Webhooks
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.outcome.completions import Completions
from enginehouse.gateway.recovery.sweep import Sweep
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.gateway.tenants.tenants import Tenants
from enginehouse.sidecar.base import Sidecar


@dataclass(slots=True)
class GatewayState:
    """The parts that routes and deliveries use."""

    settings: GatewaySettings
    sidecar: Sidecar
    ledger: Ledger
    tenants: Tenants
    engines: Engines
    states: States
    dispatcher: Dispatcher
    completions: Completions
    sweep: Sweep
    jobs: Jobs
    objects: Objects | None
    notifier: Notifier
    webhooks: Webhooks
    events: EventIntake
