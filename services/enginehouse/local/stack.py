"""Run a whole deployment as processes of this machine: Redis, the gateway, and the engines of its home."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import structlog
import watchfiles

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import Slot, app_id
from enginehouse.contracts.problem import PROBLEM_FILE
from enginehouse.local import redis, rotation
from enginehouse.local.acquire import get_daprd
from enginehouse.local.broker_users import BrokerUsers
from enginehouse.local.containers.fleet import Fleet
from enginehouse.local.engine_keeper import EngineKeeper
from enginehouse.local.engine_removal import EngineRemoval
from enginehouse.local.gateway_parts import GatewayParts
from enginehouse.local.gateway_processes import GatewayProcesses
from enginehouse.local.health import Prober, redis_health
from enginehouse.local.home import Home, write_private
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import ProcessSpec, Supervised, Supervisor
from enginehouse.local.redis_users import user_of_gateway
from enginehouse.local.registry_process import registry_spec
from enginehouse.local.removals import Removal, Removals
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps
from enginehouse.local.tenant_removal import TenantRemoval
from enginehouse.registry import deploy, tenants
from enginehouse.registry.bundle import InvalidBundle, Workload, is_retired
from enginehouse.registry.deploy import promote_engine
from enginehouse.registry.upgrade import upgrade_engines, upgrade_tenants
from enginehouse.registry.versions import Versions, fingerprint, read_versions

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
    ready: bool = False
    _keepers: dict[str, EngineKeeper] = field(default_factory=dict)
    """The keepers of all slots that run, by app id."""
    _routed: dict[str, Versions] = field(default_factory=dict)
    """The versions of each engine, as its bundle last said."""
    _refused: dict[str, str] = field(default_factory=dict)
    _context: StackContext | None = None
    _gateway_parts: GatewayParts | None = None
    _redis: Supervised | None = None
    _broker_users: BrokerUsers | None = None
    _rotating: set[str] = field(default_factory=set)
    """Engines that get new credentials now."""
    _gateway: GatewayProcesses | None = None
    _registry: Supervised | None = None
    _removals: Removals | None = None
    _ports: PortPool = field(default_factory=PortPool)
    _prober: Prober = field(default_factory=Prober)
    _supervisor: Supervisor | None = None
    _background: Background = field(default_factory=Background)
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

    @property
    def engines(self) -> dict[str, EngineKeeper]:
        """Keepers of the active versions of this home's engines, by engine id."""
        return {keeper.engine_id: keeper for keeper in self._keepers.values() if self._role(keeper) == "active"}

    def _role(self, keeper: EngineKeeper) -> Literal["active", "trial", "former"]:
        """Say whether a slot gets the engine's jobs, is on trial, or ends the jobs that it had before."""
        routed = self._routed.get(keeper.engine_id)
        if routed is None or keeper.slot == routed.active:
            return "active"
        return "trial" if keeper.slot == routed.trial else "former"

    async def start(self, *, wait_for_engines: bool = True) -> None:
        """Start everything in the home and wait until it is healthy. A failing engine does not stop the others.

        Without `wait_for_engines`, wait only until the API takes jobs; engines may still be starting.
        """
        await asyncio.to_thread(deploy.sweep, self.home.engines)
        await asyncio.to_thread(tenants.sweep, self.home.tenants)
        rotation.forget_asked(self.home)
        for former in ("dapr-api-token", "app-api-token"):  # The tokens of all apps, which now have their own.
            self.home.secret_file(former).unlink(missing_ok=True)
        await self._upgrade([*self.home.engine_bundles().values(), *self.home.tenant_bundles().values()])
        fleet = await Fleet.start(self.home, self.supervisor.guard) if self.in_containers else None
        self.steps.update("daprd", "looking for the Dapr runtime")
        daprd = await get_daprd(self.supervisor.guard, self.steps)
        address = await self._start_redis()
        broker_users = self._broker_users = BrokerUsers(self.home, address)
        await asyncio.to_thread(broker_users.start)
        self._context = StackContext(
            home=self.home,
            daprd=daprd,
            redis=address,
            broker_users=broker_users,
            ports=self._ports,
            prober=self._prober,
            supervisor=self.supervisor,
            steps=self.steps,
            fleet=fleet,
        )
        self._gateway_parts = GatewayParts(self.home.gateway_parts)
        self._follow_gateway_parts()
        self.steps.update("gateway", "starting the gateway and its sidecar")
        login = await asyncio.to_thread(broker_users.login, user_of_gateway())
        self._gateway = GatewayProcesses.start(self._context, self.port, login)
        self._registry = self.supervisor.start(registry_spec(self._context, self.port))
        # Start the engines now, so that they load while the gateway starts.
        self._follow_engines()
        await self._gateway.wait_healthy()
        await self._registry.wait_healthy(_REGISTRY_START_SECONDS)
        self.steps.finish(
            "gateway",
            f"gateway: {self.url}, gRPC 127.0.0.1:{self._gateway.grpc_port}, registry: {self.registry_url}",
        )
        kinds: list[Removal] = [EngineRemoval(self._context, self._runs), TenantRemoval(self._context)]
        self._removals = Removals(self.home, self.url, self._gateway.sidecar, kinds, self.write_state)
        self._background.keep("removals", self._removals.run)
        self._background.keep("users of the broker", broker_users.keep)
        if wait_for_engines:
            await self.settled()
        self.ready = True
        self.write_state()

    def _runs(self, engine_id: str) -> bool:
        return any(keeper.engine_id == engine_id for keeper in self._keepers.values())

    async def settled(self) -> None:
        """Wait until every engine that is starting or stopping is running, failed or gone."""
        await asyncio.gather(*(keeper.settled.wait() for keeper in self._keepers.values()))

    async def follow(self) -> None:
        """Start, stop and restart engines as bundles come, go and change, until `quit`."""
        async for changes in watchfiles.awatch(
            self.home.engines,
            self.home.tenants,
            self.home.exchange,
            self.home.secrets,
            stop_event=self._quit,
            step=50,
            debounce=200,
        ):
            self._restart_replicas([Path(path) for change, path in changes if change == watchfiles.Change.added])
            self._rotate_credentials()
            await self._upgrade([Path(path) for _, path in changes])
            self._follow_gateway_parts()
            self._follow_engines()
            self._retry_engines({Path(path) for _, path in changes})

    def quit(self) -> None:
        """End `follow`."""
        self._quit.set()

    async def stop(self) -> None:
        """Stop everything in reverse order, engines at the same time. May be called at any moment."""
        self.quit()
        self.ready = False
        await self._background.close()
        keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.want(None)
        if keepers:
            await asyncio.wait([keeper.task for keeper in keepers])
        if self._gateway:
            await self._gateway.stop()
        await self.supervisor.close()
        await self._prober.close()
        self._ports.close()
        self.write_state()

    def write_state(self) -> None:
        """Write the state file that `enginehouse status` reads."""
        state = {
            "supervisor": os.getpid(),
            "url": self.url,
            "grpc": f"127.0.0.1:{self._gateway.grpc_port}" if self._gateway else None,
            "registry": self.registry_url,
            "ready": self.ready,
            "containers": self.in_containers,
            "started_at": self._started_at,
            "processes": self.supervisor.statuses(),
            "engines": {engine_id: keeper.shown() for engine_id, keeper in self.engines.items()},
            "trials": {
                keeper.engine_id: keeper.shown() for keeper in self._keepers.values() if self._role(keeper) == "trial"
            },
            "refused": self._refused,
            "broker": self._broker_users.problem if self._broker_users else None,
            "removing": self._removals.waits_for if self._removals else {},
        }
        write_private(self.home.state_file, json.dumps(state))

    async def _start_redis(self) -> redis.RedisAddress:
        address = redis.external()
        if address:
            self.steps.finish("redis", f"Redis: {address.host}:{address.port} (REDIS_URL)")
            return address
        binary = redis.find_server()
        address = redis.RedisAddress("127.0.0.1", self._ports.take(), self.home.secret("redis"))
        config = self.home.run / "redis.conf"
        # Another server may not understand the rules of a former one. All users are made again.
        redis.users_file(config).unlink(missing_ok=True)
        redis.write_config(config, address, self.home.data / "redis")
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

    def _follow_engines(self) -> None:
        """Run in each slot what the bundles say. A slot that gets no jobs any longer ends those that it has first."""
        bundles = {name: bundle for name, bundle in self.home.engine_bundles().items() if not is_retired(bundle)}
        wanted: dict[str, str] = {}
        for engine_id, bundle in bundles.items():
            for slot in self._slots_to_run(engine_id, bundle):
                app = app_id(engine_id, slot)
                keeper = self._keepers.get(app)
                if keeper is None or keeper.task.done():
                    keeper = self._keepers[app] = self._new_keeper(engine_id, slot, bundle)
                wanted[app] = fingerprint(bundle, slot)
        self._routed = {engine_id: routed for engine_id, routed in self._routed.items() if engine_id in bundles}
        for app, keeper in self._keepers.items():
            keeper.want(wanted.get(app), finish_jobs=keeper.engine_id in bundles and app not in wanted)
            self._judge_if_due(keeper)
        self.write_state()

    def _slots_to_run(self, engine_id: str, bundle: Path) -> list[Slot]:
        try:
            routed = self._routed[engine_id] = read_versions(bundle)
        except InvalidBundle:
            # What runs goes on, or fails with the reason: its fingerprint shows the mistake as well.
            return [keeper.slot for keeper in self._keepers.values() if keeper.engine_id == engine_id] or ["a"]
        return routed.running

    def _new_keeper(self, engine_id: str, slot: Slot, bundle: Path) -> EngineKeeper:
        assert self._context
        keeper = EngineKeeper(self._context, engine_id, slot, bundle, self._note_change)

        def forget(_: "asyncio.Task[None]") -> None:
            if self._keepers.get(app_id(engine_id, slot)) is keeper:
                del self._keepers[app_id(engine_id, slot)]
                self.write_state()

        keeper.task.add_done_callback(forget)
        return keeper

    def _note_change(self, keeper: EngineKeeper) -> None:
        self._judge_if_due(keeper)
        self.write_state()

    def _judge_if_due(self, keeper: EngineKeeper) -> None:
        """Try the own examples of a version that is to be promoted, and of one that is its engine's only one."""
        routed = self._routed.get(keeper.engine_id)
        if routed is None or keeper.is_judged or keeper.state != "running":
            return
        if routed.promote == keeper.slot:
            self._background.start(self._promote(keeper, keeper.begin_to_judge()))
        elif routed.active == keeper.slot and len(routed.slots) == 1:
            self._background.start(keeper.begin_to_judge())

    async def _promote(self, keeper: EngineKeeper, judging: Awaitable[Workload | None]) -> None:
        """Give a version on trial the engine's jobs, if it answers its own examples."""
        judged = await judging
        if judged is None:
            return
        try:
            await asyncio.to_thread(promote_engine, self.home.engines, keeper.engine_id, judged)
        except (EnginehouseError, OSError) as error:
            log.warning(
                f"The version on trial of {keeper.engine_id} is not promoted: {error}",
                action="promote_failed",
                engine_id=keeper.engine_id,
            )
            return
        log.info(
            f"Slot {keeper.slot} gets the jobs of {keeper.engine_id}", action="promoted", engine_id=keeper.engine_id
        )

    def _retry_engines(self, changed: set[Path]) -> None:
        for keeper in self._keepers.values():
            if any(path.is_relative_to(self.home.engines / keeper.engine_id) for path in changed):
                keeper.retry()

    def _rotate_credentials(self) -> None:
        for engine_id in rotation.asked(self.home):
            if engine_id not in self._rotating:
                self._rotating.add(engine_id)
                self._background.start(self._rotate(engine_id))

    async def _rotate(self, engine_id: str) -> None:
        assert self._broker_users
        try:
            await rotation.rotate(self.home, self._broker_users, engine_id, partial(self._renewals, engine_id))
        finally:
            self._rotating.discard(engine_id)

    def _renewals(self, engine_id: str) -> list[rotation.Renew]:
        return [keeper.renew_credentials for keeper in self._keepers.values() if keeper.engine_id == engine_id]

    def _restart_replicas(self, asked: list[Path]) -> None:
        for path in asked:
            if path.parent.parent == self.home.exchange and path.name != PROBLEM_FILE and path.is_file():
                path.unlink(missing_ok=True)
                for keeper in self._keepers.values():
                    keeper.restart_replica(path)
