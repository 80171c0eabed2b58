"""Run a whole deployment as processes of this machine: Redis, the gateway, and the engines of its home."""

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog
import watchfiles

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.problem import PROBLEM_FILE
from enginehouse.local import redis
from enginehouse.local.acquire import get_daprd
from enginehouse.local.engine_keeper import EngineKeeper, fingerprint
from enginehouse.local.gateway_parts import GatewayParts
from enginehouse.local.gateway_processes import GatewayProcesses
from enginehouse.local.health import Prober, redis_health
from enginehouse.local.home import Home, write_private
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import ProcessSpec, Supervised, Supervisor
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import Steps

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Stack:
    """A running deployment. After `start` it follows the bundles in its home until `stop`."""

    home: Home
    port: int
    steps: Steps
    ready: bool = False
    _engines: dict[str, EngineKeeper] = field(default_factory=dict)
    _refused: dict[str, str] = field(default_factory=dict)
    _context: StackContext | None = None
    _gateway_parts: GatewayParts | None = None
    _redis: Supervised | None = None
    _gateway: GatewayProcesses | None = None
    _ports: PortPool = field(default_factory=PortPool)
    _prober: Prober = field(default_factory=Prober)
    _supervisor: Supervisor | None = None
    _quit: asyncio.Event = field(default_factory=asyncio.Event)
    _started_at: float = field(default_factory=time.time)

    @property
    def url(self) -> str:
        """URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def supervisor(self) -> Supervisor:
        """Supervisor of this stack's processes, made at first use."""
        if self._supervisor is None:
            self._supervisor = Supervisor(self.write_state)
        return self._supervisor

    @property
    def engines(self) -> dict[str, EngineKeeper]:
        """Engines of this home, by id."""
        return self._engines

    async def start(self, *, wait_for_engines: bool = True) -> None:
        """Start everything in the home and wait until it is healthy. A failing engine does not stop the others.

        Without `wait_for_engines`, wait only until the API takes jobs; engines may still be starting.
        """
        self.steps.update("daprd", "looking for the Dapr runtime")
        daprd = await get_daprd(self.supervisor.guard, self.steps)
        address = await self._start_redis()
        self._context = StackContext(
            home=self.home,
            daprd=daprd,
            redis=address,
            api_token=self.home.secret("dapr-api-token"),
            app_token=self.home.secret("app-api-token"),
            ports=self._ports,
            prober=self._prober,
            supervisor=self.supervisor,
            steps=self.steps,
        )
        self._gateway_parts = GatewayParts(self.home.gateway_parts)
        self._follow_gateway_parts()
        self.steps.update("gateway", "starting the gateway and its sidecar")
        self._gateway = GatewayProcesses.start(self._context, self.port)
        # Start the engines now, so that they load while the gateway starts.
        self._follow_engines()
        await self._gateway.wait_healthy()
        self.steps.finish("gateway", f"gateway: {self.url}")
        if wait_for_engines:
            await self.settled()
        self.ready = True
        self.write_state()

    async def settled(self) -> None:
        """Wait until every engine that is starting or stopping is running, failed or gone."""
        await asyncio.gather(*(engine.settled.wait() for engine in self._engines.values()))

    async def follow(self) -> None:
        """Start, stop and restart engines as bundles come, go and change, until `quit`."""
        async for changes in watchfiles.awatch(
            self.home.engines, self.home.tenants, self.home.exchange, stop_event=self._quit, step=50, debounce=200
        ):
            self._restart_replicas([Path(path) for change, path in changes if change == watchfiles.Change.added])
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
        keepers = list(self._engines.values())
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
            "ready": self.ready,
            "started_at": self._started_at,
            "processes": self.supervisor.statuses(),
            "engines": {engine.engine_id: engine.shown() for engine in self._engines.values()},
            "refused": self._refused,
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
        bundles = self.home.engine_bundles()
        for engine_id, bundle in bundles.items():
            keeper = self._engines.get(engine_id)
            if keeper is None or keeper.task.done():
                keeper = self._engines[engine_id] = self._new_keeper(engine_id, bundle)
            keeper.want(fingerprint(bundle))
        for engine_id in set(self._engines) - set(bundles):
            self._engines[engine_id].want(None)

    def _new_keeper(self, engine_id: str, bundle: Path) -> EngineKeeper:
        assert self._context
        keeper = EngineKeeper(self._context, engine_id, bundle, self.write_state)

        def forget(_: "asyncio.Task[None]") -> None:
            if self._engines.get(engine_id) is keeper:
                del self._engines[engine_id]
                self.write_state()

        keeper.task.add_done_callback(forget)
        return keeper

    def _retry_engines(self, changed: set[Path]) -> None:
        for engine in self._engines.values():
            if any(path.is_relative_to(self.home.engines / engine.engine_id) for path in changed):
                engine.retry()

    def _restart_replicas(self, asked: list[Path]) -> None:
        for path in asked:
            if path.parent.parent == self.home.exchange and path.name != PROBLEM_FILE and path.is_file():
                path.unlink(missing_ok=True)
                for engine in self._engines.values():
                    engine.restart_replica(path)
