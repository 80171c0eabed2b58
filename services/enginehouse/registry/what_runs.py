"""Reads what whoever runs the engines says about them: how each version is, and what it waits for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginehouse.homes import read_json


@dataclass(frozen=True, slots=True)
class Running:
    """How the processes of one version are."""

    state: str
    """`starting`, `running`, `failed`, `stopping`, or `quarantined` if it must not run."""
    problem: str | None
    """Why it does not work."""
    doing: str | None
    """What its start waits for."""
    fingerprint: str | None
    """Of the version that runs, so that it can be told from the one that was deployed."""


@dataclass(frozen=True, slots=True)
class WhatRuns:
    """The state of all engines that run here."""

    content: dict[str, Any]

    @classmethod
    def read(cls, file: Path | None) -> "WhatRuns":
        """Read the state file; without one, or while nothing runs, nothing is known."""
        return cls(read_json(file) if file else {})

    @property
    def is_known(self) -> bool:
        """Say whether anybody runs the engines."""
        return bool(self.content)

    @property
    def in_containers(self) -> bool:
        """Say whether engines run in containers here, or did when they last ran."""
        return self.content.get("containers", False) is True

    def active(self, engine_id: str) -> Running | None:
        """Return how the active version of an engine is."""
        return self._entry("engines", engine_id)

    def trial(self, engine_id: str) -> Running | None:
        """Return how the version on trial is."""
        return self._entry("trials", engine_id)

    def refused(self, engine_id: str) -> str | None:
        """Return why an engine is not given to the gateway, if it is not."""
        reason: str | None = self.content.get("refused", {}).get(engine_id)
        return reason

    def _entry(self, kind: str, engine_id: str) -> Running | None:
        entry = self.content.get(kind, {}).get(engine_id)
        return Running(entry["state"], entry["problem"], entry["doing"], entry["deployed"]) if entry else None
