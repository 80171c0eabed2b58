"""What a running gateway consists of; wired in `app.wire`."""

from dataclasses import dataclass

from enginehouse.gateway.completions import Completions
from enginehouse.gateway.dispatch import Dispatcher
from enginehouse.gateway.engines import Engines
from enginehouse.gateway.events import EventIntake
from enginehouse.gateway.jobs import Jobs
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.notify import Notifier
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.gateway.states import States
from enginehouse.gateway.sweep import Sweep
from enginehouse.gateway.tenants import Tenants
from enginehouse.gateway.webhooks import Webhooks
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
