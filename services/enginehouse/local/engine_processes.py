"""Run one version of an engine as processes: its replicas, its runner and the runner's daprd."""

import asyncio
import contextlib
import json
import math
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from enginehouse.broker.redis_users import user_of_engine
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import NotAllowedToRun
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.names import RUNNER_ENGINE_ROUTE, Slot, app_id, job_topic, trial_topic
from enginehouse.contracts.problem import PROBLEM_FILE, problem_text
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.local import checkout
from enginehouse.local.configurations import sidecar_configuration
from enginehouse.local.containers.replicas import ContainedReplicas, told_folder
from enginehouse.local.crashes import Crashes
from enginehouse.local.engine_replicas import EngineReplicas
from enginehouse.local.engine_secrets import (
    forget_secrets,
    read_secrets,
    secrets_folder,
    sidecars_variable,
)
from enginehouse.local.errors import LocalError
from enginehouse.local.examples import wrong_example
from enginehouse.local.gateway_parts import read_object
from enginehouse.local.processes import ProcessSpec, Supervised
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, app_environment
from enginehouse.local.stack_context import (
    StackContext,
    inherited_environment,
    stop_app_and_sidecar,
    until_unsubscribed,
    wait_all_healthy,
)
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
_POLL_SECONDS = 0.1
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
    _worker: str = field(init=False)
    """The runner's name. It stays when the runner dies and starts again, which then takes its own jobs over at once."""
    _longest_job_seconds: float = 0.0
    workload: Workload | None = None
    """The version that was started."""
    _still_allowed: Callable[[], Awaitable[bool]] | None = None
    """Asks the operator's policy once more. None: it was not asked yet, or has refused."""
    _hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _killed: bool = False
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Keeps the version's files while its processes use them."""
    _contained: ContainedReplicas | None = field(default=None, init=False)
    """Its replicas, where engines run in containers."""
    _crashes: Crashes = field(default_factory=Crashes)

    def __post_init__(self) -> None:
        """Name its runner, and decide where its replicas run."""
        self._worker = f"{self.slot}-{secrets.token_hex(6)}"
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

        Raise LocalError, InvalidBundle or NotAllowedToRun; another call tries again, and `stop` cleans up.
        """
        spec, workload, source = self._read()
        # Where an earlier start left it, the engine may have been in a container, and is a process now.
        await asyncio.to_thread(shutil.rmtree, told_folder(self.context.home, self.app), ignore_errors=True)
        # The runner comes first, so that somebody tells the gateway of an environment that cannot be made.
        async with self._changing:
            if self._runner_process is None:
                await self._start_runner(spec, workload)
        from_image = self._contained is not None and await self._contained.has_image(spec)
        await self._ask_policy(spec, from_image=from_image)
        needed = (spec, source, self._engine_ports, self._read_secrets, steps)
        if self._contained:
            replicas, relays = await self._contained.prepare(*needed, from_image=from_image)
        else:
            replicas, relays = await EngineReplicas(self.context, self.app).prepare(*needed)
        start = self.context.supervisor.start
        self._relays = [start(relay) for relay in relays]
        self._replicas = {f"127.0.0.1_{replica.port}": start(replica) for replica in replicas}

    async def _ask_policy(self, spec: EngineSpec, *, from_image: bool) -> None:
        """Raise NotAllowedToRun if the operator's policy does not allow the version to start."""
        admission, now = self.context.admission, datetime.now(UTC)
        # Before it is asked, so that an edit meanwhile is not missed.
        self._still_allowed = partial(admission.still_allows, spec, now, from_image=from_image)
        try:
            await admission.admit(self.app, spec, now, from_image=from_image)
        except NotAllowedToRun:
            self._still_allowed = None
            raise

    async def may_go_on(self) -> bool:
        """Return whether the operator's policy still allows what it has allowed to start."""
        return self._still_allowed is None or await self._still_allowed()

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
        forget_secrets(secrets_folder(self.context.home, self.app))
        self._held.close()
        await asyncio.to_thread(tidy_snapshots, self.context.home.engines, self.engine_id)

    async def _stop(self, *, finish_jobs: bool) -> None:
        supervisor = self.context.supervisor
        if self._runner_process is not None and self._daprd is not None:
            if finish_jobs and not self._killed:
                await self._finish_jobs(self._runner_process)
            drain = 0 if self._killed else _DRAIN_SECONDS
            await stop_app_and_sidecar(supervisor, self._runner_process, self._daprd, drain)
        await supervisor.stop(*self._replicas.values(), *self._relays, grace_seconds=0 if self._killed else 5)
        if self._contained and self._engine_ports:
            await self._contained.remove()
        self.context.ports.release(*self._engine_ports, *self._other_ports)
        self._runner_process = self._daprd = None
        self._replicas, self._relays = {}, []

    def kill(self) -> None:
        """Kill all processes, without waiting. `stop` then ends what is left."""
        self._killed = True
        self.hurry()
        # The replicas last: while the runner can write, it would blame its jobs for their death.
        for process in reversed(self._processes()):
            process.kill()

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
        assert self._sidecar_port
        sidecar = DaprSidecar(self._sidecar_port, self._tokens.api)
        topics = {job_topic(self.engine_id), trial_topic(self.engine_id)}
        if not await until_unsubscribed(sidecar, topics, self._hurry, _UNSUBSCRIBE_SECONDS):
            log.warning(
                f"The sidecar of {self.app} does not say that it takes no more jobs",
                action="still_subscribed",
                engine_id=self.engine_id,
            )
        supervisor = self.context.supervisor
        stopping = asyncio.create_task(supervisor.stop(runner, grace_seconds=self._longest_job_seconds))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            await asyncio.wait([stopping], timeout=_DRAIN_SECONDS)
            runner.terminate()  # The second time it hands back its jobs.
        hurry.cancel()
        await stopping

    async def healthy(self) -> bool:
        """Return whether all processes run and are healthy, and the runner finds nothing wrong."""
        found = await asyncio.gather(*(replica.is_healthy() for replica in self._replicas.values()))
        self._crashes.note_health(any_healthy=any(found))
        if not all(found):
            return False
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

    async def misdeeds(self) -> Counter[Misdeed]:
        """Return how often that replica which did it most has ended by itself, hung, or used up its memory."""
        await self._crashes.look(self._replicas, self._contained.has_run if self._contained else None)
        counted = self._crashes.counted()
        if self._contained:
            counted[Misdeed.OUT_OF_MEMORY] = self._contained.out_of_memory()
        return counted

    def tell(self, problem: str | None) -> None:
        """Leave for the runner why the engine does not work, or take it back. On a full disk it is logged only."""
        if self._runner_process is None:
            return
        file = self.context.home.exchange / self.app / PROBLEM_FILE
        if problem is None:
            file.unlink(missing_ok=True)
            return
        # Made elsewhere: a file that appears in the shared folder is a runner's request.
        draft = self.context.home.run / f"{self.app}.{PROBLEM_FILE}"
        try:
            draft.write_text(problem)
            draft.replace(file)
        except OSError as error:
            log.error(
                f"The gateway is not told why {self.engine_id} does not work: {error}",
                action="problem_not_told",
                engine_id=self.engine_id,
            )

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
        wrong = await wrong_example(
            f"http://127.0.0.1:{self._engine_ports[0]}/predict",
            source_folder(self.bundle, workload.source),
            spec.execution_timeout_seconds,
        )
        return f"{spec.version} does not answer its own {wrong}" if wrong else None

    def retry(self) -> None:
        """Start waiting processes at once, because the bundle has changed."""
        for process in self._processes():
            process.retry()

    def restart_replica(self, asked: Path) -> None:
        """Restart a replica that hangs. `asked` is the file by which its runner asked for it."""
        replica = self._replicas.get(asked.name) if asked.parent.name == self.app else None
        if replica and replica.kill_and_restart():
            self._crashes.note_hang(asked.name)

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

    def _runner(self, delivery: int, sidecar: SidecarPorts, content: str) -> ProcessSpec:
        exchange = self.context.home.exchange / self.app
        exchange.mkdir(parents=True, exist_ok=True)
        (exchange / PROBLEM_FILE).unlink(missing_ok=True)
        environment = {
            **inherited_environment(),
            **app_environment(sidecar, self._tokens),
            "ENGINEHOUSE_RUNNER_SPEC": str(self.bundle / slot_folder(self.slot) / ENGINE_FILE),
            "ENGINEHOUSE_RUNNER_SLOT": self.slot,
            "ENGINEHOUSE_RUNNER_WORKER": self._worker,
            "ENGINEHOUSE_RUNNER_DEPLOYMENT": content,
            "ENGINEHOUSE_RUNNER_ENGINE_URLS": json.dumps([f"http://127.0.0.1:{port}" for port in self._engine_ports]),
            "ENGINEHOUSE_RUNNER_DELIVERY_PORT": str(delivery),
            "ENGINEHOUSE_RUNNER_SUPERVISOR_DIR": str(exchange),
            "ENGINEHOUSE_RUNNER_PROOF_KEY": ProofKeys(self.context.home.proof_key).of(self.engine_id),
        }

        url = f"http://127.0.0.1:{delivery}/healthz"
        return self.context.python_spec(
            f"{self.app}.runner", "runner", "enginehouse.runner", lambda: environment, delivery, url
        )
