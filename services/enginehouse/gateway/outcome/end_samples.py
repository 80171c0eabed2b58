"""Keeps a sample of ended jobs. Their records show whether a store was restored from a backup."""

import time
from collections import defaultdict

_SAMPLES_MAX = 100


class EndSamples:
    """Holds ids of some ended jobs of each engine: a store that lost one has lost all records written after it."""

    def __init__(self, every_seconds: float) -> None:
        """Take at most one job of each engine in `every_seconds`."""
        self._every_seconds = every_seconds
        self._taken_at: dict[str, float] = {}
        self.of_engine: dict[str, list[str]] = defaultdict(list)

    def add(self, engine_id: str, job_id: str) -> None:
        """Take a job whose final record has just been mirrored into the sample, if it is time for one."""
        now, samples = time.monotonic(), self.of_engine[engine_id]
        if now - self._taken_at.get(engine_id, 0) >= self._every_seconds and len(samples) < _SAMPLES_MAX:
            self._taken_at[engine_id] = now
            samples.append(job_id)
