"""Ends what is left of engines and tenants that are being removed, once nothing needs it any longer.

The bundle is the only memory of a removal, and is deleted last: whatever is killed meanwhile, the next start goes on.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2
import structlog

from enginehouse.contracts.errors import EnginehouseError, Unavailable
from enginehouse.local.home import Home
from enginehouse.sidecar.dapr import DaprSidecar

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a removal asks the gateway and its sidecar."""

    home: Home
    url: str
    http: httpx2.AsyncClient
    sidecar: DaprSidecar

    async def ask(self, path: str) -> dict[str, Any] | None:
        """Return the gateway's answer to the operator of this home; None for 404. Raise Unavailable for any other."""
        key = self.home.read_local().get("api_key", "")
        answer = await self.http.get(f"{self.url}{path}", headers={"authorization": f"Bearer {key}"})
        if answer.status_code == 404:
            return None
        if answer.status_code != 200:
            raise Unavailable(f"the gateway answers {answer.status_code} to GET {path}")
        found: dict[str, Any] = answer.json()
        return found

    async def has_loaded(self, component: str) -> bool:
        """Say whether the gateway's sidecar has this component."""
        return component in (await self.sidecar.metadata()).components


class Removal(Protocol):
    """How things of one kind are removed."""

    def leaving(self) -> Mapping[str, Path]:
        """Return the bundles of those that are being removed, by name."""

    async def go_on(self, name: str, gateway: GatewayState) -> str | None:
        """Take the next step. Return what the removal waits for, or None if nothing is left."""


@dataclass(slots=True)
class Removals:
    """Follows the removals in the home of a running stack."""

    home: Home
    url: str
    sidecar: DaprSidecar
    kinds: Sequence[Removal]
    on_change: Callable[[], None]
    """Called when what a removal waits for has changed."""
    waits_for: dict[str, str] = field(default_factory=dict)
    """What each removal waits for."""

    async def run(self) -> None:
        """Look again and again, for ever. What fails is tried again."""
        await self.sidecar.start()
        try:
            async with httpx2.AsyncClient(timeout=5, trust_env=False) as http:
                gateway = GatewayState(self.home, self.url, http, self.sidecar)
                while True:
                    await self._look(gateway)
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            await self.sidecar.close()

    async def _look(self, gateway: GatewayState) -> None:
        now = {}
        for kind in self.kinds:
            for name in kind.leaving():
                try:
                    why = await kind.go_on(name, gateway)
                except (EnginehouseError, OSError, httpx2.HTTPError) as error:
                    why = str(error) or type(error).__name__
                if why is None:
                    log.info(f"Nothing is left of {name}", action="removed", removed=name)
                else:
                    now[name] = why
        if now != self.waits_for:
            self.waits_for = now
            self.on_change()
