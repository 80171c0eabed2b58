"""Says what differs between what is wanted of an engine and what the cluster has: by a server-side apply that changes nothing."""

import asyncio
import difflib
from typing import Any

import yaml

from enginehouse.contracts.errors import EngineDoesNotExist
from enginehouse.registry.deployer.api import ClusterRefused
from enginehouse.registry.deployer.bring import Bringing
from enginehouse.registry.deployer.inventory import APPLIED
from enginehouse.registry.deployer.kinds import Ref
from enginehouse.registry.deployer.wanted import Wanted
from enginehouse.registry.kubernetes.parts import Object
from enginehouse.registry.views import Difference

_AT_ONCE = 4
_SERVERS = ("managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink")
"""Metadata that the API server keeps itself."""


async def differences(bringing: Bringing, engine: str, wanted: Wanted | None) -> list[Difference]:
    """Return the objects of an engine that are not as wanted. Secrets are left out: nobody is shown what they hold.

    Raise EngineDoesNotExist before an engine was looked at, and ClusterAway.
    """
    if wanted is None:
        raise EngineDoesNotExist(f"{engine} is not in the cluster, or was not looked at yet")
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(ref: Ref, content: Object) -> Difference | None:
        async with turns:
            return await _difference(bringing, ref, content)

    found = await asyncio.gather(*(one(ref, content) for ref, content in wanted.objects.items()))
    stale = [Difference(object=str(ref), change="left over") for ref in bringing.stale(engine, wanted)]
    return [*(each for each in found if each), *stale]


async def _difference(bringing: Bringing, ref: Ref, content: Object) -> Difference | None:
    there = await bringing.cluster.read(ref)
    if there is None:
        return Difference(object=str(ref), change="missing")
    try:
        applied = await bringing.cluster.apply(content, dry_run=True)
    except ClusterRefused as error:
        return Difference(object=str(ref), change="refused", diff=str(error))
    before, after = _text(there), _text(applied)
    if before == after:
        return None
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), "in the cluster", "as wanted", n=3, lineterm=""
    )
    return Difference(object=str(ref), change="changed", diff="\n".join(lines))


def _text(content: Object) -> str:
    metadata: dict[str, Any] = {name: value for name, value in content["metadata"].items() if name not in _SERVERS}
    if annotations := {k: v for k, v in metadata.get("annotations", {}).items() if k != APPLIED}:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    shown = {name: value for name, value in content.items() if name not in ("status", "metadata")}
    return yaml.safe_dump({**shown, "metadata": metadata}, sort_keys=True, width=120)
