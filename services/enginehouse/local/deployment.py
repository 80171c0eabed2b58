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
from enginehouse.contracts.names import PLATFORM_TENANT, Slot, trial_of
from enginehouse.local.engine_keeper import fingerprint
from enginehouse.local.errors import LocalError
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle, local_replicas, read_spec
from enginehouse.registry.deploy import (
    deploy_engine,
    drop_trial_of,
    is_deployed,
    promote_engine,
    roll_back_engine,
)
from enginehouse.registry.versions import read_versions, spec_of

_LOOK_SECONDS = 0.2


class NotWorking(LocalError):
    """The engine is deployed and does not work."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """An engine that was deployed into a home."""

    home: Home
    spec: EngineSpec
    slot: Slot
    fingerprint: str
    """Hash of the version in the slot: another one has another."""
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

    @property
    def is_update(self) -> bool:
        """Say whether another version serves until this one is fit to."""
        return read_versions(self.bundle).active != self.slot

    @property
    def is_there(self) -> bool:
        """Say whether its version is still the one in its slot."""
        return fingerprint(self.bundle, self.slot) == self.fingerprint

    def give_up(self) -> bool:
        """Take the version off trial, because it does not work. Return whether another version goes on serving."""
        versions = read_versions(self.bundle)
        workload = versions.slots.get(self.slot)
        if not self.is_update or not self.is_there or workload is None or not self.home.is_running():
            return False
        return drop_trial_of(self.home.engines, self.spec.id, workload)


def deploy(home: Home, folder: Path, *, promote: bool = True) -> Deployment:
    """Deploy the engine in `folder`, to be promoted or to stay on trial.

    Raise InvalidBundle with everything that is wrong with it here.
    """
    spec = read_spec(folder / ENGINE_FILE)
    if mistakes := mistakes_here(home, spec):
        raise InvalidBundle("\n".join(f"{folder / ENGINE_FILE}: {mistake}" for mistake in mistakes))
    if is_deployed(home.engines, folder, spec):
        return _deployment(home, spec, read_versions(home.engines / spec.id).wanted, changed=False)
    spec = deploy_engine(home.engines, folder, promote=promote)
    versions = read_versions(home.engines / spec.id)
    return _deployment(home, spec, versions.trial or versions.active, changed=True)


def _deployment(home: Home, spec: EngineSpec, slot: Slot | None, *, changed: bool) -> Deployment:
    assert slot, "an engine that is deployed has a version"
    return Deployment(home, spec, slot, fingerprint(home.engines / spec.id, slot), changed)


def promote(home: Home, engine_id: str) -> Deployment:
    """Give an engine's version on trial the engine's jobs. Raise NoOtherVersion, or NotWorking if it is not fit to."""
    bundle = home.engines / engine_id
    trial = read_versions(bundle).trial
    entry = home.read_state().get("trials", {}).get(engine_id)
    if trial and home.is_running() and (entry is None or entry["state"] != "running"):
        raise NotWorking(f"{engine_id}@trial is not promoted:", (entry and entry["problem"]) or "It does not run yet.")
    slot = promote_engine(home.engines, engine_id, read_versions(bundle).slots.get(trial) if trial else None)
    return _deployment(home, spec_of(bundle, slot), slot, changed=True)


def roll_back(home: Home, engine_id: str) -> Deployment:
    """Bring an engine's version before the active one back, as a new one comes. Raise NoOtherVersion."""
    slot = roll_back_engine(home.engines, engine_id)
    return _deployment(home, spec_of(home.engines / engine_id, slot), slot, changed=True)


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
    """Wait until the version answers, and return the API's view of the engine. Show `steps` what the wait is for.

    A version that is to stay on trial answers on trial. Raise NotWorking with the reason if it cannot work, or does not
    within the time; None: no limit.
    """
    began = time.monotonic()
    wanted, engine = deployment.fingerprint, deployment.spec.id
    async with httpx2.AsyncClient(timeout=5, trust_env=False) as http:
        while True:
            if not deployment.is_there:
                raise NotWorking(
                    f"{engine} {deployment.spec.version} is not tried any longer:", "Another was deployed."
                )
            versions = read_versions(deployment.bundle)
            on_trial = versions.trial == deployment.slot
            state = deployment.home.read_state()
            doing = _progress(state, engine, wanted, on_trial=on_trial)
            if doing is None:
                stays_on_trial = on_trial and versions.promote is None
                view = await _api_view(http, deployment.home, trial_of(engine) if stays_on_trial else engine)
                if _shows(view, deployment):
                    return view
                doing = (
                    "taking over"
                    if on_trial and not stays_on_trial
                    else view.get("reason") or "the gateway does not know it yet"
                )
            steps.update(engine, f"{engine}: {doing}")
            if timeout_seconds is not None and time.monotonic() - began > timeout_seconds:
                raise NotWorking(f"{engine} does not answer after {timeout_seconds:g} s.", doing)
            if not deployment.home.is_running():
                raise NotWorking(
                    f"{engine} does not run:", "Enginehouse was stopped. 'enginehouse up' starts it again."
                )
            await asyncio.sleep(_LOOK_SECONDS)


def _progress(state: dict[str, Any], engine: str, wanted: str, *, on_trial: bool) -> str | None:
    """Say what a starting version waits for; None once it runs. Raise NotWorking if it cannot work."""
    entry = state.get("trials" if on_trial else "engines", {}).get(engine, {})
    if refused := state.get("refused", {}).get(engine):
        raise NotWorking(f"{engine} is not given to the gateway:", refused)
    if entry.get("deployed") != wanted:
        return "stopping what ran before" if entry.get("state") == "stopping" else "waiting to be noticed"
    if entry["state"] == "failed" or (on_trial and entry["state"] == "running" and entry["problem"]):
        raise NotWorking(f"{engine} does not work:", entry["problem"])
    return None if entry["state"] == "running" else entry["doing"] or entry["problem"] or "loading"


def _shows(view: dict[str, Any], deployment: Deployment) -> bool:
    """Say whether the API's view of an engine shows that this version answers."""
    card = view.get("card") or {}
    shown = (card.get("slot"), card.get("version"))
    return view.get("health") == "healthy" and shown == (deployment.slot, deployment.spec.version)


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
