"""Ends what is left of engines and tenants that are being removed, once nothing needs it any longer.

The bundle is the only memory of a removal, and is deleted last: whatever is killed meanwhile, the next start goes on.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx2
import structlog

from enginehouse.contracts.errors import EnginehouseError, Unavailable
from enginehouse.local.health import plain_http
from enginehouse.local.home import Home
from enginehouse.sidecar.dapr import DaprSidecar

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
_LET_GO_SECONDS = 4.0
"""More than a sidecar usually takes to see that a file is gone, and to close its connections."""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What a removal asks the gateway and its sidecar."""

    home: Home
    url: str
    http: httpx2.AsyncClient
    sidecar: DaprSidecar
    waits_since: dict[str, float] = field(default_factory=dict)
    """When it was first, or last, seen that the sidecar still has a component whose file is gone."""

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

    async def has_let_go(self, component: str) -> bool:
        """Say whether the gateway's sidecar has no component of this name, whose file is gone.

        A sidecar may load a component whose file went while it was read, and compares what it has with the files once a
        minute (daprd 1.18), or less often (`compared_every`). So it is made to compare them sooner.
        """
        if component not in (await self.sidecar.metadata()).components:
            self.waits_since.pop(component, None)
            return True
        now = time.monotonic()
        if now - self.waits_since.setdefault(component, now) >= _LET_GO_SECONDS:
            self.waits_since[component] = now
            touched = self.home.gateway_parts / "look-again"
            touched.touch()
            touched.unlink()
        return False


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
            async with plain_http(5) as http:
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
