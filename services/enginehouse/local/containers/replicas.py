"""One version of an engine in containers: what is supervised as its replicas, and as the relays that lead to them."""

import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.local.containers.base_image import base_image
from enginehouse.local.containers.docker import docker_environment
from enginehouse.local.containers.slot import SlotContainers
from enginehouse.local.errors import LocalError
from enginehouse.local.health import listens
from enginehouse.local.processes import ProcessSpec
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps

_KILLED = 128 + signal.SIGKILL
log = structlog.get_logger(__name__)

ReadSecrets = Callable[[EngineSpec], Awaitable[dict[str, str]]]


@dataclass(frozen=True, slots=True)
class ContainedReplicas:
    """The replicas of one version of an engine."""

    context: StackContext
    containers: SlotContainers
    app: str

    async def prepare(
        self, spec: EngineSpec, source: Path, ports: Sequence[int], read_secrets: ReadSecrets, steps: Steps
    ) -> tuple[list[ProcessSpec], list[ProcessSpec]]:
        """Return the replicas and their relays, on these ports of 127.0.0.1, when their image is made.

        Raise LocalError or InvalidBundle if it cannot be made.
        """
        assert self.context.fleet
        base = await base_image(self.containers.docker, None, steps)
        image = await self.context.fleet.images.of_engine(spec, source, base, steps)
        subnet = await self.containers.make_network()
        if spec.secrets:
            await self.containers.write_secrets(await read_secrets(spec), base)
        replicas, relays = [], []
        for number, port in enumerate(ports):
            command = self.containers.engine_command(spec, image, number, subnet)
            replicas.append(self._process("container", f"engine-{number}", command, port, spec))
            command = self.containers.relay_command(base, number, port, subnet)
            relays.append(self._process("relay", f"relay-{number}", command, port, spec))
        return replicas, relays

    async def remove(self) -> None:
        """Remove everything of them at the Docker Engine. What cannot be removed now is removed with the stack."""
        try:
            await self.containers.remove()
        except LocalError as error:
            log.warning(str(error), action="containers_left")

    def _process(self, kind: str, part: str, command: list[str], port: int, spec: EngineSpec) -> ProcessSpec:
        # What a ready-made server answers is the business of the runner, whose own health follows it.
        asked = kind == "container" and spec.protocol == "predict"
        url = f"http://127.0.0.1:{port}/healthz" if asked else None
        name = f"{self.app}.{part}"
        return ProcessSpec(
            name=name,
            kind=kind,
            is_tenants=spec.tenant != PLATFORM_TENANT,
            command=command,
            environment=docker_environment,
            cwd=self.context.home.path,
            log=self.context.log(name),
            port=port,
            health_url=url,
            health=self.context.prober.http(url) if url else partial(listens, port),
            grace_seconds=5,
            meanings={
                _KILLED: f"It was killed: most likely it wanted more than resources.memory, {spec.resources.memory}."
            },
        )
