"""Build the processes of a stack's apps from their shared settings, and stop an app together with its daprd."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.users import BrokerUsers
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.local.containers.fleet import Fleet
from enginehouse.local.guard import Guard
from enginehouse.local.health import Prober
from enginehouse.local.home import Home
from enginehouse.local.misbehaviour import Misbehaviour
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import ProcessSpec, Supervised, Supervisor
from enginehouse.local.sidecar import SidecarPlan, Tokens, sidecar_environment
from enginehouse.local.steps import Steps
from enginehouse.local.supply import Admission
from enginehouse.sidecar.dapr import DaprSidecar

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class StackContext:
    """Everything that the apps of one stack share."""

    home: Home
    daprd: Path
    redis: RedisAddress
    """With the administrator's password, for this process alone."""
    broker_users: BrokerUsers
    misbehaviour: Misbehaviour
    ports: PortPool
    prober: Prober
    supervisor: Supervisor
    steps: Steps
    fleet: Fleet | None
    """Runs the engines in containers. None: they are processes."""
    admission: Admission
    """Says what may start."""
    is_confining: bool
    """Whether each process of an engine is a user of its own, that sees its own files only."""

    @property
    def guard(self) -> Guard:
        """Guard for tools that run to their end."""
        return self.supervisor.guard

    def log(self, name: str) -> Path:
        """Return the log file of the process `name`."""
        return self.home.logs / f"{name}.log"

    def python_spec(
        self,
        name: str,
        kind: str,
        module: str,
        environment: Callable[[], Mapping[str, str]],
        port: int,
        health_url: str,
    ) -> ProcessSpec:
        """Return a process of our own code in this Python environment."""
        return ProcessSpec(
            name=name,
            kind=kind,
            command=[sys.executable, "-m", module],
            environment=environment,
            cwd=self.home.path,
            log=self.log(name),
            port=port,
            health_url=health_url,
            health=self.prober.http(health_url),
        )

    def sidecar_spec(self, name: str, plan: SidecarPlan, tokens: Tokens, own: Mapping[str, str]) -> ProcessSpec:
        """Return a daprd process with its `own` variables. It is healthy when its components are loaded and its app listens."""
        environment = sidecar_environment(tokens, own)
        return ProcessSpec(
            name=name,
            kind="daprd",
            command=plan.command(self.daprd),
            environment=lambda: environment,
            cwd=self.home.run,
            log=self.log(name),
            port=plan.ports.http,
            health_url=plan.health_url,
            health=self.prober.http(plan.health_url),
        )


def inherited_environment() -> dict[str, str]:
    """Return the machine's variables that our own processes need, without secrets that somebody may keep there."""
    return {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ
    }


async def stop_app_and_sidecar(
    supervisor: Supervisor, app: Supervised, daprd: Supervised, grace_seconds: float
) -> None:
    """Stop an app and its daprd so that running jobs can end.

    daprd is told first. It takes in nothing new, but it blocks its own shutdown and still carries the app's last
    writes. When the app is gone, a second signal ends daprd at once.
    """
    daprd.terminate()
    await supervisor.stop(app, grace_seconds=grace_seconds)
    await supervisor.stop(daprd, grace_seconds=5)


async def until_unsubscribed(
    sidecar: DaprSidecar, topics: AbstractSet[str], hurry: asyncio.Event, seconds: float
) -> bool:
    """Wait until a sidecar has seen that its Subscriptions lead elsewhere; return False if it does not say so in time.

    One that is told to stop before takes in more jobs for a while, and does not deliver them. It is closed afterwards.
    """
    try:
        async with asyncio.timeout(seconds):
            await sidecar.start()
            while topics & (await sidecar.metadata()).subscribed_topics and not hurry.is_set():
                await asyncio.sleep(_POLL_SECONDS)
    except (EnginehouseError, TimeoutError):
        return False
    finally:
        await sidecar.close()
    return True


async def wait_all_healthy(*waits: tuple[Supervised, float]) -> None:
    """Wait until each process is healthy within its seconds. The first failure ends the wait for the others."""
    tasks = [asyncio.create_task(process.wait_healthy(seconds)) for process, seconds in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
