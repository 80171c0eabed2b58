"""Finds out why the engine cannot work: from its supervisor if that knows, otherwise from its health checks."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from enginehouse.background import Background
from enginehouse.contracts.problem import PROBLEM_FILE, PROBLEM_MAX_CHARS, problem_text
from enginehouse.runner.health import HealthWatch
from enginehouse.runner.pace import Pace


class ProblemWatch:
    """Keeps `problem` up to date, and calls `on_change` when it changes."""

    def __init__(
        self, health: HealthWatch, supervisor_dir: Path | None, on_change: Callable[[], None], pace: Pace
    ) -> None:
        self._health = health
        self._file = supervisor_dir / PROBLEM_FILE if supervisor_dir else None
        self._on_change = on_change
        self._pace = pace
        self._background = Background()
        self._told_at = 0.0
        """Last moment at which the supervisor said what is wrong. Only from then on can the engine be expected."""
        self.problem: str | None = None
        """Why the engine cannot work, or None if nothing is wrong."""

    @property
    def found(self) -> str | None:
        """What the health checks say now. None as long as the supervisor knows more."""
        return self._health.problem(self._told_at, self._pace.down_told_after_seconds)

    def start(self) -> None:
        """Begin to look."""
        self._background.keep("problem watch", self._run)

    async def stop(self) -> None:
        """Stop looking."""
        await self._background.close()

    async def _run(self) -> None:
        while True:
            self._look()
            await asyncio.sleep(self._pace.problem_poll_seconds)

    def _look(self) -> None:
        told = self._read_told()
        if told is not None:
            self._told_at = time.monotonic()
        problem = told or self.found
        if problem != self.problem:
            self.problem = problem
            self._on_change()

    def _read_told(self) -> str | None:
        if self._file is None:
            return None
        try:
            with self._file.open(errors="replace") as file:
                return problem_text(file.read(2 * PROBLEM_MAX_CHARS)) or None
        except OSError:
            return None
