"""Holds the state of one engine, as this gateway knows it now."""

import time
from dataclasses import dataclass, field

import structlog

from enginehouse.contracts.engine import EngineCard, EngineState, Heartbeat
from enginehouse.contracts.names import EngineId, results_component
from enginehouse.gateway.engines.breaker import Breaker, Phase
from enginehouse.gateway.engines.input_schema import InputSchema
from enginehouse.gateway.tenants.tenants import Caller

log = structlog.get_logger()

DEFAULT_CARD = EngineCard(engine="", slot="a", version="")
"""Stands in for the card of an engine that shows none."""
_PRIVATE_PROBLEM = "It does not work at present; its owner can see why"
"""Stands for a reason that may quote the engine's own output, which is for its owner only."""
REMOVED_AFTER_POLLS = 5
"""An engine that is absent for this number of polls was removed. Fewer polls prove nothing: a sidecar that restarts shows
its components one by one."""
FIRST_CARD_PAUSE_SECONDS = 1.0
"""Pause until the card of an engine without one is looked for again. Runners announce a new card; looking again finds a
card whose announcement was lost."""


@dataclass
class KnownEngine:
    """An engine: its state, its card, and the workers that serve it."""

    id: str
    state: EngineState = EngineState.ACTIVE
    reason: str | None = None
    """Explains why it gets no jobs."""
    probe_at: float | None = None
    """While it is paused: the moment from which single jobs are handed over as probes."""
    breaker: Breaker = field(default_factory=Breaker)
    card: EngineCard | None = None
    schema: InputSchema | None = None
    workers: list[Heartbeat] = field(default_factory=list)
    """Workers whose heartbeat lived at `workers_read_at`."""
    workers_read_at: float = 0
    absent_polls: int = 0
    """Number of polls in a row in which the gateway's sidecar did not show it."""
    card_pause_seconds: float = FIRST_CARD_PAUSE_SECONDS
    """Pause until its card is looked for again; doubles each time."""
    card_due_at: float = 0
    is_saved: bool = False
    """Whether this gateway has written it to the ledger since it started."""
    set_at: float = 0
    """Moment of this gateway's last decision about its state, on the monotonic clock."""

    @property
    def tenant(self) -> str:
        """Return the tenant that owns the engine."""
        return EngineId.parse(self.id).tenant

    @property
    def is_absent(self) -> bool:
        """Say whether the gateway's sidecar has not shown it for several polls."""
        return self.absent_polls >= REMOVED_AFTER_POLLS

    def reason_for(self, caller: Caller) -> str | None:
        """Explain why the engine's jobs wait, as far as `caller` may know; None if nothing is wrong."""
        reasons = [reason for reason in (self.reason, self._workers_problem(caller)) if reason]
        return "\n".join(reasons) or self._delivery_problem

    def _workers_problem(self, caller: Caller) -> str | None:
        problem = next((worker.problem for worker in self.workers if worker.problem), None)
        if problem is None or self.is_absent:
            return None
        return problem if caller.is_admin or caller.name == self.tenant else _PRIVATE_PROBLEM

    @property
    def _delivery_problem(self) -> str | None:
        if self.is_absent:
            return f"The gateway's sidecar could not load {results_component(self.id)}: its log says why"
        if not self.workers and self.workers_read_at and not self.is_asleep:
            return "None of its workers is up"
        # A worker that is not healthy yet receives no jobs for that reason alone.
        healthy = [worker for worker in self.workers if worker.healthy]
        if healthy and not any(worker.subscribed for worker in healthy):
            return "None of its workers receives jobs: the logs of its sidecars say why"
        return None

    @property
    def is_asleep(self) -> bool:
        """Say whether it has no workers because it needs none at present."""
        return not self.workers and self.card is not None and self.card.idle_at_zero

    @property
    def takes_no_jobs(self) -> bool:
        """Say whether its jobs wait with status_reason engine_paused."""
        return self.state in (EngineState.PAUSED, EngineState.QUARANTINED)

    @property
    def is_probing(self) -> bool:
        """Say whether single jobs are handed over to see if it works again."""
        return self.state == EngineState.PAUSED and self.probe_at is not None and time.time() >= self.probe_at

    @property
    def phase(self) -> Phase:
        """Return the phase of an attempt that ends now, for the breaker."""
        if self.state != EngineState.PAUSED:
            return Phase.OPEN
        return Phase.PROBING if self.is_probing else Phase.PAUSED

    @property
    def concurrency(self) -> int:
        """Return how many jobs all its workers can run at once, or the card's number while no worker is seen."""
        if self.workers:
            return sum(worker.concurrency for worker in self.workers)
        return (self.card or DEFAULT_CARD).concurrency

    def set_card(self, card: EngineCard) -> None:
        """Take over a card. An unusable input schema is ignored: the engine checks its inputs itself as well."""
        self.card = card
        try:
            self.schema = InputSchema(card.input_schema) if card.input_schema else None
        except Exception as error:
            self.schema = None
            log.warning(
                f"The input schema on the card of {self.id} cannot be used: {str(error)[:200]}",
                action="card_schema_unusable",
                engine_id=self.id,
            )
