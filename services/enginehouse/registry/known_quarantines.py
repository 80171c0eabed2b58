"""What is known of the engines that the gateway has quarantined, by whoever runs engines: processes here, or a cluster."""

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from enginehouse.contracts.names import engine_of, is_trial
from enginehouse.homes import read_json
from enginehouse.private_files import write_private
from enginehouse.registry.bundle import WORKLOADS_FILE, InvalidBundle, read_workloads

log = structlog.get_logger(__name__)


class Quarantine(BaseModel):
    """An engine that must not run, or a version on trial that must not be promoted."""

    model_config = ConfigDict(frozen=True)

    reason: str
    by_operator: bool
    held: frozenset[str] | None
    """Contents of the versions that were deployed when it was quarantined. None: they cannot be read, so all are held."""

    def holds(self, content: str) -> bool:
        """Say whether a version must not run. One that was deployed afterwards may, unless an operator decided it."""
        return self.by_operator or self.held is None or content in self.held


@dataclass(slots=True)
class KnownQuarantines:
    """What the gateway said last. It is kept in a file, so that a start runs none of them before the gateway answers."""

    engines: Path
    """Folder of the engines' bundles."""
    file: Path
    found: dict[str, Quarantine] = field(default_factory=dict)
    """By engine id, or by the address of a version on trial."""

    def read(self) -> None:
        """Read what was kept. A file that cannot be used holds nothing."""
        with contextlib.suppress(ValidationError):
            self.found = {name: Quarantine.model_validate(kept) for name, kept in read_json(self.file).items()}

    async def take(self, listed: Iterable[dict[str, Any]]) -> set[str]:
        """Take the gateway's list in place of the one before, and return the addresses whose quarantine has changed."""
        before = self.found
        self.found = {each["engine"]: await asyncio.to_thread(self._quarantine, each) for each in listed}
        changed = {name for name in before | self.found if before.get(name) != self.found.get(name)}
        if changed:
            self._keep()
        return changed

    def _keep(self) -> None:
        content = {name: quarantine.model_dump(mode="json") for name, quarantine in self.found.items()}
        try:
            write_private(self.file, json.dumps(content))
        except OSError as error:  # The disk may be full. That must not keep an engine running.
            log.error(f"The next start may begin with quarantined engines: {error}", action="quarantines_not_kept")

    def _quarantine(self, listed: dict[str, Any]) -> Quarantine:
        address, known = listed["engine"], self.found.get(listed["engine"])
        held = known.held if known and known.held is not None else self._contents(engine_of(address))
        return Quarantine(reason=listed["reason"], by_operator=listed["by_operator"], held=held)

    def _contents(self, engine_id: str) -> frozenset[str] | None:
        try:
            workloads = read_workloads(self.engines / engine_id / WORKLOADS_FILE)
        except (InvalidBundle, OSError):
            return None
        return frozenset(workload.content for workload in workloads.slots.values())


def engines_in(addresses: Iterable[str]) -> set[str]:
    """Return those of the addresses that mean an engine: a version on trial alone goes on running."""
    return {address for address in addresses if not is_trial(address)}
