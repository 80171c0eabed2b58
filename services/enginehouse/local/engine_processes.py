"""Run one engine as processes: its replicas, its runner and the runner's daprd."""

import asyncio
import contextlib
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.names import PLATFORM_TENANT, RUNNER_ENGINE_ROUTE, SLOTS, Slot, app_id
from enginehouse.contracts.problem import PROBLEM_FILE, problem_text
from enginehouse.local import checkout, environments
from enginehouse.local.errors import LocalError
from enginehouse.local.gateway_parts import read_object
from enginehouse.local.health import listens
from enginehouse.local.processes import ProcessSpec, Supervised
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, app_environment
from enginehouse.local.stack_context import StackContext, inherited_environment, stop_app_and_sidecar
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import (
    ENGINE_FILE,
    WORKLOADS_FILE,
    InvalidBundle,
    Workloads,
    read_spec,
    read_workloads,
)
from enginehouse.registry.snapshot import hold, source_folder, tidy_snapshots

_DRAIN_SECONDS = 10
_POLL_SECONDS = 0.05


@dataclass(slots=True)
class SlotProcesses:
    """The processes of one slot of an engine."""

    app: str
    runner: Supervised
    daprd: Supervised
    engine_ports: list[int]
    """The ports of its replicas, also of those that are not started yet."""
    other_ports: list[int]
    replicas: dict[str, Supervised] = field(default_factory=dict)
    """Replicas by `<host>_<port>`. A runner asks for a restart under this name."""

    def all(self) -> list[Supervised]:
        """Return every process of the slot."""
        return [*self.replicas.values(), self.runner, self.daprd]


