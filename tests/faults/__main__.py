"""`make faults`: everything is broken under load, in a seeded random order. ARGS='--seed 7 --jobs 2000 --faults 40'."""

import argparse
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.faults.api import Api
from tests.faults.broker import Broker, broker
from tests.faults.campaign import Campaign, Fault, shuffled
from tests.faults.evidence import Evidence, make_witness
from tests.faults.kept import SecondGateway, second_gateway
from tests.faults.load import Load
from tests.faults.receiver import receiving
from tests.faults.rolling import roll
from tests.support.postgres import PostgresServer, postgres_server
from tests.support.stack import StackHandle, running_stack, until
from tests.support.toxics import Proxy, proxy_to

from enginehouse.registry.tenants import rotate_webhook_secret

_ENGINES = ("witness", "steady")
_PARTS = ("engine-0", "runner", "daprd")


def _process(stack: StackHandle, part: str) -> Callable[[int], object]:
    return lambda number: stack.signal(part, number)


def _during(begin: Callable[[], object], end: Callable[[], object], seconds: float) -> Callable[[], None]:
    def inject() -> None:
        begin()
        try:
            time.sleep(seconds)
        finally:
            end()

    return inject


def _pause(name: str, send: Callable[[int], object], seconds: float) -> Fault:
    inject = _during(lambda: send(signal.SIGSTOP), lambda: send(signal.SIGCONT), seconds)
    return Fault(f"pause {name} {seconds:g} s", inject, counts_from_start=False)


def process_faults(stack: StackHandle, second: SecondGateway) -> list[Fault]:
    """SIGKILL, SIGSTOP and SIGTERM for each process that has a keeper."""
    targets = {
        f"{engine} {part}": _process(stack, f"tests--{engine}--a.{part}") for engine in _ENGINES for part in _PARTS
    }
    targets |= {name: _process(stack, name) for name in ("gateway", "gateway.daprd")}
    targets |= {"gateway-2": second.gateway.signal, "gateway-2.daprd": second.daprd.signal}
    faults = [Fault(f"kill {name}", partial(send, signal.SIGKILL)) for name, send in targets.items()]
    for name in ("witness engine-0", "steady runner", "witness daprd", "gateway", "gateway-2.daprd"):
        faults.append(_pause(name, targets[name], 6))

    pairs = [(f"tests--{engine}--a.runner", f"tests--{engine}--a.daprd") for engine in _ENGINES]
    pairs.append(("gateway", "gateway.daprd"))

    def restart_all() -> None:
        for app, daprd in pairs:
            roll(stack, app, daprd)

    return [*faults, Fault("rolling restart (SIGTERM)", restart_all, counts_from_start=False)]


def store_faults(redis: Broker, postgres: PostgresServer, to_redis: Proxy, to_postgres: Proxy) -> list[Fault]:
    """What may happen to Redis and PostgreSQL, and to the network before them."""

    def crash_postgres() -> None:
        postgres.kill()
        postgres.restart()

    def come_back_older() -> None:
        redis.copy_data()
        time.sleep(5)
        redis.come_back_older()

    def send(number: int) -> None:
        redis.started.process.send_signal(number)

    def slow(proxy: Proxy, seconds: float) -> Callable[[], None]:
        return _during(lambda: setattr(proxy, "delay_seconds", seconds), proxy.mend, 6)

    random_ = random.Random(1)
    faults = [
        Fault("kill redis", redis.kill),
        Fault("redis comes back older", come_back_older, counts_from_start=False),
        _pause("redis", send, 5),
        Fault("kill postgres", crash_postgres),
        _pause("postgres", postgres.signal, 5),
        Fault("network to redis is cut", _during(to_redis.cut, to_redis.mend, 5), counts_from_start=False),
        Fault("network to redis is slow", slow(to_redis, 0.2), counts_from_start=False),
        Fault("network to postgres is cut", _during(to_postgres.cut, to_postgres.mend, 5), counts_from_start=False),
        Fault("network to postgres is slow", slow(to_postgres, 0.1), counts_from_start=False),
        Fault("duplicate, stale, strange events", lambda: redis.trouble("engine.tests--witness", random_)),
    ]
    if redis.disk_is_small:
        full = _during(redis.fill_disk, redis.free_disk, 5)
        faults.append(Fault("disk of redis is full", full, counts_from_start=False))
    else:
        print("no full disk this time: a small one could not be mounted (that needs root)")
    return faults


def run(folder: Path, stops: ExitStack, seed: int, asked: argparse.Namespace) -> bool:
    """One campaign in `folder`; whether all that is promised held."""
    enter = stops.enter_context
    evidence = Evidence(folder / "runs")
    evidence.folder.mkdir()
    redis, postgres, receiver = enter(broker(folder / "broker")), enter(postgres_server()), enter(receiving())
    to_redis, to_postgres = enter(proxy_to(redis.address.port)), enter(proxy_to(postgres.port))
    env = {
        "REDIS_URL": f"redis://:{redis.address.password}@127.0.0.1:{to_redis.port}",
        "ENGINEHOUSE_GATEWAY_LEDGER_URL": postgres.url.replace(str(postgres.port), str(to_postgres.port)),
        "ENGINEHOUSE_GATEWAY_WEBHOOK_ALLOW_INSIDE": "true",
    }
    stack = enter(running_stack(folder / "home", [make_witness(folder, name, evidence) for name in _ENGINES], env=env))
    second = enter(second_gateway(stack, env))
    receiver.secret = rotate_webhook_secret(stack.home.webhook_secrets, "tests")
    urls = [stack.base_url, second.url]
    load = Load(
        Api(urls, stack.keys["tests"]),
        [f"tests--{name}" for name in _ENGINES],
        per_second=8,
        webhook=receiver.url,
        seed=seed,
    )
    readers = [Api([url], stack.keys["tests"]) for url in urls]
    campaign = Campaign(load, evidence, readers, receiver, say=lambda line: print(line, flush=True))
    everything = [*process_faults(stack, second), *store_faults(redis, postgres, to_redis, to_postgres)]
    order = shuffled(
        [fault for fault in everything if any(text in fault.name for text in asked.only.split(","))], asked.faults, seed
    )
    load.start()
    until(lambda: len(load.present()) >= 50, "the load is on")
    try:
        for fault in order:
            campaign.strike(fault)
            campaign.read_some(random.Random(seed))
        while len(load.present()) < asked.jobs and not load.problems:
            time.sleep(1)
    finally:
        campaign.finish()
    found = campaign.judge()
    print(f"\nseed {seed}\n{campaign.table()}")
    print("\n".join(["", "What does not hold:", *found]) if found else "\nEverything holds.")
    return not found


def main() -> None:
    """Parse the arguments and run; exit status 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="order of the faults; default: a new one, printed")
    parser.add_argument("--jobs", type=int, default=2_000, help="accepted at least")
    parser.add_argument("--faults", type=int, default=36)
    parser.add_argument("--only", default="", help="only faults whose name holds one of these texts: older,rolling")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and evidence")
    arguments = parser.parse_args()
    seed = secrets.randbelow(10**6) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-faults-"))
    print(f"seed {seed}, in {folder}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stops:
        held = run(folder, stops, seed, arguments)
    if held and not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(0 if held else 1)


main()
