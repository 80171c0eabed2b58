"""Reads what all routes need from a request: the registry, and the operator who calls."""

import asyncio
import contextvars
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, TypeVar

import structlog
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from enginehouse.audit.calls import note_concerned, note_operator
from enginehouse.checkers import Checkers
from enginehouse.contracts.errors import WrongState
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.registry.callers import Operator, operator_of
from enginehouse.registry.engines import Engines
from enginehouse.registry.settings import RegistrySettings
from enginehouse.registry.views import Difference
from enginehouse.registry.what_runs import WhatRuns
from enginehouse.supply.decide import Supply

log = structlog.get_logger()
T = TypeVar("T")
_BEARER = HTTPBearer(
    scheme_name="key",
    description="An operator's key: 'enginehouse tenant add NAME --admin' makes one.",
    auto_error=False,
)


class Differences(Protocol):
    """Says what of an engine is not in the cluster as it is wanted."""

    @property
    def problems(self) -> Mapping[str, str]:
        """Return what is wrong with the deployer itself, by part."""

    async def differences(self, engine_id: str) -> list[Difference]:
        """Return the objects that differ. Raise EngineDoesNotExist, or ClusterAway."""


class NoCluster(WrongState):
    """The registry does not deploy into a cluster."""

    code = "NO_CLUSTER"
    advice = "Ask the registry of a cluster: it has the setting ENGINEHOUSE_REGISTRY_CLUSTER."


@dataclass(frozen=True, slots=True)
class Registry:
    """What the routes use."""

    settings: RegistrySettings
    checkers: Checkers
    uploads: asyncio.Semaphore
    deployers: Executor
    """Threads of what waits until others have deployed, so that those who only read never wait for a thread."""
    cluster: Differences | None = None
    """The cluster that it deploys into, if it does."""

    def in_cluster(self) -> Differences:
        """Return the cluster that the registry deploys into. Raise NoCluster."""
        if self.cluster is None:
            raise NoCluster("This registry does not deploy into a cluster")
        return self.cluster

    @property
    def engines(self) -> Engines:
        """The engines of the home."""
        settings, in_containers = self.settings, self.what_runs().in_containers
        supply = Supply(settings.supply_dir)
        # In a cluster a tenant has a namespace only once it has a bundle.
        always = () if settings.cluster else (PLATFORM_TENANT,)
        return Engines(
            settings.engines_dir,
            settings.tenants_dir,
            always,
            in_containers,
            in_cluster=settings.cluster,
            supply=supply,
        )

    async def as_deployer(self, function: Callable[..., T], *arguments: Any, **more: Any) -> T:
        """Call a function that changes an engine: it may wait for others, and fetch files."""
        call = functools.partial(contextvars.copy_context().run, function, *arguments, **more)
        return await asyncio.get_running_loop().run_in_executor(self.deployers, call)

    def what_runs(self) -> WhatRuns:
        """Read how the engines are."""
        return WhatRuns.read(self.settings.state_file)


async def registry_of(request: Request) -> Registry:
    """Return the registry that answers this request."""
    registry: Registry = request.app.state.registry
    return registry


async def operator(request: Request, _: Annotated[object, Security(_BEARER)] = None) -> Operator:
    """Return the operator who calls. Raise Unauthenticated or Forbidden. The second argument only describes the call."""
    registry = await registry_of(request)
    who = await in_thread(operator_of, registry.settings.tenants_dir, request.headers.get("authorization"))
    note_operator(who.tenant, who.key_id)
    return who


async def in_thread(function: Callable[..., T], *arguments: Any, **more: Any) -> T:
    """Call a function that reads, writes or waits for files."""
    return await asyncio.to_thread(function, *arguments, **more)


def note(who: Operator, what: str, action: str, **ids: str) -> None:
    """Log a change, and note it for the audit log: who made it, and what it is."""
    note_concerned(tenant=ids.get("tenant"), engine=ids.get("engine_id"), detail=what)
    log.info(f"{who.tenant} ({who.key_id}…) {what}", action=action, by_tenant=who.tenant, by_key=who.key_id, **ids)


WiredRegistry = Annotated[Registry, Depends(registry_of)]
Caller = Annotated[Operator, Depends(operator)]
