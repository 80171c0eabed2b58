"""What every app of a stack is started with, and the pair that every app of ours is: the app and its daprd."""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from enginehouse.local.guard import Guard
from enginehouse.local.health import Prober
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import ProcessSpec, Supervised, Supervisor
from enginehouse.local.redis import RedisAddress
from enginehouse.local.sidecar import SidecarPlan, sidecar_environment
from enginehouse.local.steps import Steps


@dataclass(frozen=True, slots=True)
class StackContext:
    """Everything that the apps of one stack share."""

    home: Home
    daprd: Path
    redis: RedisAddress
    api_token: str
    app_token: str
    ports: PortPool
    prober: Prober
    supervisor: Supervisor
    steps: Steps

    @property
    def guard(self) -> Guard:
        """For tools that run to their end."""
        return self.supervisor.guard

    def log(self, name: str) -> Path:
        """Where the process `name` writes."""
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
        """A process of our own code, in this very environment."""
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

    def sidecar_spec(self, name: str, plan: SidecarPlan) -> ProcessSpec:
        """A daprd. Well once it has loaded its components and its app listens."""
        environment = sidecar_environment(self.api_token, self.app_token, self.redis.environment())
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
    """What our own processes need of the machine's environment, and no secret somebody keeps in it."""
    return {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME", "LANG", "TZ", "TMPDIR") if name in os.environ
    }


async def stop_app_and_sidecar(
    supervisor: Supervisor, app: Supervised, daprd: Supervised, grace_seconds: float
) -> None:
    """Stop an app and its daprd so that what runs can end.

    daprd first: it takes in nothing new but, blocking its own shutdown, still carries what the app writes at the end.
    Once the app is gone, a second signal ends it at once.
    """
    daprd.terminate()
    await supervisor.stop(app, grace_seconds=grace_seconds)
    await supervisor.stop(daprd, grace_seconds=5)


async def wait_all_healthy(*waits: tuple[Supervised, float]) -> None:
    """Until each is healthy within its seconds; the first failure ends the waiting for the others."""
    tasks = [asyncio.create_task(process.wait_healthy(seconds)) for process, seconds in waits]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
