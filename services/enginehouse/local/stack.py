"""Run a whole deployment as processes of this machine: Redis, the gateway, and the engines of its home."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog
import watchfiles

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.broker import redis
from enginehouse.broker.redis_users import user_of_gateway
from enginehouse.broker.users import BrokerUsers
from enginehouse.contracts.audit import AUDIT_MAX_BYTES
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.local import redis_server, rotation
from enginehouse.local.acquire import get_daprd
from enginehouse.local.confinement import why_not_confined
from enginehouse.local.containers.fleet import Fleet
from enginehouse.local.containers.hardening import Sandbox
from enginehouse.local.engine_keeper import EngineKeeper
from enginehouse.local.engine_keepers import EngineKeepers
from enginehouse.local.engine_removal import EngineRemoval
from enginehouse.local.gateway_parts import GatewayParts
from enginehouse.local.gateway_processes import GatewayProcesses
from enginehouse.local.health import Prober, redis_health
from enginehouse.local.home import Home
from enginehouse.local.misbehaviour import Misbehaviour
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import ProcessSpec, Supervised, Supervisor
from enginehouse.local.quarantines import Quarantines, Shown
from enginehouse.local.refused_commands import RefusedCommands
from enginehouse.local.registry_process import registry_spec
from enginehouse.local.removals import Removal, Removals
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps
from enginehouse.local.supply import Admission
from enginehouse.local.tenant_removal import TenantRemoval
from enginehouse.private_files import write_private
from enginehouse.registry import deploy, tenants
from enginehouse.registry.upgrade import upgrade_engines, upgrade_tenants
from enginehouse.supply.files import sweep_drafts
from enginehouse.watched_files import changes_of

log = structlog.get_logger(__name__)

_REGISTRY_START_SECONDS = 60


@dataclass(slots=True)
class Stack:
    """A running deployment. After `start` it follows the bundles in its home until `stop`."""

    home: Home
    port: int
    steps: Steps
    in_containers: bool = False
    """Whether engines run in containers of a Docker Engine, or as processes."""
    sandbox: Sandbox | None = None
    """What these containers run in."""
    ready: bool = False
    engines: EngineKeepers | None = None
    """What runs of this home's engines. None before Redis is started."""
    _refused: dict[str, str] = field(default_factory=dict)
    _unconfined: str | None = "it has not been tried yet"
    """Why engines that are processes are of our own user. None: they have users of their own."""
    _context: StackContext | None = None
    _gateway_parts: GatewayParts | None = None
    _redis: Supervised | None = None
    _broker_users: BrokerUsers | None = None
    _quarantines: Quarantines | None = None
    _rotations: rotation.Rotations | None = None
    _audit: AuditLog | None = None
    _gateway: GatewayProcesses | None = None
    _registry: Supervised | None = None
    _removals: Removals | None = None
    _ports: PortPool = field(default_factory=PortPool)
    _prober: Prober = field(default_factory=Prober)
    _supervisor: Supervisor | None = None
    _background: Background = field(default_factory=Background)
    _is_state_old: bool = False
    """Whether the state file could not be written the last time."""
    _quit: asyncio.Event = field(default_factory=asyncio.Event)
    _started_at: float = field(default_factory=time.time)

    @property
    def url(self) -> str:
        """URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def registry_url(self) -> str | None:
        """URL of the registry; None before it is started."""
        return f"http://127.0.0.1:{self._registry.spec.port}" if self._registry else None

    @property
    def supervisor(self) -> Supervisor:
        """Supervisor of this stack's processes, made at first use."""
        if self._supervisor is None:
            self._supervisor = Supervisor(self.write_state)
        return self._supervisor

    async def start(self) -> None:
        """Start everything in the home, and wait until the API takes jobs. Engines may still be starting."""
        await self._tidy_home()
        audit = self._audit = AuditLog(self.home.audit, "supervisor", max_bytes=AUDIT_MAX_BYTES)
        context = self._context = await self._make_context(audit)
        broker_users, background = context.broker_users, self._background
        background.keep("audit", audit.run)
        quarantines = self._quarantines = Quarantines(self.home, self.url, broker_users, audit, background)
        await quarantines.start()
        engines = self.engines = EngineKeepers(context, audit, background, quarantines, self.write_state)
        self._rotations = rotation.Rotations(self.home, broker_users, audit, background, engines.renewals)
        gateway = await self._start_core(context, engines)
        kinds: list[Removal] = [EngineRemoval(context, engines.runs), TenantRemoval(context)]
        self._removals = Removals(self.home, self.url, gateway.sidecar, kinds, self.write_state)
        background.keep("removals", self._removals.run)
        background.keep("users of the broker", broker_users.keep)
        background.keep("quarantines", partial(quarantines.follow, engines))
        background.keep("misbehaviour", context.misbehaviour.run)

    async def _tidy_home(self) -> None:
        """Delete what a former start has left, and bring what a former version wrote up to date."""
        await asyncio.to_thread(deploy.sweep, self.home.engines)
        await asyncio.to_thread(tenants.sweep, self.home.tenants)
        await asyncio.to_thread(sweep_drafts, self.home.supply)
        rotation.forget_asked(self.home)
        for former in ("dapr-api-token", "app-api-token"):  # The tokens of all apps, which now have their own.
            self.home.secret_file(former).unlink(missing_ok=True)
        await self._upgrade([*self.home.engine_bundles().values(), *self.home.tenant_bundles().values()])

    async def _make_context(self, audit: AuditLog) -> StackContext:
        """Start Redis, and return what all processes are started with."""
        fleet: Fleet | None = None
        if self.in_containers:
            fleet = await Fleet.start(self.home, self.supervisor.guard, self.write_state, self.sandbox)
            self._background.keep("memory of containers", fleet.memory.run)
            self._background.keep("removal of containers", fleet.removal.run)
        self._unconfined = None if fleet else await why_not_confined(self.supervisor.guard)
        self.steps.update("daprd", "looking for the Dapr runtime")
        daprd = await get_daprd(self.supervisor.guard, self.steps)
        address = await self._start_redis()
        broker_users = self._broker_users = BrokerUsers(self.home.broker_passwords, address, self.home.tenant_bundles)
        await asyncio.to_thread(broker_users.start)
        return StackContext(
            home=self.home,
            daprd=daprd,
            redis=address,
            broker_users=broker_users,
            misbehaviour=Misbehaviour(self.home, self.url, RefusedCommands(address)),
            ports=self._ports,
            prober=self._prober,
            supervisor=self.supervisor,
            steps=self.steps,
            fleet=fleet,
            admission=Admission(self.home, audit),
            is_confining=self._unconfined is None,
        )

    async def _start_core(self, context: StackContext, engines: EngineKeepers) -> GatewayProcesses:
        """Start the gateway and the registry, and the engines beside them. Wait for the first two."""
        self._gateway_parts = GatewayParts(self.home.gateway_parts)
        self._follow_gateway_parts()
        self.steps.update("gateway", "starting the gateway and its sidecar")
        login = await asyncio.to_thread(context.broker_users.login, user_of_gateway())
        gateway = self._gateway = GatewayProcesses.start(context, self.port, login)
        self._registry = self.supervisor.start(registry_spec(context, self.port))
        # Start the engines now, so that they load while the gateway starts.
        engines.follow()
        await gateway.wait_healthy()
        await self._registry.wait_healthy(_REGISTRY_START_SECONDS)
        self.steps.finish(
            "gateway", f"gateway: {self.url}, gRPC 127.0.0.1:{gateway.grpc_port}, registry: {self.registry_url}"
        )
        return gateway

    async def say_ready(self, *, wait_for_engines: bool) -> None:
        """Tell everybody who waits for this deployment that it is ready: at once, or when every engine is up or has failed."""
        assert self.engines
        if wait_for_engines:
            await self.engines.settled()
        self.ready = True
        self.write_state()

    async def follow(self) -> None:
        """Start, stop and restart engines as bundles come, go and change, until `quit`."""
        assert self.engines
        assert self._rotations
        home = self.home
        watched = (home.engines, home.tenants, home.exchange, home.secrets, home.supply)
        async with aclosing(changes_of(*watched, stop_event=self._quit, step=50, debounce=200)) as told:
            async for changes in told:
                paths = {Path(path) for _, path in changes}
                added = [Path(path) for change, path in changes if change == watchfiles.Change.added]
                self.engines.restart_replicas(added)
                self._rotations.follow()
                await self._upgrade(list(paths))
                self._follow_gateway_parts()
                self.engines.follow()
                self.engines.retry(paths)
                if any(path.is_relative_to(home.supply) for path in paths):
                    await self.engines.follow_policy()

    def quit(self) -> None:
        """End `follow`."""
        self._quit.set()

    async def stop(self) -> None:
        """Stop everything in reverse order, engines at the same time. May be called at any moment."""
        self.quit()
        self.ready = False
        await self._background.close()
        if self.engines:
            await self.engines.stop()
        if self._gateway:
            await self._gateway.stop()
        await self.supervisor.close()
        await self._prober.close()
        self._ports.close()
        self.write_state()
        if self._audit:
            await self._audit.close()

    def write_state(self) -> None:
        """Write the state file that `enginehouse status` reads. What runs does not depend on it: a full disk stops nothing."""
        engines, fleet = self.engines, self._context.fleet if self._context else None
        shown = Shown(_shown(engines.active), _shown(engines.on_trial)) if engines else Shown({}, {})
        if engines and self._quarantines:
            shown = self._quarantines.shown(shown, engines.routed)
        state = {
            "supervisor": os.getpid(),
            "url": self.url,
            "grpc": f"127.0.0.1:{self._gateway.grpc_port}" if self._gateway else None,
            "registry": self.registry_url,
            "ready": self.ready,
            "containers": self.in_containers,
            "sandbox": self.sandbox,
            "unconfined": self._unconfined,
            "started_at": self._started_at,
            "processes": self.supervisor.statuses(),
            "engines": shown.engines,
            "trials": shown.trials,
            "refused": self._refused,
            "broker": self._broker_users.problem if self._broker_users else None,
            "removing": (self._removals.waits_for if self._removals else {}) | (fleet.removal.left() if fleet else {}),
        }
        try:
            write_private(self.home.state_file, json.dumps(state))
        except OSError as error:
            if not self._is_state_old:
                log.error(f"`enginehouse status` shows what was before: {error}", action="state_not_written")
            self._is_state_old = True
        else:
            self._is_state_old = False

    async def _start_redis(self) -> redis.RedisAddress:
        address = redis_server.external()
        if address:
            self.steps.finish("redis", f"Redis: {address.host}:{address.port} (REDIS_URL)")
            return address
        binary = redis_server.find_server()
        redis_server.check_server(binary, self.home.data / "redis")
        address = redis.RedisAddress("127.0.0.1", self._ports.take(), self.home.secret("redis"))
        config = self.home.run / "redis.conf"
        # Another server may not understand the rules of a former one. All users are made again.
        redis_server.users_file(config).unlink(missing_ok=True)
        redis_server.write_config(config, address, self.home.data / "redis")
        self._redis = self.supervisor.start(
            ProcessSpec(
                name="redis",
                kind="redis",
                command=[str(binary), str(config)],
                environment=dict,
                cwd=self.home.data,
                log=self.home.logs / "redis.log",
                port=address.port,
                health_url=None,
                health=redis_health(address),
            )
        )
        await self._redis.wait_healthy(120)
        self.steps.finish("redis", f"Redis: {binary}, data in {self.home.data / 'redis'}")
        return address

    async def _upgrade(self, changed: list[Path]) -> None:
        """Bring bundles that a former version rendered up to date, before anything reads them."""
        try:
            await asyncio.to_thread(upgrade_engines, self.home.engines, changed)
            await asyncio.to_thread(upgrade_tenants, self.home.tenants, changed)
        except (EnginehouseError, OSError) as error:
            log.error(f"Bundles of a former version stay as they are: {error}", action="upgrade_failed")

    def _follow_gateway_parts(self) -> None:
        """Give the gateway's sidecar the parts from bundles. A part that is not allowed is reported instead."""
        assert self._gateway_parts
        bundles = {**self.home.engine_bundles(), **self.home.tenant_bundles()}
        for gone in self._gateway_parts.owners() - set(bundles):
            self._gateway_parts.remove(gone)
            self._refused.pop(gone, None)
        for owner, bundle in bundles.items():
            try:
                self._gateway_parts.put(owner, bundle)
                self._refused.pop(owner, None)
            except (EnginehouseError, OSError) as error:
                if self._refused.get(owner) != str(error):
                    key = "engine_id" if "--" in owner else "tenant"
                    log.error(
                        f"The gateway part of {owner} is not used: {error}", action="bundle_refused", **{key: owner}
                    )
                self._refused[owner] = str(error)
        self.write_state()


def _shown(keepers: Mapping[str, EngineKeeper]) -> dict[str, dict[str, str | None]]:
    return {engine_id: keeper.shown() for engine_id, keeper in keepers.items()}
