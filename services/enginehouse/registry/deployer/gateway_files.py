"""Gives the gateway the tenants' files, as Secrets that it mounts. They are the last copy of a home that is lost.

So an entry goes only with its tenant, when that is forgotten: what has no bundle here is left alone.
"""

import asyncio
import base64
import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from enginehouse.registry.bundle import TENANT_FILE
from enginehouse.registry.deployer.api import ClusterRefused
from enginehouse.registry.deployer.context import Context
from enginehouse.registry.deployer.kinds import POD, SECRET, Ref
from enginehouse.registry.deployer.trouble import said_of, trace_of
from enginehouse.registry.kubernetes.labels import NAME, PART_OF, PRODUCT
from enginehouse.registry.tenants import is_removed, tenant_names

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = (1.0, 60.0)
_ANEW_SECONDS = 300.0
"""Everything is given again so often: whoever deletes or edits these Secrets, the registry cannot see it."""
_MOST_BYTES = 1024 * 1024
"""What one Secret holds: some 2,400 tenants."""
_SHOWN = 5
"""Most refused files that are named."""
TENANTS_SECRET, WEBHOOKS_SECRET = "tenants", "webhook-secrets"
_MOUNTED = "enginehouse.dev/mounted"
"""Annotation of the gateway's pods. Whatever changes in a pod makes its kubelet read the Secrets that it mounts anew."""


@dataclass(slots=True)
class GatewayFiles:
    """The tenants' files as Secrets that the gateway mounts."""

    context: Context
    on_change: Callable[[], None]
    """Called when `problem` has changed."""
    problem: str | None = None
    """Why the gateway does not have all files as they are here."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    _given: dict[tuple[str, str], str] = field(default_factory=dict)
    """By Secret and file: the hash of what the Secret has."""
    _made: set[str] = field(default_factory=set)
    """Secrets that are there."""
    _told: str = ""
    _forgotten: set[str] = field(default_factory=set)
    """Tenants that are taken from the gateway, although their bundles may still be there."""

    def wake(self) -> None:
        """Look again: a tenant has changed."""
        self._wake.set()

    async def run(self) -> None:
        """Give the gateway the files whenever one has changed, for ever. What fails is tried again."""
        first, most = _AGAIN_SECONDS
        wait = first
        while True:
            self._wake.clear()
            try:
                await self._give()
                self._note(None)
                wait, pause = first, _ANEW_SECONDS
            except Exception as error:
                self._note(error)
                wait, pause = min(2 * wait, most), wait
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
                    continue
            if self.problem is None:
                self._given.clear()

    async def forget(self, tenant: str) -> None:
        """Take a tenant of which nothing else is left from the gateway. Its bundle, which is the memory of that, goes next."""
        async with self._busy:
            self._forgotten.add(tenant)
            for secret, file in ((TENANTS_SECRET, f"{tenant}.yaml"), (WEBHOOKS_SECRET, tenant)):
                await self._change(secret, {file: None})
                self._given.pop((secret, file), None)
        self.wake()

    def remember(self, tenant: str) -> None:
        """Give a tenant again that cannot be forgotten yet."""
        self._forgotten.discard(tenant)
        self.wake()

    def _note(self, error: Exception | None) -> None:
        said = said_of(error) if error else None
        if said != self.problem:
            self.problem = said
            if error:
                log.warning(
                    f"The gateway does not get the tenants' files: {said}",
                    action="tenants_not_given",
                    exc_info=trace_of(error),
                )
            self.on_change()

    async def _give(self) -> None:
        async with self._busy:
            files = await asyncio.to_thread(self._read)
            refused = [why for secret in files for why in await self._give_files(secret, files[secret])]
            told = hashlib.sha256(str(sorted(self._given.items())).encode()).hexdigest()[:32]
            if told != self._told:
                await self._hurry(told)
                self._told = told
        if refused:
            more = f" (and {len(refused) - _SHOWN} more)" if len(refused) > _SHOWN else ""
            raise ClusterRefused(f"{'; '.join(refused[:_SHOWN])}{more}", 0)

    def _read(self) -> dict[str, dict[str, bytes]]:
        tenants = self.context.tenants
        # Somebody may have made a tenant of this name anew.
        self._forgotten = {name for name in self._forgotten if _is_leaving(tenants, name)}
        names = [name for name in tenant_names(tenants) if name not in self._forgotten]
        folder = self.context.webhook_secrets
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return {
            TENANTS_SECRET: _contents({f"{name}.yaml": tenants / name / TENANT_FILE for name in names}),
            WEBHOOKS_SECRET: _contents(
                {
                    path.name: path
                    for path in found
                    if not path.name.startswith(".") and path.name not in self._forgotten
                }
            ),
        }

    async def _give_files(self, secret: str, files: Mapping[str, bytes]) -> list[str]:
        """Give what differs; return what is refused. One file that is refused does not hold up the others, such as a revoked key."""
        hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        changed = {file: content for file, content in files.items() if self._given.get((secret, file)) != hashes[file]}
        if not changed and secret in self._made:
            return []
        refused: list[str] = []
        size = sum(len(content) for content in files.values())
        full = f"; all have {size:,} bytes, and a Secret holds {_MOST_BYTES:,}" if size > _MOST_BYTES else ""
        for part in (changed, *({file: changed[file]} for file in changed)):
            try:
                await self._change(secret, part)
            except ClusterRefused as error:
                refused += [f"{file} of the Secret {secret}: {error}{full}" for file in part if len(part) == 1]
                continue
            self._given.update({(secret, file): hashes[file] for file in part})
            if len(part) == len(changed):
                break
        return [*dict.fromkeys(refused)]

    async def _change(self, secret: str, files: Mapping[str, bytes | None]) -> None:
        """Change these entries of a Secret, and no other one. None: it is deleted."""
        cluster, ref = self.context.bringing.cluster, Ref(SECRET, self.context.settings.core_namespace, secret)
        data = {
            file: None if content is None else base64.b64encode(content).decode() for file, content in files.items()
        }
        if await cluster.merge(ref, {"data": data}) is None:
            # There was none. Applied when it is there it would lose the entries that are not named.
            for known in [one for one in self._given if one[0] == secret and one[1] not in files]:
                del self._given[known]
                self.wake()
            await cluster.apply(
                {
                    "apiVersion": SECRET.api,
                    "kind": SECRET.name,
                    "metadata": {"name": secret, "namespace": ref.namespace, "labels": {PART_OF: PRODUCT}},
                    "type": "Opaque",
                    "data": {file: value for file, value in data.items() if value is not None},
                }
            )
        self._made.add(secret)

    async def _hurry(self, told: str) -> None:
        """Make kubelets give the gateway's pods the files now, and not within a minute."""
        cluster, core = self.context.bringing.cluster, self.context.settings.core_namespace
        listed = await cluster.list(POD, f"{NAME}=gateway", core)
        change = {"metadata": {"annotations": {_MOUNTED: told}}}
        await asyncio.gather(*(cluster.merge(Ref(POD, core, pod["metadata"]["name"]), change) for pod in listed.items))


def _is_leaving(tenants: Path, name: str) -> bool:
    return not (tenants / name / TENANT_FILE).exists() or is_removed(tenants, name)


def _contents(paths: Mapping[str, Path]) -> dict[str, bytes]:
    """Return what files hold. One that has just gone, or that is none, is left out."""
    found = {}
    for name, path in paths.items():
        with contextlib.suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
            found[name] = path.read_bytes()
    return found
