"""Deploy an engine for its owner: refuse what cannot run here, and wait until it answers or cannot work."""

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT, Slot, trial_of
from enginehouse.local.errors import LocalError
from enginehouse.local.health import plain_http
from enginehouse.local.home import LOCAL_TENANT, Home
from enginehouse.local.steps import Steps
from enginehouse.registry.admission import without_effect
from enginehouse.registry.artifacts import Show
from enginehouse.registry.bundle import ENGINE_FILE, read_spec, render_slot, secrets_of_slot
from enginehouse.registry.deploy import SlotBusy, busy_slot, drop_trial_of
from enginehouse.registry.engines import Deployed, Engines, Settings, allowed_by
from enginehouse.registry.secrets import secret_names
from enginehouse.registry.versions import fingerprint, read_versions, spec_of
from enginehouse.registry.what_runs import WhatRuns
from enginehouse.supply.decide import Supply

_LOOK_SECONDS = 0.2
_STOPPED_SECONDS = 120.0
"""The processes of a version have stopped this long after its last job at the latest."""


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
    allowed_by: str = ""
    """What the audit log adds on why the operator's policy allows it."""

    @property
    def bundle(self) -> Path:
        """Return the folder of its bundle."""
        return self.home.engines / self.spec.id

    def warnings(self) -> list[str]:
        """Say which settings of engine.yaml have no effect here."""
        return without_effect(self.spec, in_containers=_in_containers(self.home))

    @property
    def is_update(self) -> bool:
        """Say whether another version serves until this one is fit to."""
        return read_versions(self.bundle).active != self.slot

    @property
    def is_there(self) -> bool:
        """Say whether its version is still the one in its slot."""
        return fingerprint(self.bundle, self.slot) == self.fingerprint

    def missing_secrets(self) -> list[str]:
        """Return the secrets that the version names and that have no value here. A store of its owner's is not asked."""
        file = secrets_of_slot(self.slot)
        store, own = self.bundle / file, render_slot(self.spec, self.slot).get(file)
        if own is None or not store.is_file() or store.read_text() != own:
            return []
        known = secret_names(self.home.path, self.spec.id)
        return [name for name in self.spec.secrets if name not in known]

    def give_up(self) -> bool:
        """Take the version off trial, because it does not work. Return whether another version goes on serving.

        One that only lacks a secret, or is quarantined, stays: it starts as soon as that is mended.
        """
        held = self.home.read_state().get("trials", {}).get(self.spec.id, {}).get("state") == "quarantined"
        if held or self.missing_secrets():
            return False
        versions = read_versions(self.bundle)
        workload = versions.slots.get(self.slot)
        if not self.is_update or not self.is_there or workload is None or not self.home.is_running():
            return False
        return drop_trial_of(self.home.engines, self.spec.id, workload)


def engines_of(home: Home) -> Engines:
    """Return the engines of a home. The tenant that `up` makes may have engines before the first start."""
    always = (LOCAL_TENANT, PLATFORM_TENANT)
    return Engines(home.engines, home.tenants, always, _in_containers(home), supply=Supply(home.supply))


def _in_containers(home: Home) -> bool:
    return WhatRuns.read(home.state_file).in_containers


def deploy(
    home: Home, folder: Path, settings: Settings | None = None, *, promote: bool = True, show: Show = lambda _: None
) -> Deployment:
    """Deploy the engine in `folder`, to be promoted or to stay on trial. `settings` override those of its engine.yaml.

    It waits while the version before the active one still ends jobs, as long as these may take; then it raises SlotBusy.
    `show` is told of this, and what is fetched. Raise InvalidBundle with everything that is wrong with it here.
    """
    while True:
        try:
            return _deployment(home, engines_of(home).deploy(folder, settings, promote=promote, show=show))
        except SlotBusy as error:
            show(f"{error}. Waiting for them.")
            _wait_until_slot_is_free(home.engines / read_spec(folder / ENGINE_FILE).id, error)


def _wait_until_slot_is_free(bundle: Path, error: SlotBusy) -> None:
    """Raise `error` if the jobs of the version in the slot do not end in their time."""
    slot = busy_slot(bundle)
    if slot is None:
        return
    deadline = time.monotonic() + spec_of(bundle, slot).execution_timeout_seconds + _STOPPED_SECONDS
    while busy_slot(bundle):
        if time.monotonic() > deadline:
            raise error
        time.sleep(_LOOK_SECONDS)


def _deployment(home: Home, deployed: Deployed) -> Deployment:
    found = fingerprint(home.engines / deployed.spec.id, deployed.slot)
    return Deployment(home, deployed.spec, deployed.slot, found, deployed.changed, allowed_by(deployed))


def promote(home: Home, engine_id: str) -> Deployment:
    """Give an engine's version on trial the engine's jobs. Raise NoOtherVersion, NotUpYet or NotFit."""
    what_runs = WhatRuns.read(home.state_file if home.is_running() else None)
    return _deployment(home, engines_of(home).promote(engine_id, what_runs))


def roll_back(home: Home, engine_id: str) -> Deployment:
    """Bring an engine's version before the active one back, as a new one comes. Raise NoOtherVersion."""
    return _deployment(home, engines_of(home).roll_back(engine_id))


async def wait_until_gone(home: Home, bundle: Path, steps: Steps) -> None:
    """Wait until nothing is left of an engine or a tenant that is being removed.

    Raise NotWorking if nothing runs any more.
    """
    name = bundle.name
    while _is_there(bundle):
        if not home.is_running():
            raise NotWorking(f"{name} is not gone yet:", "Enginehouse was stopped. 'enginehouse up' goes on.")
        waits_for = home.read_state().get("removing", {}).get(name, "it is noticed")
        steps.update(name, f"removing {name}: {waits_for}")
        await asyncio.sleep(_LOOK_SECONDS)


def _is_there(bundle: Path) -> bool:
    return bundle.exists()


async def wait_until_answers(deployment: Deployment, steps: Steps, timeout_seconds: float | None) -> dict[str, Any]:
    """Wait until the version answers, and return the API's view of the engine. Show `steps` what the wait is for.

    A version that is to stay on trial answers on trial. Raise NotWorking with the reason if it cannot work, or does not
    within the time; None: no limit.
    """
    began = time.monotonic()
    wanted, engine = deployment.fingerprint, deployment.spec.id
    async with plain_http(5) as http:
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
    if entry["state"] == "quarantined":
        raise NotWorking(f"{engine} is quarantined, and starts when it is resumed:", entry["problem"])
    if entry["state"] == "failed" or (entry["state"] == "running" and entry["problem"]):
        raise NotWorking(f"{engine} does not work:", entry["problem"])
    return entry["doing"] or (None if entry["state"] == "running" else entry["problem"] or "loading")


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
