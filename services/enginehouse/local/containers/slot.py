"""The containers of one version of an engine: its replicas on a network of their own, and a relay to each from the host."""

import json
import random
import socket
from collections.abc import Mapping, Set
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import psutil

from enginehouse.contracts.engine import ENGINE_PORT, EngineSpec
from enginehouse.contracts.program import CONCURRENCY_VARIABLE, SECRETS_DIR_VARIABLE
from enginehouse.local.containers import relay
from enginehouse.local.containers.attach import attached
from enginehouse.local.containers.base_image import BaseImage
from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import Sandbox, engine_limits, relay_limits
from enginehouse.local.containers.images import EngineImage
from enginehouse.local.containers.removal import ContainerRemoval
from enginehouse.local.errors import LocalError
from enginehouse.local.tools import ToolFailed

SECRETS = "/secrets"
_MOST_TRIES = 20
_NEVER = "0001-"
"""How Docker's moment begins that stands for never."""
_FIRST_ENGINE, _FIRST_RELAY = 10, 130
"""Last numbers of the addresses of the first replica and of its relay. There are at most 100 of each."""
_WRITE_SECRETS = f"""
import json, os, sys
for name, value in json.load(sys.stdin).items():
    descriptor = os.open("{SECRETS}/" + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    os.write(descriptor, value.encode())
    os.fchown(descriptor, 1000, 3000)
"""


def free_subnets(taken: Set[IPv4Network]) -> list[str]:
    """Return how the addresses of each network begin that an engine may have, without those that overlap a taken one.

    Docker itself would give large networks, of which it has about thirty. These are for benchmarks of networks (RFC 2544).
    """
    ours = [f"198.{second}.{third}" for second in (18, 19) for third in range(256)]
    return [begin for begin in ours if not any(IPv4Network(f"{begin}.0/24").overlaps(network) for network in taken)]


def _networks_of_this_host() -> Set[IPv4Network]:
    """Return those on which this host has an address, be they of a Docker Engine that was killed: it is reached there."""
    return {
        IPv4Interface(f"{found.address}/{found.netmask or 32}").network
        for addresses in psutil.net_if_addrs().values()
        for found in addresses
        if found.family == socket.AF_INET
    }


