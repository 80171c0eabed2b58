"""Keeps a sample of the jobs that ended, by which a store that was restored from a backup is recognised."""

import time
from collections import defaultdict

_SAMPLES_MAX = 100


class EndSamples:
    """Ids of some ended jobs of each engine: a store that loses one has lost all records written since."""

    def __init__(self, every_seconds: float) -> None:
        """Take one job of an engine in `every_seconds`."""
        self._every_seconds = every_seconds
        self._taken_at: dict[str, float] = {}
        self.of_engine: dict[str, list[str]] = defaultdict(list)

    def add(self, engine_id: str, job_id: str) -> None:
        """Consider a job whose final record has just been seen."""
        now, samples = time.monotonic(), self.of_engine[engine_id]
        if now - self._taken_at.get(engine_id, 0) >= self._every_seconds and len(samples) < _SAMPLES_MAX:
            self._taken_at[engine_id] = now
            samples.append(job_id)
