"""Run one version of an engine as processes: its replicas, its runner and the runner's daprd."""

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

import structlog

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import PLATFORM_TENANT, RUNNER_ENGINE_ROUTE, Slot, app_id, job_topic, trial_topic
from enginehouse.contracts.problem import PROBLEM_FILE, problem_text
from enginehouse.contracts.program import CONCURRENCY_VARIABLE, SECRETS_DIR_VARIABLE
from enginehouse.local import checkout, environments
from enginehouse.local.configurations import sidecar_configuration
from enginehouse.local.containers.replicas import ContainedReplicas
from enginehouse.local.engine_secrets import (
    forget_secrets,
    read_secrets,
    secrets_folder,
    sidecars_variable,
    write_secrets,
)
from enginehouse.local.errors import LocalError
from enginehouse.local.examples import own_examples, wrong_answer
from enginehouse.local.gateway_parts import read_object
from enginehouse.local.health import listens
from enginehouse.local.processes import ProcessSpec, Supervised
from enginehouse.local.redis_users import user_of_engine
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, app_environment
from enginehouse.local.stack_context import StackContext, inherited_environment, stop_app_and_sidecar, wait_all_healthy
from enginehouse.local.steps import Steps
from enginehouse.registry.bundle import (
    ENGINE_FILE,
    WORKLOADS_FILE,
    InvalidBundle,
    Workload,
    read_workloads,
    slot_folder,
)
from enginehouse.registry.snapshot import hold, source_folder, tidy_snapshots
from enginehouse.registry.versions import spec_of
from enginehouse.sidecar.dapr import DaprSidecar

log = structlog.get_logger(__name__)

_DRAIN_SECONDS = 10
_POLL_SECONDS = 0.05
_UNSUBSCRIBE_SECONDS = 20
_RENEW_SECONDS = 60


