"""What can be done with the engines of a home. The commands and the registry's API both call this, and nothing else."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginehouse.audit.calls import note_concerned
from enginehouse.contracts.engine import EngineSpec, check_secret_name
from enginehouse.contracts.errors import EngineDoesNotExist, InvalidName, NotAllowedToRun, WrongState
from enginehouse.contracts.names import (
    DEFAULT_ENGINE,
    PLATFORM_TENANT,
    EngineId,
    Slot,
    is_engine_id,
    resolve_candidates,
    tenant_of,
)
from enginehouse.registry.admission import in_a_cluster_only, mistakes_here
from enginehouse.registry.artifacts import Show, forbidden_sources
from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle, adjusted, is_retired, read_spec
from enginehouse.registry.deploy import (
    check_slot,
    check_stays,
    deploy_engine,
    is_deployed,
    promote_engine,
    remove_engine,
    roll_back_engine,
)
from enginehouse.registry.secrets import SecretNotDeclared, remove_secret, secret_names, set_secret
from enginehouse.registry.tenants import InvalidSetting, is_removed, read_tenant, tenant_names
from enginehouse.registry.versions import declared_secrets, read_versions, spec_of
from enginehouse.registry.what_runs import Running, WhatRuns
from enginehouse.supply.decide import Supply

Settings = Mapping[str, Mapping[str, Any]]
"""Parts of engine.yaml with values that override those there, such as `{"scale": {"min": 2}}`."""


class NotFit(WrongState):
    """The version does not work, so it gets no jobs."""

    code = "VERSION_NOT_FIT"
    advice = "Mend it and deploy it again; the version before goes on serving."


class NotUpYet(WrongState):
    """The version still comes up, so it gets no jobs yet."""

    code = "VERSION_NOT_UP"
    retryable = True
    advice = "Wait until it runs, then promote it; the version before goes on serving."


@dataclass(frozen=True, slots=True)
class Deployed:
    """A version of an engine that was deployed."""

    spec: EngineSpec
    slot: Slot
    changed: bool
    """False: it was deployed before, exactly as its folder is now."""
    allowed: str | None = None
    """Why the operator's policy allows it. None: there is no policy."""


def allowed_by(deployed: Deployed) -> str:
    """Return what the audit log adds on why the operator's policy allows a version; nothing without a policy."""
    return f"; {deployed.allowed}" if deployed.allowed else ""