@dataclass(slots=True)
class EngineProcesses:
    """An engine's processes, started from its bundle."""

    context: StackContext
    engine_id: str
    bundle: Path
    _slots: list[SlotProcesses] = field(default_factory=list)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Keeps the engine's files while its processes use them."""

    async def start(self, steps: Steps) -> None:
        """Start all processes, without waiting for them. Show `steps` how the environment is made.

        Raise LocalError or InvalidBundle; another call tries again, and `stop` cleans up.
        """
        spec, workloads, source = self._read()
        # The runners come first, so that somebody tells the gateway of an environment that cannot be made.
        if not self._slots:
            self._slots = [self._start_slot(spec, workloads, slot) for slot in SLOTS if slot in workloads.slots]
        environment = await environments.prepare(spec, source, self.context.guard, steps)
        for slot in self._slots:
            slot.replicas = {
                f"127.0.0.1_{port}": self.context.supervisor.start(
                    self._replica(spec, source, f"{slot.app}.engine-{number}", port, environment)
                )
                for number, port in enumerate(slot.engine_ports)
            }

    async def wait_healthy(self, seconds: float) -> bool:
        """Wait at most `seconds` until all processes are healthy; return whether they are."""
        deadline = time.monotonic() + seconds
        while not await self.healthy():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def stop(self) -> None:
        """Give running jobs a while to end, hand back the rest, then stop all processes."""
        slots, self._slots = self._slots, []
        for slot in slots:
            await stop_app_and_sidecar(self.context.supervisor, slot.runner, slot.daprd, _DRAIN_SECONDS)
            await self.context.supervisor.stop(*slot.replicas.values(), grace_seconds=5)
            self.context.ports.release(*slot.engine_ports, *slot.other_ports)
        self._held.close()
        await asyncio.to_thread(tidy_snapshots, self.context.home.engines, self.engine_id)

    async def healthy(self) -> bool:
        """Return whether all processes run and are healthy, and the runners find nothing wrong."""
        for slot in self._slots:
            for process in slot.all():
                if not await process.is_healthy():
                    return False
        return bool(self._slots) and await self.runners_problem() is None

    async def runners_problem(self) -> str | None:
        """Return what the runners' health checks of the engine find; None if nothing is wrong or they do not answer."""
        for slot in self._slots:
            url = f"http://127.0.0.1:{slot.runner.spec.port}{RUNNER_ENGINE_ROUTE}"
            if problem := await self.context.prober.fault(url):
                return problem_text(problem)
        return None

    def tell(self, problem: str | None) -> None:
        """Leave for the runners why the engine does not work, or take it back."""
        for slot in self._slots:
            file = self.context.home.exchange / slot.app / PROBLEM_FILE
            if problem is None:
                file.unlink(missing_ok=True)
                continue
            # Made elsewhere: a file that appears in the shared folder is a runner's request.
            draft = self.context.home.run / f"{slot.app}.{PROBLEM_FILE}"
            draft.write_text(problem)
            draft.replace(file)

    async def problem(self) -> str | None:
        """Return why the engine cannot work: a file that daprd ignores, or a process that keeps dying.

        None: no problem.
        """
        for path in sorted((self.bundle / "engine").glob("*.yaml")):
            try:
                read_object(path)
            except InvalidBundle as error:
                return str(error)
            except OSError:
                continue  # The bundle is being replaced at this moment.
        for process in (process for slot in self._slots for process in slot.all()):
            if problem := await process.problem():
                return problem
        return None

    def retry(self) -> None:
        """Start waiting processes at once, because the bundle has changed."""
        for slot in self._slots:
            for process in slot.all():
                process.retry()

    def restart_replica(self, asked: Path) -> None:
        """Restart a replica that hangs. `asked` is the file by which its runner asked for it."""
        for slot in self._slots:
            if asked.parent.name == slot.app and asked.name in slot.replicas:
                slot.replicas[asked.name].kill_and_restart()

    def _read(self) -> tuple[EngineSpec, Workloads, Path]:
        spec = read_spec(self.bundle / ENGINE_FILE)
        if spec.id != self.engine_id:
            raise LocalError(f"{self.bundle / ENGINE_FILE} describes {spec.id}.", f"It must describe {self.engine_id}.")
        if spec.run is None:
            raise LocalError(
                f"{self.engine_id} cannot run as a process: its engine.yaml has no `run`.",
                "Add `run: {command: [...]}`, the command that starts it on this machine.",
            )
        workloads = read_workloads(self.bundle / WORKLOADS_FILE)
        source = source_folder(self.bundle, workloads.source)
        try:
            self._held.enter_context(hold(source))
        except OSError:
            raise LocalError(
                f"The deployed files of {self.engine_id} are gone: {source}.", "Deploy it again."
            ) from None
        return spec, workloads, source

    def _start_slot(self, spec: EngineSpec, workloads: Workloads, slot: Slot) -> SlotProcesses:
        """Start the runner of a slot and its sidecar, and reserve the ports of its replicas."""
        app, start = app_id(self.engine_id, slot), self.context.supervisor.start
        ports = [self.context.ports.take() for _ in range(workloads.replicas)]
        delivery, sidecar = self.context.ports.take(), SidecarPorts.take(self.context.ports)
        runner = start(self._runner(app, slot, delivery, sidecar, ports, workloads.content))
        longest = math.ceil(spec.execution_timeout_seconds) + 60
        plan = SidecarPlan(
            app_id=app,
            ports=sidecar,
            resources=[self.bundle / "engine", *checkout.runner_resources()],
            config=checkout.configuration("runner"),
            app_port=delivery,
            block_shutdown_seconds=longest,
        )
        daprd = start(self.context.sidecar_spec(f"{app}.daprd", plan))
        return SlotProcesses(app, runner, daprd, ports, [delivery, *sidecar.all()])

    def _replica(self, spec: EngineSpec, source: Path, name: str, port: int, environment: Path | None) -> ProcessSpec:
        assert spec.run
        home = self.context.home.run / "engines" / name
        home.mkdir(parents=True, exist_ok=True)
        scrubbed = engine_environment(spec.run.env, port, home, environment)
        # What a ready-made server answers is the business of the runner, whose own health follows it.
        url = f"http://127.0.0.1:{port}/healthz" if spec.protocol == "predict" else None
        return ProcessSpec(
            name=name,
            kind="engine",
            is_tenants=spec.tenant != PLATFORM_TENANT,
            command=engine_command(spec.run.command, environment),
            environment=lambda: scrubbed,
            cwd=source,
            log=self.context.log(name),
            port=port,
            health_url=url,
            health=self.context.prober.http(url) if url else partial(listens, port),
            grace_seconds=5,
            memory_bytes=spec.resources.memory_bytes,
        )

    def _runner(
        self, app: str, slot: Slot, delivery: int, sidecar: SidecarPorts, engines: list[int], content: str
    ) -> ProcessSpec:
        exchange = self.context.home.exchange / app
        exchange.mkdir(parents=True, exist_ok=True)
        (exchange / PROBLEM_FILE).unlink(missing_ok=True)
        fixed = {
            **inherited_environment(),
            **app_environment(sidecar, self.context.api_token, self.context.app_token),
            "ENGINEHOUSE_RUNNER_SPEC": str(self.bundle / ENGINE_FILE),
            "ENGINEHOUSE_RUNNER_SLOT": slot,
            "ENGINEHOUSE_RUNNER_DEPLOYMENT": content,
            "ENGINEHOUSE_RUNNER_ENGINE_URLS": json.dumps([f"http://127.0.0.1:{port}" for port in engines]),
            "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(delivery),
            "ENGINEHOUSE_RUNNER_SUPERVISOR_DIR": str(exchange),
        }

        def environment() -> Mapping[str, str]:
            # A new name for each start, so that the jobs of a runner that died do not look as if it still had them.
            return {**fixed, "ENGINEHOUSE_RUNNER_WORKER": f"{slot}-{secrets.token_hex(6)}"}

        url = f"http://127.0.0.1:{delivery}/healthz"
        return self.context.python_spec(f"{app}.runner", "runner", "enginehouse.runner", environment, delivery, url)


def engine_command(command: list[str], environment: Path | None) -> list[str]:
    """Return the command with the engine's own `python`, unbuffered so that the log shows its last output."""
    if environment and command[0] in ("python", "python3"):
        return [str(environment / "bin" / "python"), "-u", *command[1:]]
    return list(command)


def engine_environment(own: Mapping[str, str], port: int, home: Path, environment: Path | None) -> dict[str, str]:
    """Return the whole environment of an engine's process, without variables of the platform or of its starter."""
    platform_bin = Path(sys.executable).parent
    path = [
        folder
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if folder and Path(folder) != platform_bin
    ]
    if environment:
        path.insert(0, str(environment / "bin"))
    language = os.environ.get("LANG", "C.UTF-8")
    return {"LANG": language, **own, "PATH": os.pathsep.join(path), "HOME": str(home), "PORT": str(port)}