@dataclass(slots=True)
class SlotProcesses:
    """The processes of the version in one slot of an engine, started from its bundle."""

    context: StackContext
    engine_id: str
    slot: Slot
    bundle: Path
    _runner_process: Supervised | None = None
    _daprd: Supervised | None = None
    _replicas: dict[str, Supervised] = field(default_factory=dict)
    """Replicas by `<host>_<port>`. A runner asks for a restart under this name."""
    _relays: list[Supervised] = field(default_factory=list)
    """What leads to replicas in containers."""
    _engine_ports: list[int] = field(default_factory=list)
    """The ports of its replicas, also of those that are not started yet."""
    _other_ports: list[int] = field(default_factory=list)
    _sidecar_port: int = 0
    _tokens: Tokens = field(default_factory=Tokens.new)
    _spec: EngineSpec | None = None
    """What was started, with `workload`."""
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the runner and its sidecar are started, stopped or replaced."""
    _longest_job_seconds: float = 0.0
    workload: Workload | None = None
    """The version that was started."""
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Keeps the version's files while its processes use them."""
    _contained: ContainedReplicas | None = field(default=None, init=False)
    """Its replicas, where engines run in containers."""

    def __post_init__(self) -> None:
        """Decide where its replicas run."""
        if self.context.fleet:
            self._contained = ContainedReplicas(self.context, self.context.fleet.slot(self.app), self.app)

    @property
    def app(self) -> str:
        """Return the app id of the slot."""
        return app_id(self.engine_id, self.slot)

    def _processes(self) -> list[Supervised]:
        return [
            *self._replicas.values(),
            *self._relays,
            *(process for process in (self._runner_process, self._daprd) if process is not None),
        ]

    async def start(self, steps: Steps) -> None:
        """Start all processes, without waiting for them. Show `steps` how the environment is made.

        Raise LocalError or InvalidBundle; another call tries again, and `stop` cleans up.
        """
        spec, workload, source = self._read()
        # The runner comes first, so that somebody tells the gateway of an environment that cannot be made.
        async with self._changing:
            if self._runner_process is None:
                await self._start_runner(spec, workload)
        if self._contained:
            replicas, relays = await self._contained.prepare(
                spec, source, self._engine_ports, self._read_secrets, steps
            )
        else:
            replicas, relays = await self._prepare_processes(spec, source, steps), []
        start = self.context.supervisor.start
        self._relays = [start(relay) for relay in relays]
        self._replicas = {f"127.0.0.1_{replica.port}": start(replica) for replica in replicas}

    async def _prepare_processes(self, spec: EngineSpec, source: Path, steps: Steps) -> list[ProcessSpec]:
        """Return the replicas as processes of this machine, when their environment is made."""
        environment = await environments.prepare(spec, source, self.context.guard, steps)
        if spec.secrets:
            await asyncio.to_thread(write_secrets, self._secrets, await self._read_secrets(spec))
        return [
            self._replica(spec, source, f"{self.app}.engine-{number}", port, environment)
            for number, port in enumerate(self._engine_ports)
        ]

    @property
    def _secrets(self) -> Path:
        """Folder of the engine's secrets, for its own processes."""
        return secrets_folder(self.context.home, self.app)

    async def _read_secrets(self, spec: EngineSpec) -> dict[str, str]:
        sidecar = DaprSidecar(self._sidecar_port, self._tokens.api)
        try:
            await sidecar.start()
            return await read_secrets(sidecar, self.engine_id, spec.secrets)
        finally:
            await sidecar.close()

    async def wait_healthy(self, seconds: float) -> bool:
        """Wait at most `seconds` until all processes are healthy; return whether they are."""
        deadline = time.monotonic() + seconds
        while not await self.healthy():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)
        return True

    async def stop(self, *, finish_jobs: bool = False) -> None:
        """Give running jobs a while to end, or all their time, hand back the rest, then stop all processes."""
        async with self._changing:
            await self._stop(finish_jobs=finish_jobs)
        forget_secrets(self._secrets)
        self._held.close()
        await asyncio.to_thread(tidy_snapshots, self.context.home.engines, self.engine_id)

    async def _stop(self, *, finish_jobs: bool) -> None:
        if self._runner_process is not None and self._daprd is not None:
            if finish_jobs:
                await self._finish_jobs(self._runner_process)
            await stop_app_and_sidecar(self.context.supervisor, self._runner_process, self._daprd, _DRAIN_SECONDS)
            await self.context.supervisor.stop(*self._replicas.values(), *self._relays, grace_seconds=5)
            if self._contained:
                await self._contained.remove()
            self.context.ports.release(*self._engine_ports, *self._other_ports)
        self._runner_process = self._daprd = None
        self._replicas, self._relays = {}, []

    async def renew_credentials(self) -> None:
        """Start the runner and its sidecar anew with new tokens and what the broker's login is now. The replicas go on.

        Jobs in hand get a while to end, and are handed back after it. Raise StartFailed if the new ones do not get well.
        """
        async with self._changing:
            runner, daprd = self._runner_process, self._daprd
            if runner is None or daprd is None or self._spec is None or self.workload is None:
                return  # What starts later has the new ones.
            self._runner_process = self._daprd = None
            await stop_app_and_sidecar(self.context.supervisor, runner, daprd, _DRAIN_SECONDS)
            self.context.ports.release(*self._other_ports)
            runner, daprd = await self._start_runner(self._spec, self.workload)
        await wait_all_healthy((daprd, _RENEW_SECONDS), (runner, _RENEW_SECONDS))

    def hurry(self) -> None:
        """Stop finishing jobs: everything is to stop now."""
        self._hurry.set()

    async def _finish_jobs(self, runner: Supervised) -> None:
        """Stop the runner when its jobs have ended, or when the stack is stopped.

        The runner stops before its sidecar: while deliveries are in hand, the sidecar does not leave the topic.
        """
        await self._until_unsubscribed()
        supervisor = self.context.supervisor
        stopping = asyncio.create_task(supervisor.stop(runner, grace_seconds=self._longest_job_seconds))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await asyncio.wait([stopping], timeout=_DRAIN_SECONDS)
            runner.terminate()  # The second time it hands back its jobs.
        hurry.cancel()
        await stopping

    async def _until_unsubscribed(self) -> None:
        """Wait until the sidecar has seen that its Subscriptions lead elsewhere.

        One that is told to stop before takes in more jobs for a while, and does not deliver them.
        """
        assert self._sidecar_port
        sidecar = DaprSidecar(self._sidecar_port, self._tokens.api)
        topics = {job_topic(self.engine_id), trial_topic(self.engine_id)}
        try:
            async with asyncio.timeout(_UNSUBSCRIBE_SECONDS):
                await sidecar.start()
                while topics & (await sidecar.metadata()).subscribed_topics and not self._hurry.is_set():
                    await asyncio.sleep(_POLL_SECONDS)
        except (EnginehouseError, TimeoutError):
            log.warning(
                f"The sidecar of {self.app} does not say that it takes no more jobs",
                action="still_subscribed",
                engine_id=self.engine_id,
            )
        finally:
            await sidecar.close()

    async def healthy(self) -> bool:
        """Return whether all processes run and are healthy, and the runner finds nothing wrong."""
        for process in self._processes():
            if not await process.is_healthy():
                return False
        return bool(self._replicas) and await self.runners_problem() is None

    async def runners_problem(self) -> str | None:
        """Return what the runner's health checks of the engine find; None if nothing is wrong or it does not answer."""
        if self._runner_process is None:
            return None
        url = f"http://127.0.0.1:{self._runner_process.spec.port}{RUNNER_ENGINE_ROUTE}"
        found = await self.context.prober.fault(url)
        return problem_text(found) if found else None

    def tell(self, problem: str | None) -> None:
        """Leave for the runner why the engine does not work, or take it back."""
        if self._runner_process is None:
            return
        file = self.context.home.exchange / self.app / PROBLEM_FILE
        if problem is None:
            file.unlink(missing_ok=True)
            return
        # Made elsewhere: a file that appears in the shared folder is a runner's request.
        draft = self.context.home.run / f"{self.app}.{PROBLEM_FILE}"
        draft.write_text(problem)
        draft.replace(file)

    async def problem(self) -> str | None:
        """Return why the engine cannot work: a file that daprd ignores, or a process that keeps dying.

        None: no problem.
        """
        for path in (path for folder in self._resources() for path in sorted(folder.glob("*.yaml"))):
            try:
                read_object(path)
            except InvalidBundle as error:
                return str(error)
            except OSError:
                continue  # The bundle is being replaced at this moment.
        for process in self._processes():
            if problem := await process.problem():
                return problem
        return None

    async def wrong_example(self) -> str | None:
        """Return which of the version's own examples it does not answer, and how it answers it; None if all is well."""
        spec, workload = spec_of(self.bundle, self.slot), self.workload
        assert workload
        if spec.protocol != "predict":
            return None  # What such a server answers is the business of the runner, whose health follows it.
        for name, data in own_examples(source_folder(self.bundle, workload.source)).items():
            url = f"http://127.0.0.1:{self._engine_ports[0]}/predict"
            if wrong := await wrong_answer(url, data, spec.execution_timeout_seconds):
                return f"{spec.version} does not answer its own {name}: {wrong}"
        return None

    def retry(self) -> None:
        """Start waiting processes at once, because the bundle has changed."""
        for process in self._processes():
            process.retry()

    def restart_replica(self, asked: Path) -> None:
        """Restart a replica that hangs. `asked` is the file by which its runner asked for it."""
        if asked.parent.name == self.app and asked.name in self._replicas:
            self._replicas[asked.name].kill_and_restart()

    def _resources(self) -> list[Path]:
        """Return the folders of the bundle that the slot's sidecar loads."""
        return [self.bundle / "engine", self.bundle / slot_folder(self.slot) / "dapr"]

    def _read(self) -> tuple[EngineSpec, Workload, Path]:
        workload = read_workloads(self.bundle / WORKLOADS_FILE).slots.get(self.slot)
        if workload is None:
            raise InvalidBundle(f"{self.bundle / WORKLOADS_FILE} has no slot {self.slot}, which its Subscriptions name")
        self.workload = workload
        spec = self._spec = spec_of(self.bundle, self.slot)
        if spec.program is None and not self._contained:
            raise LocalError(
                f"{self.engine_id} cannot run as a process: its engine.yaml has no `run`, `module` or `model`.",
                "Add `run: {command: [...]}`, the command that starts it on this machine.",
            )
        source = source_folder(self.bundle, workload.source)
        try:
            self._held.enter_context(hold(source))
        except OSError:
            raise LocalError(
                f"The deployed files of {self.engine_id} are gone: {source}.", "Deploy it again."
            ) from None
        return spec, workload, source

    async def _start_runner(self, spec: EngineSpec, workload: Workload) -> tuple[Supervised, Supervised]:
        """Start the runner and its sidecar with credentials of their own, and reserve the ports of its replicas."""
        login = await asyncio.to_thread(self.context.broker_users.login, user_of_engine(self.engine_id))
        start, ports = self.context.supervisor.start, self.context.ports
        if not self._engine_ports:
            self._engine_ports = [ports.take() for _ in range(workload.replicas)]
        self._tokens = Tokens.new()
        delivery, sidecar = ports.take(), SidecarPorts.take(ports)
        self._other_ports = [delivery, *sidecar.all()]
        self._sidecar_port = sidecar.http
        self._longest_job_seconds = math.ceil(spec.execution_timeout_seconds) + 60
        self._runner_process = start(self._runner(delivery, sidecar, workload.content))
        plan = SidecarPlan(
            app_id=self.app,
            ports=sidecar,
            resources=[*self._resources(), *checkout.runner_resources()],
            config=sidecar_configuration("runner", self.context.home.run),
            app_port=delivery,
            block_shutdown_seconds=int(self._longest_job_seconds),
        )
        own = {**login.environment(), **sidecars_variable(self.context.home, self.engine_id)}
        self._daprd = start(self.context.sidecar_spec(f"{self.app}.daprd", plan, self._tokens, own))
        return self._runner_process, self._daprd

    def _replica(self, spec: EngineSpec, source: Path, name: str, port: int, environment: Path | None) -> ProcessSpec:
        assert spec.program
        home = self.context.home.run / "engines" / name
        home.mkdir(parents=True, exist_ok=True)
        scrubbed = engine_environment(spec, port, home, environment)
        if spec.secrets:
            scrubbed[SECRETS_DIR_VARIABLE] = str(self._secrets)
        # What a ready-made server answers is the business of the runner, whose own health follows it.
        url = f"http://127.0.0.1:{port}/healthz" if spec.protocol == "predict" else None
        return ProcessSpec(
            name=name,
            kind="engine",
            is_tenants=spec.tenant != PLATFORM_TENANT,
            command=engine_command(spec.program.command, environment),
            environment=lambda: scrubbed,
            cwd=source,
            log=self.context.log(name),
            port=port,
            health_url=url,
            health=self.context.prober.http(url) if url else partial(listens, port),
            grace_seconds=5,
            memory_bytes=spec.resources.memory_bytes,
        )

    def _runner(self, delivery: int, sidecar: SidecarPorts, content: str) -> ProcessSpec:
        exchange = self.context.home.exchange / self.app
        exchange.mkdir(parents=True, exist_ok=True)
        (exchange / PROBLEM_FILE).unlink(missing_ok=True)
        fixed = {
            **inherited_environment(),
            **app_environment(sidecar, self._tokens),
            "ENGINEHOUSE_RUNNER_SPEC": str(self.bundle / slot_folder(self.slot) / ENGINE_FILE),
            "ENGINEHOUSE_RUNNER_SLOT": self.slot,
            "ENGINEHOUSE_RUNNER_DEPLOYMENT": content,
            "ENGINEHOUSE_RUNNER_ENGINE_URLS": json.dumps([f"http://127.0.0.1:{port}" for port in self._engine_ports]),
            "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(delivery),
            "ENGINEHOUSE_RUNNER_SUPERVISOR_DIR": str(exchange),
        }

        def environment() -> Mapping[str, str]:
            # A new name for each start, so that the jobs of a runner that died do not look as if it still had them.
            return {**fixed, "ENGINEHOUSE_RUNNER_WORKER": f"{self.slot}-{secrets.token_hex(6)}"}

        url = f"http://127.0.0.1:{delivery}/healthz"
        return self.context.python_spec(
            f"{self.app}.runner", "runner", "enginehouse.runner", environment, delivery, url
        )


def engine_command(command: list[str], environment: Path | None) -> list[str]:
    """Return the command with the engine's own `python`, unbuffered so that the log shows its last output."""
    if environment and command[0] in ("python", "python3"):
        return [str(environment / "bin" / "python"), "-u", *command[1:]]
    return list(command)


def engine_environment(spec: EngineSpec, port: int, home: Path, environment: Path | None) -> dict[str, str]:
    """Return the whole environment of an engine's process, without variables of the platform or of its starter."""
    own = spec.program.env if spec.program else {}
    platform_bin = Path(sys.executable).parent
    path = [
        folder
        for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)
        if folder and Path(folder) != platform_bin
    ]
    if environment:
        path.insert(0, str(environment / "bin"))
    given = {"LANG": os.environ.get("LANG", "C.UTF-8"), CONCURRENCY_VARIABLE: str(spec.concurrency)}
    return {**given, **own, "PATH": os.pathsep.join(path), "HOME": str(home), "PORT": str(port)}
