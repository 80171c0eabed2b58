"""Decides, from how the last attempts ended, whether an engine is paused or quarantined.

The jobs of an engine that keeps failing wait then, instead of burning their attempts on it.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from enginehouse.contracts.job import JobErrorCode

OBSERVED_SECONDS = 60.0
TRIP_AFTER = 10
"""Outcomes that the window must hold before the breaker can trip."""
TRIP_RATIO = 0.5
OUTCOMES_KEPT = 500
"""Most outcomes that are remembered. A fast engine has more of them in OBSERVED_SECONDS."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0
QUARANTINE_AFTER_PROBES = 8
"""After this number of failed probes in a row, the engine waits for an operator."""
QUARANTINE_AFTER_NONSENSE = 20
"""After this number of senseless answers, with no success between them, the engine waits for an operator."""
NONSENSE = frozenset({JobErrorCode.MALFORMED_ANSWER, JobErrorCode.OUTPUT_TOO_LARGE})
NEUTRAL = frozenset(
    {JobErrorCode.INVALID_INPUT, JobErrorCode.CANCELED, JobErrorCode.EXPIRED, JobErrorCode.ENGINE_REMOVED}
)
"""Error codes that say nothing about the engine."""
LATE = JobErrorCode.PREDICT_TIMEOUT
"""Counts against the engine only if the job gave it the time that its card asks for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision to give an engine no jobs: for `pause_seconds`, or until an operator resumes it (`quarantine`)."""

    quarantine: bool
    pause_seconds: float
    reason: str


class Phase(Enum):
    """Tells whether an engine was getting jobs when an attempt ended."""

    OPEN = "it gets its jobs"
    PAUSED = "it gets no jobs: this attempt was handed over before the pause"
    PROBING = "it gets one job at a time, to see whether it works again"


@dataclass(slots=True)
class Breaker:
    """Remembers how the last attempts at one engine ended, and says when to pause or quarantine it."""

    clock: Callable[[], float] = time.monotonic

    outcomes: deque[tuple[float, bool]] = field(default_factory=lambda: deque(maxlen=OUTCOMES_KEPT))
    nonsense: int = 0
    failed_probes: int = 0

    def succeeded(self, phase: Phase) -> bool:
        """Note a successful attempt; return whether it ends a pause."""
        self.nonsense = 0
        if phase is Phase.PAUSED:
            return False
        self._note(True)
        self.failed_probes = 0
        return phase is Phase.PROBING

    def failed(self, code: str, phase: Phase) -> Verdict | None:
        """Note an attempt that failed with `code`; return the verdict about the engine, or None if nothing changes."""
        self.nonsense += code in NONSENSE
        if self.nonsense >= QUARANTINE_AFTER_NONSENSE:
            return Verdict(True, 0, f"{self.nonsense} answers in a row made no sense; the last: {code}")
        if phase is Phase.PAUSED:
            return None
        if phase is Phase.PROBING:
            self.failed_probes += 1
            if self.failed_probes >= QUARANTINE_AFTER_PROBES:
                return Verdict(True, 0, f"{self.failed_probes} probes in a row failed; the last: {code}")
            return self._pause(f"{self.failed_probes} probes in a row failed; the last: {code}")
        self._note(False)
        failures = sum(1 for _, ok in self.outcomes if not ok)
        if len(self.outcomes) >= TRIP_AFTER and failures / len(self.outcomes) >= TRIP_RATIO:
            return self._pause(f"{failures} of the last {len(self.outcomes)} attempts failed; the last: {code}")
        return None

    def _note(self, ok: bool) -> None:
        now = self.clock()
        self.outcomes.append((now, ok))
        while self.outcomes[0][0] < now - OBSERVED_SECONDS:
            self.outcomes.popleft()

    def _pause(self, reason: str) -> Verdict:
        self.outcomes.clear()
        seconds = min(FIRST_PAUSE_SECONDS * 2**self.failed_probes, LONGEST_PAUSE_SECONDS)
        return Verdict(False, seconds, reason)