@dataclass(frozen=True, slots=True)
class SlotContainers:
    """What one version of an engine has at the Docker Engine."""

    docker: Docker
    app: str
    removal: ContainerRemoval
    relays: str
    """The network on which the host reaches relays."""
    sandbox: Sandbox | None = None

    @property
    def _name(self) -> str:
        return f"{self.docker.prefix}-{self.app}"

    @property
    def _secrets(self) -> str:
        return f"{self._name}-secrets"

    async def make_network(self) -> str:
        """Make the engine's network, anew, and return how its addresses begin. Raise LocalError if that fails."""
        await self.remove()
        free = free_subnets(_networks_of_this_host())
        for subnet in random.sample(free, min(_MOST_TRIES, len(free))):
            try:
                await self.docker(
                    "network",
                    "create",
                    "--internal",
                    # Without this the host has an address on it, at which engines would reach whatever listens there.
                    "--opt=com.docker.network.bridge.inhibit_ipv4=true",
                    f"--subnet={subnet}.0/24",
                    *self.docker.label_arguments(self.app),
                    self._name,
                )
            except ToolFailed as error:
                if "overlap" not in str(error):
                    raise LocalError(
                        f"The network of {self.app} cannot be made:\n{error}", "See docs/containers.md."
                    ) from None
            else:
                return subnet
        raise LocalError(f"Docker has no free network for {self.app}.", "Remove networks: docker network prune")

    async def check_gpu(self, spec: EngineSpec, base: BaseImage) -> None:
        """Raise LocalError if the engine asks for GPUs that the Docker Engine cannot give."""
        if not spec.resources.gpu:
            return
        try:
            limits = engine_limits(spec.resources, self.sandbox)
            await self.docker("run", *limits, "--network=none", base.name, "python", "-I", "-c", "")
        except ToolFailed as error:
            raise LocalError(
                f"{spec.id} asks for GPUs (resources.gpu: {spec.resources.gpu}), and this Docker Engine gives none:\n{error}",
                "Install the NVIDIA Container Toolkit and restart Docker, or remove resources.gpu from its engine.yaml.",
            ) from None

    async def write_secrets(self, values: Mapping[str, str], base: BaseImage) -> None:
        """Write the engine's secrets into a volume of its own, readable for it alone. Raise ToolFailed."""
        await self.docker("volume", "create", *self.docker.label_arguments(self.app), self._secrets)
        sealed = [
            "--network=none",
            "--read-only",
            "--user=0:0",
            "--cap-drop=ALL",
            "--cap-add=CHOWN",
            "--log-driver=none",
        ]
        labels = self.docker.label_arguments(self.app)
        into = f"--mount=type=volume,source={self._secrets},destination={SECRETS}"
        command = ["python", "-I", "-c", _WRITE_SECRETS]
        # Through a pipe: arguments are seen by everybody on the machine.
        await self.docker(
            "run", "--rm", "--interactive", *sealed, *labels, into, base.name, *command, given=json.dumps(values)
        )

    def engine_name(self, number: int) -> str:
        """Return the name of a replica's container."""
        return f"{self._name}.engine-{number}"

    def engine_command(self, spec: EngineSpec, image: EngineImage, number: int, subnet: str) -> list[str]:
        """Return the command that runs a replica."""
        own = spec.program.env if spec.program else {}
        variables = {**own, CONCURRENCY_VARIABLE: str(spec.concurrency), "HOME": "/tmp", "HOST": "0.0.0.0"}  # noqa: S104, S108
        variables["PORT"] = str(ENGINE_PORT)
        secrets = []
        if spec.secrets:
            variables[SECRETS_DIR_VARIABLE] = SECRETS
            secrets = [f"--mount=type=volume,source={self._secrets},destination={SECRETS},readonly,volume-nocopy"]
        return attached(
            self.engine_name(number),
            [
                *engine_limits(spec.resources, self.sandbox),
                *self.docker.label_arguments(self.app),
                f"--network={self._name}",
                f"--ip={subnet}.{_FIRST_ENGINE + number}",
                f"--hostname=engine-{number}",
                *secrets,
                *(f"--env={name}={value}" for name, value in variables.items()),
                image.identity,
            ],
        )

    def relay_command(self, base: BaseImage, number: int, port: int, subnet: str) -> list[str]:
        """Return the command that runs the relay from 127.0.0.1:`port` to a replica."""
        source = Path(relay.__file__).read_text()
        engine = f"{subnet}.{_FIRST_ENGINE + number}"
        return attached(
            f"{self._name}.relay-{number}",
            [
                *relay_limits(),
                *self.docker.label_arguments(self.app),
                f"--network={self.relays}",
                f"--publish=127.0.0.1:{port}:{ENGINE_PORT}",
                base.name,
                *("python", "-I", "-c", source, engine, str(ENGINE_PORT)),
            ],
            [[f"--ip={subnet}.{_FIRST_RELAY + number}", self._name]],
        )

    async def has_run(self, number: int) -> bool:
        """Say whether a replica's container has been started. One that Docker could not make or start has not."""
        try:
            started = await self.docker("inspect", "--format", "{{.State.StartedAt}}", self.engine_name(number))
        except ToolFailed:
            return False
        return not started.startswith(_NEVER)

    async def remove(self) -> None:
        """Remove the containers, the network and the secrets. Raise LocalError if that fails; it is tried again then."""
        try:
            await self.removal.remove(self.app)
        except ToolFailed as error:
            raise LocalError(
                f"The containers of {self.app} cannot be removed:\n{error}", "Is Docker running?"
            ) from None
