"""Decides, from how the last jobs ended, whether an engine is paused or quarantined.

The jobs of an engine that keeps failing wait then, instead of burning their attempts on it. Jobs are counted, however many
attempts each had, and of one tenant at a shared engine at most half as many as it takes: inputs that fail while others
succeed, or the inputs of one tenant alone, must not stop an engine for others.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from enginehouse.contracts.job import JobErrorCode

OBSERVED_SECONDS = 60.0
TRIP_AFTER = 10
"""After this number of jobs in OBSERVED_SECONDS that failed with no success between them, the engine is paused."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0
QUARANTINE_AFTER_PROBES = 8
"""After this number of failed probes in a row, the engine waits until it is resumed."""
QUARANTINE_AFTER_NONSENSE = 20
"""After this number of senseless answers, with no success between them, the engine waits until it is resumed."""
NONSENSE = frozenset({JobErrorCode.MALFORMED_ANSWER, JobErrorCode.OUTPUT_TOO_LARGE})
NEUTRAL = frozenset(
    {
        JobErrorCode.INVALID_INPUT,
        JobErrorCode.CANCELED,
        JobErrorCode.EXPIRED,
        JobErrorCode.ENGINE_REMOVED,
        JobErrorCode.UNPARSABLE,
    }
)
"""Error codes that say nothing about the engine."""
LATE = JobErrorCode.PREDICT_TIMEOUT
"""Counts against the engine only if the job gave it the time that its card asks for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision to give an engine no jobs: for `pause_seconds`, or until it is resumed (`quarantine`)."""

    quarantine: bool
    pause_seconds: float
    reason: str


class Phase(Enum):
    """Tells whether an engine was getting jobs when an attempt began."""

    OPEN = "it gets its jobs"
    PAUSED = "it gets no jobs: this attempt began before the pause"
    PROBING = "it gets single jobs, to see whether it works again"
    PROBED = "the same, but another probe of this time has failed already"


class FailedJobs:
    """The jobs that failed with no success between them."""

    def __init__(self, enough: int, tenant_max: int) -> None:
        """Count at most `tenant_max` jobs of one tenant. `enough` jobs are a verdict."""
        self._enough = enough
        self._tenant_max = tenant_max
        self._jobs: dict[str, tuple[str, float]] = {}
        """Tenant and moment of each job, the last one at the end."""

    def __len__(self) -> int:
        return len(self._jobs)

    def __str__(self) -> str:
        tenants = len({tenant for tenant, _ in self._jobs.values()})
        return f"{len(self)} jobs" + (f" of {tenants} tenants" if tenants > 1 else "")

    @property
    def are_enough(self) -> bool:
        """Say whether so many jobs failed that the engine is the cause."""
        return len(self) >= self._enough

    def add(self, job_id: str, tenant: str, now: float) -> None:
        """Count a job. Another failure of a job that is counted already makes it only younger."""
        self._jobs.pop(job_id, None)
        of_tenant = [known for known, (owner, _) in self._jobs.items() if owner == tenant]
        if len(of_tenant) >= self._tenant_max:
            del self._jobs[of_tenant[0]]
        self._jobs[job_id] = (tenant, now)

    def forget(self, before: float) -> None:
        """Forget the jobs that failed before that moment."""
        for job_id in [job_id for job_id, (_, moment) in self._jobs.items() if moment < before]:
            del self._jobs[job_id]

    def clear(self) -> None:
        """Forget all jobs, because one succeeded."""
        self._jobs.clear()


@dataclass(slots=True)
class Breaker:
    """Remembers which of an engine's jobs failed in a row, and says when to pause or quarantine the engine."""

    shared: bool = False
    """Whether the engine works for many tenants."""
    clock: Callable[[], float] = time.monotonic

    failed_jobs: FailedJobs = field(init=False)
    nonsense: FailedJobs = field(init=False)
    """Jobs that got a senseless answer, whenever they were handed over."""
    probes: FailedJobs = field(init=False)
    failed_probes: int = 0
    """Times in a row at which a probe failed. Each makes the pause twice as long."""

    def __post_init__(self) -> None:
        self.failed_jobs = self._counting(TRIP_AFTER)
        self.nonsense = self._counting(QUARANTINE_AFTER_NONSENSE)
        self.probes = self._counting(QUARANTINE_AFTER_PROBES)

    def _counting(self, enough: int) -> FailedJobs:
        return FailedJobs(enough, enough // 2 if self.shared else enough)

    def succeeded(self, phase: Phase) -> bool:
        """Note a successful attempt; return whether it ends a pause."""
        self.nonsense.clear()
        if phase is Phase.PAUSED:
            return False
        self.failed_jobs.clear()
        self.probes.clear()
        self.failed_probes = 0
        return phase is not Phase.OPEN

    def failed(self, job_id: str, tenant: str, code: str, phase: Phase) -> Verdict | None:
        """Note that an attempt at a job failed with `code`; return the verdict about the engine, or None if nothing changes."""
        now = self.clock()
        if code in NONSENSE:
            self.nonsense.add(job_id, tenant, now)
            if self.nonsense.are_enough:
                return Verdict(True, 0, f"the answers to {self.nonsense} in a row made no sense; the last: {code}")
        match phase:
            case Phase.PAUSED:
                return None
            case Phase.OPEN:
                return self._failed_open(job_id, tenant, code, now)
            case Phase.PROBED:
                self.probes.add(job_id, tenant, now)
                return None
            case Phase.PROBING:
                return self._failed_probe(job_id, tenant, code, now)

    def _failed_open(self, job_id: str, tenant: str, code: str, now: float) -> Verdict | None:
        self.failed_jobs.add(job_id, tenant, now)
        self.failed_jobs.forget(now - OBSERVED_SECONDS)
        if not self.failed_jobs.are_enough:
            return None
        reason = f"{self.failed_jobs} in a row failed; the last: {code}"
        self.failed_jobs.clear()
        return self._pause(reason)

    def _failed_probe(self, job_id: str, tenant: str, code: str, now: float) -> Verdict:
        self.probes.add(job_id, tenant, now)
        self.failed_probes += 1
        many = f"{self.failed_probes} probes in a row failed" if self.failed_probes > 1 else "a probe failed again"
        reason = f"{many}; the last: {code}"
        if self.failed_probes >= QUARANTINE_AFTER_PROBES and self.probes.are_enough:
            return Verdict(True, 0, reason)
        return self._pause(reason)

    def _pause(self, reason: str) -> Verdict:
        return Verdict(False, min(FIRST_PAUSE_SECONDS * 2**self.failed_probes, LONGEST_PAUSE_SECONDS), reason)
