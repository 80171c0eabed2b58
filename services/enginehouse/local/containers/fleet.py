"""The containers of one home: started with it, and all removed with it."""

from collections.abc import Callable
from dataclasses import dataclass

from enginehouse.local.containers.docker import Docker
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.containers.images import Images
from enginehouse.local.containers.kept_images import KeptImages
from enginehouse.local.containers.memory import MemoryWatch
from enginehouse.local.containers.removal import ContainerRemoval
from enginehouse.local.containers.slot import SlotContainers
from enginehouse.local.containers.sweep import sweeping
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.home import Home
from enginehouse.local.tools import ToolFailed


@dataclass(frozen=True, slots=True)
class Fleet:
    """What one home has at the Docker Engine."""

    docker: Docker
    images: Images
    memory: MemoryWatch
    kept: KeptImages
    removal: ContainerRemoval
    sandbox: Sandbox | None = None
    """What engines run in, beside their containers."""

    @classmethod
    async def start(
        cls, home: Home, guard: Guard, on_change: Callable[[], None], sandbox: Sandbox | None = None
    ) -> "Fleet":
        """Remove what a killed stack of the home has left, and make the relays' network. Raise LocalError.

        `on_change` is called when what could not be removed has changed.
        """
        docker = Docker(guard, home.path)
        await docker.check(sandbox)
        guard.run_last(sweeping(docker.labels()))
        kept, removal = KeptImages(docker, home.run / "images"), ContainerRemoval(docker, on_change)
        fleet = cls(docker, Images(docker), MemoryWatch(docker), kept, removal, sandbox)
        try:
            await docker.sweep()
            await docker(
                "network",
                "create",
                "--opt=com.docker.network.bridge.enable_icc=false",  # No relay reaches another one,
                "--opt=com.docker.network.bridge.enable_ip_masquerade=false",  # or another machine.
                *docker.label_arguments(),
                fleet.relays,
            )
        except ToolFailed as error:
            raise LocalError(f"Docker does not do what is asked of it:\n{error}", "See docs/containers.md.") from None
        return fleet

    @property
    def relays(self) -> str:
        """Return the name of the network on which the host reaches relays."""
        return f"{self.docker.prefix}-relays"

    def slot(self, app: str) -> SlotContainers:
        """Return the containers of an app."""
        return SlotContainers(self.docker, app, self.removal, self.relays, self.sandbox)
