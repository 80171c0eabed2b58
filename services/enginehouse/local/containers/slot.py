"""The containers of one version of an engine: its replicas on a network of their own, and a relay to each from the host."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginehouse.contracts.engine import ENGINE_PORT, EngineSpec
from enginehouse.contracts.program import CONCURRENCY_VARIABLE, SECRETS_DIR_VARIABLE
from enginehouse.local.containers import relay
from enginehouse.local.containers.attach import attached
from enginehouse.local.containers.base_image import BaseImage
from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import engine_limits, relay_limits
from enginehouse.local.errors import LocalError
from enginehouse.local.tools import ToolFailed

SECRETS = "/secrets"
_MOST_TRIES = 20
_FIRST_ENGINE, _FIRST_RELAY = 10, 130
"""Last numbers of the addresses of the first replica and of its relay. There are at most 100 of each."""
_WRITE_SECRETS = f"""
import json, os, sys
for name, value in json.load(sys.stdin).items():
    descriptor = os.open("{SECRETS}/" + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    os.write(descriptor, value.encode())
    os.fchown(descriptor, 1000, 3000)
"""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a replica and its relay are on the engine's network."""

    network: str
    engine: str
    relay: str


@dataclass(frozen=True, slots=True)
class SlotContainers:
    """What one version of an engine has at the Docker Engine."""

    docker: Docker
    app: str
    relays: str
    """The network on which the host reaches relays."""

    @property
    def _name(self) -> str:
        return f"{self.docker.prefix}-{self.app}"

    @property
    def _secrets(self) -> str:
        return f"{self._name}-secrets"

    async def make_network(self) -> str:
        """Make the engine's network, anew, and return how its addresses begin. Raise LocalError if that fails."""
        await self.remove()
        for _ in range(_MOST_TRIES):
            # Docker itself would give large networks, of which it has about thirty. No host has one of these addresses,
            # which are for benchmarks of networks (RFC 2544): it would answer for it, and could be reached there.
            subnet = f"198.{random.randrange(18, 20)}.{random.randrange(256)}"  # noqa: S311
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

    def engine_command(self, spec: EngineSpec, image: str, number: int, subnet: str) -> list[str]:
        """Return the command that runs a replica."""
        own = spec.program.env if spec.program else {}
        variables = {**own, CONCURRENCY_VARIABLE: str(spec.concurrency), "HOME": "/tmp", "HOST": "0.0.0.0"}  # noqa: S104, S108
        variables["PORT"] = str(ENGINE_PORT)
        secrets = []
        if spec.secrets:
            variables[SECRETS_DIR_VARIABLE] = SECRETS
            secrets = [f"--mount=type=volume,source={self._secrets},destination={SECRETS},readonly,volume-nocopy"]
        return attached(
            f"{self._name}.engine-{number}",
            [
                *engine_limits(spec.resources),
                *self.docker.label_arguments(self.app),
                f"--network={self._name}",
                f"--ip={subnet}.{_FIRST_ENGINE + number}",
                f"--hostname=engine-{number}",
                *secrets,
                *(f"--env={name}={value}" for name, value in variables.items()),
                image,
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

    async def remove(self) -> None:
        """Remove the containers, the network and the secrets. Raise LocalError if that fails."""
        try:
            await self.docker.sweep(self.app)
        except ToolFailed as error:
            raise LocalError(
                f"The containers of {self.app} cannot be removed:\n{error}", "Is Docker running?"
            ) from None
