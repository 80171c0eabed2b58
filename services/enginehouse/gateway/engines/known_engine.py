"""Holds the state of one engine, as this gateway knows it now."""

import time
from dataclasses import dataclass, field

import structlog

from enginehouse.contracts.engine import EngineCard, EngineState, Heartbeat
from enginehouse.contracts.names import PLATFORM_TENANT, is_trial, results_component, tenant_of
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
_SKEW_SECONDS = 1.0
"""Tolerated difference between a runner's clock and this gateway's."""
FIRST_CARD_PAUSE_SECONDS = 1.0
"""Pause until the card of an engine without one is looked for again. Runners announce a new card; looking again finds a
card whose announcement was lost."""


@dataclass
class KnownEngine:
    """An engine, or its version on trial: its state, its card, and the workers that serve it."""

    id: str
    """The engine id; for the version on trial its address, `<engine id>@trial`."""
    state: EngineState = EngineState.ACTIVE
    reason: str | None = None
    """Explains why it gets no jobs."""
    probe_at: float | None = None
    """While it is paused: the moment from which single jobs are handed over as probes."""
    probing_since: float | None = None
    """While it is paused: the moment of its first probe."""
    by_operator: bool = False
    """Whether only an operator may end its state: one has decided it, or misbehaviour was counted."""
    tenant: str = field(init=False)
    """The tenant that owns the engine."""
    is_shared: bool = field(init=False)
    """Whether it works for all tenants."""
    is_trial: bool = field(init=False)
    """Whether it is the version on trial of an engine, which has another entry."""
    breaker: Breaker = field(init=False)
    card: EngineCard | None = None
    schema: InputSchema | None = None
    workers: list[Heartbeat] = field(default_factory=list)
    """Its workers whose heartbeat lived at `workers_read_at`."""
    workers_of_all_slots: list[Heartbeat] = field(default_factory=list)
    """With those of the engine's other version, which may still have jobs in hand that were sent to this one."""
    worker_keys: list[str] = field(default_factory=list)
    """State keys of all heartbeats that were there at `workers_read_at`."""
    workers_read_at: float = 0
    seen_on_trial_at: float = field(default_factory=time.monotonic)
    """Of a version on trial: when a worker last said that it is, on the monotonic clock."""
    absent_polls: int = 0
    """Number of polls in a row in which the gateway's sidecar did not show it."""
    card_pause_seconds: float = FIRST_CARD_PAUSE_SECONDS
    """Pause until its card is looked for again; doubles each time."""
    card_due_at: float = 0
    is_saved: bool = False
    """Whether the ledger has its row, as far as this gateway knows."""
    set_at: float = 0
    """Moment of this gateway's last decision about its state, on the monotonic clock."""
    writes: int = 0
    """Decisions about its state that are being written to the ledger."""

    def __post_init__(self) -> None:
        self.tenant, self.is_trial = tenant_of(self.id), is_trial(self.id)
        self.is_shared = self.tenant == PLATFORM_TENANT
        self.forget_failures()

    def forget_failures(self) -> None:
        """Begin with an empty breaker."""
        self.breaker = Breaker(shared=self.is_shared)

    @property
    def is_absent(self) -> bool:
        """Say whether the gateway's sidecar has not shown it for several polls."""
        return self.absent_polls >= REMOVED_AFTER_POLLS

    def reason_for(self, caller: Caller) -> str | None:
        """Explain why the engine gets no jobs or cannot work on them, as far as `caller` may know; None if it works."""
        return self._reasons(self.reason, caller)

    def why_jobs_wait(self, caller: Caller) -> str | None:
        """Explain why jobs of the engine wait, as far as `caller` may know; None if nothing is wrong."""
        return self._reasons(self.wait_reason, caller)

    def _reasons(self, state_reason: str | None, caller: Caller) -> str | None:
        if self.state == EngineState.QUARANTINED and state_reason:
            return state_reason  # What its workers said last is over: they are stopped.
        reasons = [reason for reason in (state_reason, self._workers_problem(caller)) if reason]
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
        """Say whether it has no workers, or none with a replica, because it needs none at present."""
        return all(worker.asleep for worker in self.workers) and self.card is not None and self.card.idle_at_zero

    @property
    def takes_no_jobs(self) -> bool:
        """Say whether its jobs wait with status_reason engine_paused."""
        return self.state in (EngineState.PAUSED, EngineState.QUARANTINED)

    @property
    def is_probing(self) -> bool:
        """Say whether single jobs are handed over to see if it works again."""
        return self.state == EngineState.PAUSED and self.probe_at is not None and time.time() >= self.probe_at

    @property
    def probes_at_once(self) -> int:
        """Return how many jobs are handed over as probes: on a shared engine two, which are of two tenants if two wait."""
        return 2 if self.is_shared else 1

    @property
    def wait_reason(self) -> str | None:
        """Explain to the owner of a job that waits for it why it gets none; None if it gets its jobs."""
        if not self.takes_no_jobs:
            return None
        until = " until an operator resumes it" if self.by_operator else ""
        return f"{self.id} is {self.state}{until}: {self.reason or 'no reason is known'}"

    def phase_of(self, begun_at: float | None) -> Phase:
        """Return the phase of an attempt that began at that moment and ends now, for the breaker."""
        if self.state != EngineState.PAUSED:
            return Phase.OPEN
        if begun_at is None:
            return Phase.PROBING if self.is_probing else Phase.PAUSED
        if self.probing_since is None or begun_at < self.probing_since - _SKEW_SECONDS:
            return Phase.PAUSED
        return Phase.PROBING if self.is_probing else Phase.PROBED

    def set_state(
        self, state: EngineState, reason: str | None, probe_at: float | None, *, by_operator: bool = False
    ) -> None:
        """Take over a decision about its state."""
        if state != EngineState.PAUSED or probe_at is None:
            self.probing_since = None
        elif self.probing_since is None or probe_at < self.probing_since:
            self.probing_since = probe_at
        self.state, self.reason, self.probe_at, self.by_operator = state, reason, probe_at, by_operator

    @property
    def concurrency(self) -> int:
        """Return how many jobs all its workers can run at once, or the card's number while no worker is seen."""
        if self.workers:
            return sum(worker.concurrency for worker in self.workers)
        return (self.card or DEFAULT_CARD).concurrency

    def set_workers(self, living: list[Heartbeat]) -> None:
        """Take over the heartbeats of all workers of both slots."""
        self.workers_of_all_slots = [
            beat.model_copy(update={"subscribed": beat.on_trial}) if self.is_trial else beat for beat in living
        ]
        self.workers = [beat for beat in self.workers_of_all_slots if beat.on_trial == self.is_trial]
        self.workers_read_at = time.monotonic()

    def set_card(self, card: EngineCard) -> None:
        """Take over a card. An unusable input schema is ignored: the engine checks its inputs itself as well."""
        self.card = card
        try:
            self.schema = InputSchema(card.input_schema) if card.input_schema else None
        except Exception as error:  # Whatever a stranger wrote there, the gateway goes on.
            self.schema = None
            log.warning(
                f"The input schema on the card of {self.id} cannot be used: {str(error)[:300]}",
                action="card_schema_unusable",
                engine_id=self.id,
            )
