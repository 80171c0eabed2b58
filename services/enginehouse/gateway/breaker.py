"""Pauses an engine that keeps failing, so that its jobs wait instead of burning their attempts on it."""

import time
from collections import deque
from dataclasses import dataclass, field

WINDOW_SECONDS = 60.0
TRIP_AFTER = 10
"""Outcomes within the window before anything is concluded."""
TRIP_RATIO = 0.5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 300.0
QUARANTINE_AFTER_PROBES = 8
"""Failed probes in a row: somebody has to look."""
QUARANTINE_AFTER_NONSENSE = 20
NONSENSE = frozenset({"MALFORMED_ANSWER", "OUTPUT_TOO_LARGE"})
NEUTRAL = frozenset({"INVALID_INPUT", "CANCELED", "EXPIRED", "ENGINE_REMOVED"})
"""Ends that say nothing about the engine."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What should happen to an engine now."""

    quarantine: bool
    pause_seconds: float
    reason: str


@dataclass(slots=True)
class Breaker:
    """What became of the last attempts at one engine."""

    outcomes: deque[tuple[float, bool]] = field(default_factory=deque)
    nonsense: int = 0
    failed_probes: int = 0

    def succeeded(self) -> None:
        """An attempt came to an answer."""
        self.outcomes.append((time.monotonic(), True))
        self.nonsense = 0
        self.failed_probes = 0

    def failed(self, code: str, *, probing: bool) -> Verdict | None:
        """An attempt failed with `code`; None: go on."""
        now = time.monotonic()
        self.outcomes.append((now, False))
        while self.outcomes and self.outcomes[0][0] < now - WINDOW_SECONDS:
            self.outcomes.popleft()
        self.nonsense += code in NONSENSE
        if self.nonsense >= QUARANTINE_AFTER_NONSENSE:
            return Verdict(True, 0, f"{self.nonsense} answers in a row made no sense; the last: {code}")
        if probing:
            self.failed_probes += 1
            if self.failed_probes >= QUARANTINE_AFTER_PROBES:
                return Verdict(True, 0, f"{self.failed_probes} probes in a row failed; the last: {code}")
            return self._pause(code)
        failures = sum(1 for _, ok in self.outcomes if not ok)
        if len(self.outcomes) >= TRIP_AFTER and failures / len(self.outcomes) >= TRIP_RATIO:
            return self._pause(f"{failures} of the last {len(self.outcomes)} attempts failed; the last: {code}")
        return None

    def _pause(self, reason: str) -> Verdict:
        self.outcomes.clear()
        seconds = min(FIRST_PAUSE_SECONDS * 2**self.failed_probes, LONGEST_PAUSE_SECONDS)
        return Verdict(False, seconds, reason)
