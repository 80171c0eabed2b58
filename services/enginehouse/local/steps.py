"""Report the progress of the steps of a start."""

from collections.abc import Callable
from typing import Protocol


class Steps(Protocol):
    """Shows steps as lines that change in place. Each step has a key of its own."""

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Show that step `key` is doing `text`. With `total`: it has done `done` of `total`."""

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Show that step `key` is over."""


class SilentSteps:
    """Shows nothing. For tests, and for users who read the logs instead."""

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Show nothing."""

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Show nothing."""


def tools_lines(steps: Steps, key: str, what: str) -> Callable[[str], None]:
    """Return what shows each line that a tool prints as the progress of step `key`, after `what` it works on."""

    def show(line: str) -> None:
        if line.strip():
            steps.update(key, f"{what}: {line.strip()[:100]}")

    return show