@dataclass(frozen=True, slots=True)
class Engines:
    """The engines of one home."""

    bundles: Path
    """Folder of the engines' bundles."""
    tenants: Path
    """Folder of the tenants' bundles."""
    always: tuple[str, ...] = ()
    """Tenants whose engines may be deployed although they have no bundle yet."""
    in_containers: bool = False
    """Whether engines run in containers here."""
    in_cluster: bool = False
    """Whether engines run in a Kubernetes cluster: from images by digest, and on other machines than this one."""
    supply: Supply = field(default_factory=lambda: Supply(None))
    """What the operator allows to run."""

    def all_bundles(self) -> list[Path]:
        """Return the bundles of all engines, by id. Ignore everything that is not an engine's folder."""
        return [path for path in sorted(self.bundles.iterdir()) if path.is_dir() and is_engine_id(path.name)]

    def bundle_of(self, engine_id: str) -> Path:
        """Return the bundle of an engine. Raise InvalidName, or EngineDoesNotExist if it is not deployed."""
        bundle = self.bundles / str(EngineId.parse(engine_id))
        if not bundle.is_dir():
            raise EngineDoesNotExist(f"{engine_id} is not deployed here")
        return bundle

    def mistakes(self, spec: EngineSpec) -> list[str]:
        """Say what of an engine.yaml cannot be deployed here."""
        leaving = spec.tenant if is_removed(self.tenants, spec.tenant) else None
        known = [name for name in (*self.always, *tenant_names(self.tenants)) if name != leaving]
        owner = read_tenant(self.tenants, spec.tenant) if spec.fetch else None
        return [
            *mistakes_here(spec, known, in_containers=self.in_containers, in_cluster=self.in_cluster),
            *([] if self.in_cluster else in_a_cluster_only(spec)),
            *forbidden_sources(spec, owner.fetch_from if owner else ()),
        ]

    def deploy(
        self, folder: Path, settings: Settings | None = None, *, promote: bool = True, show: Show = lambda _: None
    ) -> Deployed:
        """Deploy the engine in `folder`, to be promoted or to stay on trial. `settings` override its engine.yaml.

        `show` is told what is fetched. Raise InvalidBundle with everything that is wrong with it here, before anything
        is written, NotAllowedToRun, or SlotBusy while the version before the active one still ends jobs.
        """
        spec = adjusted(read_spec(folder / ENGINE_FILE), settings or {})
        self._check(spec, folder)
        allowed = self._ask_policy(spec)
        check_stays(self.bundles / spec.id)
        if is_deployed(self.bundles, folder, spec):
            return self._deployed(spec, read_versions(self.bundles / spec.id).wanted, allowed, changed=False)
        check_slot(self.bundles / spec.id)  # Before anything is fetched.
        # Checked once more at the end, because its tenant may have been removed meanwhile.
        deploy_engine(self.bundles, folder, spec, promote=promote, show=show, check=lambda: self._check(spec, folder))
        versions = read_versions(self.bundles / spec.id)
        return self._deployed(spec, versions.trial or versions.active, allowed, changed=True)

    def promote(self, engine_id: str, what_runs: WhatRuns) -> Deployed:
        """Give an engine's version on trial the engine's jobs. Raise NoOtherVersion, NotUpYet or NotFit."""
        bundle = self.bundle_of(engine_id)
        versions = read_versions(bundle)
        judged = versions.slots.get(versions.trial) if versions.trial else None
        if judged and what_runs.is_known:
            _check_fit(engine_id, what_runs.trial(engine_id))
        slot = promote_engine(self.bundles, engine_id, judged)
        return self._deployed(spec_of(bundle, slot), slot, None, changed=True)

    def roll_back(self, engine_id: str) -> Deployed:
        """Bring an engine's version before the active one back, as a new one comes.

        Raise NoOtherVersion, or NotAllowedToRun if the operator's policy refuses it by now.
        """
        bundle = self.bundle_of(engine_id)
        versions = read_versions(bundle)
        allowed = self._ask_policy(spec_of(bundle, versions.idle)) if versions.idle in versions.slots else None
        slot = roll_back_engine(self.bundles, engine_id)
        return self._deployed(spec_of(bundle, slot), slot, allowed, changed=True)

    def remove(self, engine_id: str) -> None:
        """Begin to remove an engine; once more changes nothing. Raise EngineDoesNotExist."""
        self.bundle_of(engine_id)
        remove_engine(self.bundles, engine_id)

    def secret_names(self, engine_id: str) -> list[str]:
        """Return the names of an engine's secrets that have a value. Raise EngineDoesNotExist."""
        return secret_names(self._home_of(engine_id), engine_id)

    def check_secret(self, engine_id: str, name: str) -> None:
        """Raise EngineDoesNotExist, InvalidName, or SecretNotDeclared if no version of the engine names this secret."""
        declared = declared_secrets(self.bundle_of(engine_id))
        if check_secret_name(name) in declared:
            return
        near = difflib.get_close_matches(name, declared, 1)
        known = f"did you mean {near[0]}?" if near else f"it names {', '.join(declared) or 'none'}"
        raise SecretNotDeclared(f"The engine.yaml of {engine_id} does not name the secret {name}; {known}")

    def set_secret(self, engine_id: str, name: str, value: str) -> bool:
        """Set the value of a secret that the engine names, and return whether it is another one than before."""
        self.check_secret(engine_id, name)
        return set_secret(self._home_of(engine_id), engine_id, name, value)

    def remove_secret(self, engine_id: str, name: str) -> None:
        """Forget the value of a secret. Raise EngineDoesNotExist or SecretDoesNotExist."""
        remove_secret(self._home_of(engine_id), engine_id, name)

    def check_default(self, tenant: str, name: str) -> None:
        """Raise InvalidSetting unless `name`, as a tenant's default engine, leads to an engine that is here."""
        try:
            candidates = [
                str(one) for one in resolve_candidates(name, tenant) if one.tenant in (tenant, PLATFORM_TENANT)
            ]
        except InvalidName as error:
            raise InvalidSetting(f"default_engine: {error}") from None
        bundles = [self.bundles / candidate for candidate in candidates]
        if name == DEFAULT_ENGINE or any(bundle.is_dir() and not is_retired(bundle) for bundle in bundles):
            return
        may_use = [bundle.name for bundle in self.all_bundles() if tenant_of(bundle.name) in (tenant, PLATFORM_TENANT)]
        raise InvalidSetting(
            f"default_engine: {tenant} may use no engine {name!r}; there are {', '.join(may_use) or 'none'}. Deploy it first"
        )

    def _home_of(self, engine_id: str) -> Path:
        return self.bundle_of(engine_id).parent.parent

    def _check(self, spec: EngineSpec, folder: Path) -> None:
        if mistakes := self.mistakes(spec):
            raise InvalidBundle("\n".join(f"{folder / ENGINE_FILE}: {mistake}" for mistake in mistakes))

    def _ask_policy(self, spec: EngineSpec) -> str | None:
        """Say why the operator's policy allows a version; None without a policy. Raise NotAllowedToRun."""
        try:
            return self.supply.check(spec, from_image=self.in_containers or self.in_cluster)
        except NotAllowedToRun as error:
            note_concerned(engine=spec.id, detail=f"version {spec.version}: {error}")
            raise

    @staticmethod
    def _deployed(spec: EngineSpec, slot: Slot | None, allowed: str | None, *, changed: bool) -> Deployed:
        assert slot, "an engine that is deployed has a version"
        return Deployed(spec, slot, changed, allowed)


def _check_fit(engine_id: str, running: Running | None) -> None:
    if running is not None and running.state == "running":
        return
    said = f"{engine_id}@trial is not promoted"
    if running is not None and running.state in ("failed", "quarantined"):
        raise NotFit(f"{said}: {running.problem}")
    why = running and (running.doing or running.problem)
    raise NotUpYet(f"{said}: it does not run yet" + (f", and waits: {why}" if why else ""))
