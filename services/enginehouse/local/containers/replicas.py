"""One version of an engine in containers: what is supervised as its replicas, and as the relays that lead to them."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from enginehouse.contracts.containers import CONTAINERS_FOLDER, IMAGE_FILE, out_of_memory_file
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.contracts.program import has_digest
from enginehouse.local.containers.base_image import base_image
from enginehouse.local.containers.docker import docker_environment
from enginehouse.local.containers.hardening import LOG_BYTES
from enginehouse.local.containers.slot import SlotContainers
from enginehouse.local.engine_secrets import ReadSecrets
from enginehouse.local.errors import LocalError
from enginehouse.local.health import listens
from enginehouse.local.home import Home
from enginehouse.local.processes import ProcessSpec
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps

_KILLED = 128 + signal.SIGKILL
log = structlog.get_logger(__name__)


def told_folder(home: Home, app: str) -> Path:
    """Return the folder of what the runner of an app is told about its containers."""
    return home.exchange / app / CONTAINERS_FOLDER


@dataclass(frozen=True, slots=True)
class ContainedReplicas:
    """The replicas of one version of an engine."""

    context: StackContext
    containers: SlotContainers
    app: str

    async def has_image(self, spec: EngineSpec) -> bool:
        """Return whether the image is here that its engine.yaml names by its digest. Otherwise its folder is built."""
        return bool(spec.image and has_digest(spec.image)) and await self.containers.docker.has_image(str(spec.image))

    async def prepare(
        self,
        spec: EngineSpec,
        source: Path,
        ports: Sequence[int],
        read_secrets: ReadSecrets,
        steps: Steps,
        *,
        from_image: bool,
    ) -> tuple[list[ProcessSpec], list[ProcessSpec]]:
        """Return the replicas and their relays, on these ports of 127.0.0.1, when their image is made.

        `from_image`: of the image that engine.yaml names by its digest, and of no other; otherwise one is built from the
        folder, even if the one that is named has come meanwhile. The operator's policy was asked about this one of the two.
        Raise LocalError or InvalidBundle if it cannot be made.
        """
        fleet = self.context.fleet
        assert fleet
        base = await base_image(self.containers.docker, None, steps)
        await self.containers.check_gpu(spec, base)
        images = fleet.images
        image = await (images.named_by(spec) if from_image else images.built_from(spec, source, base, steps))
        subnet = await self.containers.make_network()
        await fleet.kept.keep(self.app, image)
        if spec.secrets:
            await self.containers.write_secrets(await read_secrets(spec), base)
        self._told.mkdir(exist_ok=True)
        (self._told / IMAGE_FILE).write_text(image.digest)
        replicas, relays = [], []
        for number, port in enumerate(ports):
            told = self._told / out_of_memory_file(f"127.0.0.1:{port}")
            fleet.memory.follow(self.containers.engine_name(number), told)
            command = self.containers.engine_command(spec, image, number, subnet)
            replicas.append(self._process("container", f"engine-{number}", command, port, spec))
            command = self.containers.relay_command(base, number, port, subnet)
            relays.append(self._process("relay", f"relay-{number}", command, port, spec))
        return replicas, relays

    async def has_run(self, number: int) -> bool:
        """Say whether a replica's container has been started since it was last made."""
        return await self.containers.has_run(number)

    def out_of_memory(self) -> int:
        """Return how often memory was refused to that container to which it was refused most."""
        assert self.context.fleet
        return self.context.fleet.memory.times(self._told)

    async def remove(self) -> None:
        """Remove everything of them at the Docker Engine. What cannot be removed now is tried again."""
        assert self.context.fleet
        self.context.fleet.memory.forget(self._told)
        try:
            await self.containers.remove()
        except LocalError as error:
            log.warning(str(error), action="containers_left")

    @property
    def _told(self) -> Path:
        """Folder of what the runner is told."""
        return told_folder(self.context.home, self.app)

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
            limits={"FSIZE": LOG_BYTES},
            meanings={
                _KILLED: f"It was killed: most likely it wanted more than resources.memory, {spec.resources.memory}."
            },
        )
