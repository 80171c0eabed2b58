"""`make faults` breaks everything under load, in a seeded random order. ARGS='--seed 7 --jobs 2000 --faults 40'."""

import argparse
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.faults.api import Api
from tests.faults.broker import broker
from tests.faults.campaign import Campaign, shuffled
from tests.faults.catalogue import ENGINES, QUICK, Deployment, faults_of
from tests.faults.evidence import Evidence, make_witness
from tests.faults.kept import second_gateway, second_worker
from tests.faults.load import Load
from tests.faults.receiver import receiving
from tests.faults.versions import NewVersions
from tests.support.postgres import postgres_server
from tests.support.stack import running_stack, until
from tests.support.toxics import proxy_to

from enginehouse.registry.tenants import rotate_webhook_secret


def deploy(folder: Path, stops: ExitStack, evidence: Evidence) -> Deployment:
    """Two gateways over one ledger; engines with two workers, behind a proxy, and with one version after the other."""
    enter = stops.enter_context
    redis, postgres = enter(broker(folder / "broker")), enter(postgres_server())
    to_redis, to_postgres = enter(proxy_to(redis.address.port)), enter(proxy_to(postgres.port))
    env = {
        "REDIS_URL": f"redis://:{redis.address.password}@127.0.0.1:{to_redis.port}",
        "ENGINEHOUSE_GATEWAY_LEDGER_URL": postgres.url.replace(str(postgres.port), str(to_postgres.port)),
        "ENGINEHOUSE_GATEWAY_WEBHOOK_ALLOW_INSIDE": "true",
    }
    witness = make_witness(folder, "witness", evidence)
    stack = enter(running_stack(folder / "home", [witness], env=env))
    # It listens at another address than the one where its runner looks for it: there stands the proxy.
    steady = stack.deploy(make_witness(folder, "steady", evidence, HOST="127.0.0.2"), wait=False)
    port = until(lambda: stack.processes().get(f"{steady}--a.engine-0", {}).get("port"), f"{steady} has a port", 60)
    to_engine = enter(proxy_to(port, "127.0.0.2", port))
    stack.until_engine(steady)
    changing = make_witness(folder, "changing", evidence)
    for source in (changing, make_witness(folder, QUICK, evidence)):
        stack.deploy(source)
    return Deployment(
        stack=stack,
        gateway_2=enter(second_gateway(stack, env)),
        witness_2=enter(second_worker(stack, "tests--witness", witness, env["REDIS_URL"])),
        new_versions=NewVersions(stack, changing),
        redis=redis,
        postgres=postgres,
        to_redis=to_redis,
        to_postgres=to_postgres,
        to_engine=to_engine,
    )


def run(folder: Path, stops: ExitStack, seed: int, asked: argparse.Namespace) -> bool:
    """One campaign in `folder`; whether all that is promised held."""
    evidence = Evidence(folder / "runs")
    evidence.folder.mkdir()
    receiver = stops.enter_context(receiving())
    deployment = deploy(folder, stops, evidence)
    stack, second = deployment.stack, deployment.gateway_2
    receiver.secret = rotate_webhook_secret(stack.home.webhook_secrets, "tests")
    urls = [stack.base_url, second.url]
    load = Load(
        Api(urls, stack.keys["tests"]),
        [*(f"tests--{name}" for name in ENGINES if name != QUICK), deployment.new_versions.engine],
        per_second=8,
        webhook=receiver.url,
        batches=f"tests--{QUICK}",
        seed=seed,
    )
    readers = [Api([url], stack.keys["tests"]) for url in urls]
    campaign = Campaign(load, evidence, readers, receiver, say=lambda line: print(line, flush=True))
    wanted = [fault for fault in faults_of(deployment) if any(text in fault.name for text in asked.only.split(","))]
    order = shuffled(wanted, asked.faults, seed)
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
    found = [*campaign.judge(), *deployment.new_versions.judge(load)]
    events = deployment.redis.events(f"engine.tests--{QUICK}")
    shared = sum(1 for event in events if isinstance(event.get("data"), dict) and event["data"].get("also"))
    if not shared:
        found.append(f"none of {len(events)} events of {QUICK} handed over several jobs: that was not tried")
    print(f"\nseed {seed}\n{campaign.table()}\n{shared} of {len(events)} events of {QUICK} handed over several jobs")
    print("\n".join(["", "What does not hold:", *found]) if found else "\nEverything holds.")
    return not found


def main() -> None:
    """Parse the arguments and run; exit status 1 if something does not hold."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="order of the faults; default: a new one, printed")
    parser.add_argument("--jobs", type=int, default=2_000, help="accepted at least")
    parser.add_argument("--faults", type=int, default=40)
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
