"""Identifies callers by the tenants' files and the hashes of API keys in them."""

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import watchfiles
import yaml

from enginehouse.contracts.errors import Unauthenticated
from enginehouse.contracts.tenant import ApiKey, Tenant, hash_key, key_in

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller."""

    tenant: Tenant
    key: ApiKey | None

    @property
    def name(self) -> str:
        """Return the tenant's name."""
        return self.tenant.name

    @property
    def key_id(self) -> str | None:
        """Return the first characters of the key, if the caller has shown one."""
        return self.key.id if self.key else None

    @property
    def is_admin(self) -> bool:
        """Say whether the key is an administrator's."""
        return self.key is not None and self.key.admin


class Tenants:
    """Holds the tenants of a folder, which is read again whenever it changes.

    It may be a mounted ConfigMap or Secret, which changes as a whole: by a symbolic link that is replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._callers: dict[str, Caller] = {}
        self._tenants: dict[str, Tenant] = {}
        self._weights: dict[str, float] = {}
        self.removed: frozenset[str] = frozenset()
        """Tenants whose data is to be deleted. They have no keys, and are no tenants in every other respect."""
        self.load()

    def load(self) -> None:
        """Read all files. A broken file is reported, and its tenant stays as it was."""
        callers: dict[str, Caller] = {}
        tenants: dict[str, Tenant] = {}
        removed = set[str]()
        for name, path in sorted(self._files().items()):
            try:
                tenant = _read(name, path)
            except Exception as error:
                # Catch any error: one tenant's broken file must not stop the others from being read.
                log.error(
                    f"The file of tenant {name} cannot be read and is ignored: {type(error).__name__}",
                    action="tenant_unreadable",
                    tenant=name,
                )
                callers |= {h: c for h, c in self._callers.items() if c.name == name}
                tenants |= {kept: t for kept, t in self._tenants.items() if kept == name}
                continue
            if tenant.removed:
                removed.add(tenant.name)
                continue
            tenants[tenant.name] = tenant
            callers |= {key.sha256: Caller(tenant, key) for key in tenant.keys}
        self._callers, self._tenants, self.removed = callers, tenants, frozenset(removed)
        self._weights = {name: tenant.limits.weight for name, tenant in tenants.items() if tenant.limits.weight != 1}

    def _files(self) -> dict[str, Path]:
        """Return the tenants' files by the tenants' names: <tenant>/tenant.yaml, and <tenant>.yaml where there is no such folder.

        In a mounted ConfigMap or Secret, names that begin with a dot are its own: they hold each file a second time.
        """
        found = {path.stem: path for path in sorted(self._folder.glob("*.yaml"))}
        found |= {path.parent.name: path for path in sorted(self._folder.glob("*/tenant.yaml"))}
        return {name: path for name, path in found.items() if not name.startswith(".")}

    def weights(self) -> Mapping[str, float]:
        """Return the weights of the tenants that have another one than 1."""
        return self._weights

    def get(self, name: str) -> Tenant | None:
        """Return a tenant by its name, if there is one."""
        return self._tenants.get(name)

    def may_exist(self, name: str) -> bool:
        """Say whether there is, or soon may be, a tenant of this name whose file could not be read.

        There is none if the folder of all tenants can be listed and has no folder or file of that name. A file in a
        folder that is being written anew is gone for a moment; its folder is not, and neither is a file of a ConfigMap.
        """
        try:
            return not {name, f"{name}.yaml"}.isdisjoint(os.listdir(self._folder))
        except OSError:
            return True

    def as_caller(self, name: str) -> Caller | None:
        """Return a tenant as a caller without a key, for events from its own topic: the topic proves the sender."""
        tenant = self._tenants.get(name)
        return Caller(tenant, None) if tenant else None

    async def watch(self, stop: asyncio.Event) -> None:
        """Read the folder again at every change, until `stop` is set."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self.load()
        async for _ in watchfiles.awatch(self._folder, stop_event=stop, step=100, debounce=300):
            self.load()

    def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller that an Authorization header names; raise Unauthenticated if it names none."""
        caller = self.find(authorization or "")
        if caller is None:
            has_key = bool(key_in(authorization or ""))
            raise Unauthenticated(
                "The API key is not known" if has_key else "This call needs a header 'Authorization: Bearer KEY'"
            )
        return caller

    def find(self, authorization: str) -> Caller | None:
        """Return the caller that an Authorization header names, if it names one."""
        key = key_in(authorization)
        # The key is looked up by its hash, so the time that this takes reveals nothing about the key.
        return self._callers.get(hash_key(key)) if key else None


def _read(name: str, path: Path) -> Tenant:
    tenant = Tenant.model_validate(yaml.safe_load(path.read_text()))
    if path.stem == name and tenant.name != name:
        raise ValueError(f"{path.name} is the file of {name}, and names {tenant.name}")
    return tenant
