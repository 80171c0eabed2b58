"""The faults of a campaign: those of each kind, by name, and the pairs that come together."""

import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tests.faults.broker import Broker
from tests.faults.campaign import Fault
from tests.faults.kept import KeptApp
from tests.faults.rolling import roll, roll_engine
from tests.faults.versions import NewVersions
from tests.support.postgres import PostgresServer
from tests.support.stack import StackHandle
from tests.support.toxics import Proxy

QUICK = "quick"
"""The engine that gets batches: its events hand over several jobs each."""
ENGINES = ("witness", "steady", QUICK)
_PARTS = ("engine-0", "runner", "daprd")
_PAUSED = ("witness engine-0", "steady runner", "witness daprd", "gateway", "gateway-2.daprd", "witness-2 runner")
_TOGETHER = [
    ("kill witness runner", "kill redis"),
    ("kill steady engine-0", "kill steady runner"),
    ("kill gateway", "kill postgres"),
    ("kill steady daprd", "network to redis is cut"),
    ("kill gateway-2", "pause redis 5 s"),
    ("kill witness daprd", "kill witness-2 daprd"),
    ("kill gateway", "kill gateway-2"),
    ("kill redis", "network to postgres is cut"),
]


@dataclass(frozen=True)
class Deployment:
    """All that a campaign can break."""

    stack: StackHandle
    gateway_2: KeptApp
    witness_2: KeptApp
    redis: Broker
    postgres: PostgresServer
    to_redis: Proxy
    to_postgres: Proxy
    new_versions: NewVersions
    to_engine: Proxy
    """Between the runner of `steady` and its engine."""


def faults_of(deployment: Deployment) -> list[Fault]:
    """Every fault there is."""
    each = [*_of_processes(deployment), *_of_stores(deployment), *_of_networks(deployment), *_of_disks(deployment)]
    by_name = {fault.name: fault for fault in each}
    together = [_together(by_name[one], by_name[other]) for one, other in _TOGETHER]
    return [*each, *together, *deployment.new_versions.faults()]


def _during(begin: Callable[[], object], end: Callable[[], object], seconds: float) -> Callable[[], None]:
    def inject() -> None:
        begin()
        try:
            time.sleep(seconds)
        finally:
            end()

    return inject


def _lasting(name: str, begin: Callable[[], object], end: Callable[[], object], seconds: float) -> Fault:
    return Fault(name, _during(begin, end, seconds), counts_from_start=False)


def _pause(name: str, send: Callable[[int], object], seconds: float) -> Fault:
    return _lasting(f"pause {name} {seconds:g} s", lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT), seconds)


def _together(one: Fault, other: Fault) -> Fault:
    """Both at once; recovery counts from the end of the later one."""

    def inject() -> None:
        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(fault.inject) for fault in (one, other)]:
                done.result()

    return Fault(f"{one.name} + {other.name}", inject, counts_from_start=False)


def _of_processes(deployment: Deployment) -> list[Fault]:
    """SIGKILL, SIGSTOP and SIGTERM for each process that has a keeper."""
    stack = deployment.stack
    targets: dict[str, Callable[[int], object]] = {
        f"{engine} {part}": partial(stack.signal, f"tests--{engine}--a.{part}") for engine in ENGINES for part in _PARTS
    }
    targets |= {name: partial(stack.signal, name) for name in ("gateway", "gateway.daprd")}
    for name, kept in (("gateway-2", deployment.gateway_2), ("witness-2", deployment.witness_2)):
        app, daprd = (name, f"{name}.daprd") if name == "gateway-2" else (f"{name} runner", f"{name} daprd")
        targets |= {app: kept.app.signal, daprd: kept.daprd.signal}
    pairs = [(f"tests--{engine}--a.runner", f"tests--{engine}--a.daprd") for engine in ENGINES]
    pairs.append(("gateway", "gateway.daprd"))

    def restart_all() -> None:
        for app, daprd in pairs:
            roll(stack, app, daprd)
        for engine in ENGINES:
            roll_engine(stack, f"tests--{engine}--a.engine-0")

    return [
        *(Fault(f"kill {name}", partial(send, signal.SIGKILL)) for name, send in targets.items()),
        *(_pause(name, targets[name], 6) for name in _PAUSED),
        Fault("rolling restart (SIGTERM)", restart_all, counts_from_start=False),
    ]


def _of_stores(deployment: Deployment) -> list[Fault]:
    redis, postgres = deployment.redis, deployment.postgres

    def crash_postgres() -> None:
        postgres.kill()
        postgres.restart()

    def come_back_older() -> None:
        redis.copy_data()
        time.sleep(5)
        redis.come_back_older()

    random_ = random.Random(1)

    def trouble() -> None:
        for engine in ("witness", QUICK):
            redis.trouble(f"engine.tests--{engine}", random_)

    return [
        Fault("kill redis", redis.kill),
        Fault("redis comes back older", come_back_older, counts_from_start=False),
        _pause("redis", lambda number: redis.started.process.send_signal(number), 5),
        Fault("kill postgres", crash_postgres),
        _pause("postgres", postgres.signal, 5),
        Fault("duplicate, stale, strange events", trouble),
    ]


def _of_networks(deployment: Deployment) -> list[Fault]:
    found = []
    for name, proxy, delay_seconds in (
        ("redis", deployment.to_redis, 0.2),
        ("postgres", deployment.to_postgres, 0.1),
        ("steady's engine", deployment.to_engine, 0.5),
    ):
        found.append(_lasting(f"network to {name} is cut", proxy.cut, proxy.mend, 5))
        slow = partial(setattr, proxy, "delay_seconds", delay_seconds)
        found.append(_lasting(f"network to {name} is slow", slow, proxy.mend, 6))
    return found


def _of_disks(deployment: Deployment) -> list[Fault]:
    redis, postgres = deployment.redis, deployment.postgres
    if not redis.disk.is_mounted:
        print("no full disk this time: a small one could not be mounted (that needs root)")
        return []

    def room_for_postgres() -> None:
        postgres.disk.free()
        postgres.restart()

    return [
        _lasting("disk of redis is full", redis.disk.fill, redis.disk.free, 5),
        _lasting("disk of postgres is full", postgres.disk.fill, room_for_postgres, 5),
    ]
