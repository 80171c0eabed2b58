"""One version of an engine as processes: what is supervised as its replicas, each confined as far as this machine allows."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT
from enginehouse.local import environments
from enginehouse.local.confinement import private_folders
from enginehouse.local.engine_secrets import ReadSecrets, secrets_folder, write_secrets
from enginehouse.local.engine_start import EngineStart
from enginehouse.local.health import listens
from enginehouse.local.processes import ProcessSpec
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps


@dataclass(frozen=True, slots=True)
class EngineReplicas:
    """The replicas of one version of an engine."""

    context: StackContext
    app: str

    async def prepare(
        self, spec: EngineSpec, source: Path, ports: Sequence[int], read_secrets: ReadSecrets, steps: Steps
    ) -> tuple[list[ProcessSpec], list[ProcessSpec]]:
        """Return the replicas, on these ports of 127.0.0.1, when their environment is made; and nothing that leads to them.

        Raise LocalError or InvalidBundle if it cannot be made.
        """
        environment = await environments.prepare(spec, source, self.context.guard, steps)
        secrets = None
        if spec.secrets:
            secrets = secrets_folder(self.context.home, self.app)
            await asyncio.to_thread(write_secrets, secrets, await read_secrets(spec))
        private = private_folders(self.context.home.path) if self.context.is_confining else None
        start = EngineStart(spec, source, environment, secrets, private)
        await start.prepare(self.context.guard)
        return [self._replica(start, number, port) for number, port in enumerate(ports)], []

    def _replica(self, start: EngineStart, number: int, port: int) -> ProcessSpec:
        spec = start.spec
        name = f"{self.app}.engine-{number}"
        made = start.on_port(port, self.context.home.run / "engines" / name)
        # What a ready-made server answers is the business of the runner, whose own health follows it.
        url = f"http://127.0.0.1:{port}/healthz" if spec.protocol == "predict" else None
        return ProcessSpec(
            name=name,
            kind="engine",
            is_tenants=spec.tenant != PLATFORM_TENANT,
            command=made.command,
            environment=lambda: made.environment,
            cwd=start.source,
            log=self.context.log(name),
            port=port,
            health_url=url,
            health=self.context.prober.http(url) if url else partial(listens, port),
            grace_seconds=5,
            limits=made.limits,
            confinement=made.confinement,
        )
