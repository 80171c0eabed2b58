"""Deploy an engine for its owner: refuse what cannot run here, and wait until it answers or cannot work."""

import asyncio
import difflib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.local.engine_keeper import fingerprint
from enginehouse.local.errors import LocalError
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle, local_replicas, read_spec
from enginehouse.registry.deploy import deploy_engine, is_deployed

_LOOK_SECONDS = 0.2


class NotWorking(LocalError):
    """The engine is deployed and does not work."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """An engine that was deployed into a home."""

    home: Home
    spec: EngineSpec
    changed: bool
    """False: it was deployed before, exactly as its folder is now."""

    @property
    def bundle(self) -> Path:
        """Return the folder of its bundle."""
        return self.home.engines / self.spec.id

    def warnings(self) -> list[str]:
        """Say which limits of engine.yaml are not enforced here."""
        found = []
        if self.spec.run and "cpu" in self.spec.resources.model_fields_set:
            found.append("resources.cpu is not enforced: an engine that runs as a process may use every core.")
        if self.spec.run and sys.platform != "linux":
            found.append("resources.memory is not enforced: only Linux limits the memory of a process.")
        return found


def deploy(home: Home, folder: Path) -> Deployment:
    """Deploy the engine in `folder`. Raise InvalidBundle with everything that is wrong with it here."""
    spec = read_spec(folder / ENGINE_FILE)
    if mistakes := mistakes_here(home, spec):
        raise InvalidBundle("\n".join(f"{folder / ENGINE_FILE}: {mistake}" for mistake in mistakes))
    changed = not is_deployed(home.engines, folder, spec)
    if changed:
        deploy_engine(home.engines, folder)
    return Deployment(home, spec, changed)


def mistakes_here(home: Home | None, spec: EngineSpec) -> list[str]:
    """Say what of an engine.yaml cannot be deployed into this home, on this machine. None: any home."""
    return [*(_wrong_tenant(home, spec) if home else []), *_too_much_memory(spec)]


def _wrong_tenant(home: Home, spec: EngineSpec) -> list[str]:
    known = [LOCAL_TENANT, PLATFORM_TENANT, *home.tenant_bundles()]
    if spec.tenant in known:
        return []
    near = difflib.get_close_matches(spec.tenant, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return [f"tenant: there is no tenant {spec.tenant!r} here; {hint}'enginehouse tenant add {spec.tenant}' makes it"]


def _too_much_memory(spec: EngineSpec) -> list[str]:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    replicas = local_replicas(spec)
    if spec.run is None or spec.resources.memory_bytes * replicas <= machine:
        return []
    wanted = spec.resources.memory + (f" for each of {replicas} replicas" if replicas > 1 else "")
    return [f"resources.memory: {wanted} is more than this machine has ({machine // 2**20}Mi)"]


async def wait_until_answers(deployment: Deployment, steps: Steps, timeout_seconds: float | None) -> dict[str, Any]:
    """Wait until the engine answers, and return the API's view of it. Show `steps` what the wait is for.

    Raise NotWorking with the reason if it cannot work, or does not within the time; None: no limit.
    """
    began = time.monotonic()
    wanted, engine = fingerprint(deployment.bundle), deployment.spec.id
    async with httpx2.AsyncClient(timeout=5, trust_env=False) as http:
        while True:
            state = deployment.home.read_state()
            doing = _progress(state, engine, wanted)
            if doing is None:
                view = await _api_view(http, deployment.home, engine)
                if view.get("health") == "healthy" and view.get("card"):
                    return view
                doing = view.get("reason") or "the gateway does not know it yet"
            steps.update(engine, f"{engine}: {doing}")
            if timeout_seconds is not None and time.monotonic() - began > timeout_seconds:
                raise NotWorking(f"{engine} does not answer after {timeout_seconds:g} s.", doing)
            if not deployment.home.is_running():
                raise NotWorking(
                    f"{engine} does not run:", "Enginehouse was stopped. 'enginehouse up' starts it again."
                )
            await asyncio.sleep(_LOOK_SECONDS)


def _progress(state: dict[str, Any], engine: str, wanted: str) -> str | None:
    """Say what a starting engine waits for; None once it runs. Raise NotWorking if it cannot work."""
    entry = state.get("engines", {}).get(engine, {})
    if refused := state.get("refused", {}).get(engine):
        raise NotWorking(f"{engine} is not given to the gateway:", refused)
    if entry.get("deployed") != wanted:
        return "stopping what ran before" if entry.get("state") == "stopping" else "waiting to be noticed"
    if entry["state"] == "failed":
        raise NotWorking(f"{engine} does not work:", entry["problem"])
    return None if entry["state"] == "running" else entry["doing"] or entry["problem"] or "loading"


async def _api_view(http: httpx2.AsyncClient, home: Home, engine: str) -> dict[str, Any]:
    """Return what the API says about the engine; nothing while it does not answer or does not know it."""
    local = home.read_local()
    try:
        answer = await http.get(
            f"{local['url']}/v1/engines/{engine}", headers={"authorization": f"Bearer {local['api_key']}"}
        )
    except httpx2.HTTPError:
        return {}
    view: dict[str, Any] = answer.json() if answer.is_success else {}
    return view
