"""Shows engines and tenants as the registry's API answers them."""

from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, Field

from enginehouse.contracts.names import Slot
from enginehouse.contracts.tenant import Limits, Tenant
from enginehouse.registry.bundle import InvalidBundle, Workload, is_retired
from enginehouse.registry.versions import Versions, fingerprint, read_versions
from enginehouse.registry.what_runs import Running, WhatRuns


class VersionView(BaseModel):
    """A version of an engine."""

    version: str
    slot: Slot
    content: str = Field(description="Hash of its files.")
    replicas: int
    state: str | None = Field(
        None, description="`starting`, `running`, `failed`, `stopping`, `quarantined`; null for one that does not run."
    )
    problem: str | None = Field(None, description="Why it does not work.")
    doing: str | None = Field(None, description="What its start waits for.")


class EngineView(BaseModel):
    """An engine that is deployed, with its versions."""

    id: str
    active: VersionView | None = Field(None, description="Gets the engine's jobs.")
    trial: VersionView | None = Field(None, description="Comes up, or waits to be promoted.")
    kept: VersionView | None = Field(None, description="The one before, for a rollback.")
    promotes: bool = Field(False, description="Whether the version on trial takes over once it is fit to.")
    retiring: bool = Field(False, description="Whether it is being removed.")
    problem: str | None = Field(None, description="What is wrong with its bundle.")


class Difference(BaseModel):
    """An object of an engine that is not in the cluster as it is wanted."""

    object: str = Field(description="Its kind, namespace and name.")
    change: Literal["missing", "changed", "left over", "refused"] = Field(
        description="`left over`: it is not wanted any longer. `refused`: the cluster does not take it."
    )
    diff: str | None = Field(
        None, description="From what is in the cluster to what is wanted, line by line; or why it is refused."
    )


class TenantKey(BaseModel):
    """A key of a tenant, without the key itself."""

    id: str
    admin: bool
    created_at: AwareDatetime


class TenantView(BaseModel):
    """A tenant."""

    name: str
    keys: list[TenantKey]
    limits: Limits
    publish_finished: bool
    webhook: str | None
    default_engine: str
    fetch_from: list[str]
    suspended: bool
    removed: bool = Field(description="Whether it is being removed, with its data.")


def engine_view(bundle: Path, what_runs: WhatRuns) -> EngineView:
    """Show an engine that has a bundle. What cannot be read is its problem."""
    try:
        versions = read_versions(bundle)
    except InvalidBundle as error:
        return EngineView(id=bundle.name, problem=str(error), retiring=is_retired(bundle))
    active, trial = versions.active, versions.trial if versions.trial != versions.active else None
    return EngineView(
        id=bundle.name,
        active=_version(bundle, versions, active, what_runs.active(bundle.name)),
        trial=_version(bundle, versions, trial, what_runs.trial(bundle.name)),
        kept=_version(bundle, versions, next((slot for slot in versions.slots if slot not in (active, trial)), None)),
        promotes=versions.promote is not None and versions.promote == trial,
        retiring=is_retired(bundle),
        problem=what_runs.refused(bundle.name),
    )


def _version(bundle: Path, versions: Versions, slot: Slot | None, running: Running | None = None) -> VersionView | None:
    workload: Workload | None = versions.slots.get(slot) if slot else None
    if slot is None or workload is None:
        return None
    view = VersionView(version=workload.version, slot=slot, content=workload.content, replicas=workload.replicas)
    if running is None:
        return view
    if running.fingerprint != fingerprint(bundle, slot):
        return view.model_copy(update={"state": "starting", "doing": "waiting to be noticed"})
    return view.model_copy(update={"state": running.state, "problem": running.problem, "doing": running.doing})


def tenant_view(tenant: Tenant) -> TenantView:
    """Show a tenant without the hashes of its keys."""
    return TenantView.model_validate(tenant.model_dump(exclude={"keys": {"__all__": {"sha256"}}}))
