"""How long steps tell whoever waits what they do and how far they are."""

from typing import Protocol


class Steps(Protocol):
    """Lines that change in place; each step has a key of its own."""

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Step `key` is doing `text`; with `total`, it has done `done` of it."""

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Step `key` is over."""


class SilentSteps:
    """For tests, and for whoever reads the logs instead."""

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        """Say nothing."""

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        """Say nothing."""
