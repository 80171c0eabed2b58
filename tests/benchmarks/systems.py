"""What is loaded: a system is where its jobs are posted, and its processes. Here are those of Enginehouse."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.load import LoadFailed, Target, takes_jobs
from tests.faults.kept import KeptApp, second_gateway
from tests.support.dapr import start_redis
from tests.support.postgres import postgres_server
from tests.support.stack import StackHandle, running_stack, until

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.tenant import Limits, Tenant
from enginehouse.local.home import Home
from enginehouse.registry.bundle import render_engine, render_tenant, write_bundle

HERE = Path(__file__).parent
TENANT, ENGINE = "tests", "echo"
_ECHO = HERE.parent / "engines" / ENGINE
_PROCESSES = {"engine": f"{TENANT}--{ENGINE}--a.engine-0", "runner": f"{TENANT}--{ENGINE}--a.runner"}
_PROCESSES |= {"runner.daprd": f"{TENANT}--{ENGINE}--a.daprd", "gateway": "gateway", "gateway.daprd": "gateway.daprd"}


@dataclass
class System:
    """A system that answers jobs over HTTP."""

    targets: Sequence[Target]
    """Where jobs are posted, to each its share."""
    processes: dict[str, int]
    """Process ids by what they are."""
    run_batches: Callable[[int, int], float] | None = None
    """Submits so many batches of so many jobs, and returns the seconds until all have ended."""
    stack: StackHandle | None = None


Start = Callable[[Path], AbstractContextManager[System]]
"""Starts a system that keeps its files in a folder, which it makes."""


def _system(stack: StackHandle, **more: int) -> System:
    pids = {name: stack.pid(part) for name, part in _PROCESSES.items()} | more
    target = Target(stack.base_url, f"/v1/engines/{ENGINE}/jobs", stack.keys[TENANT])
    return System([target], pids, partial(submit_batches, stack), stack)


@contextmanager
def enginehouse(
    folder: Path, *, more_engines: Sequence[str] = (), more_tenants: Sequence[str] = ()
) -> Iterator[System]:
    """A stack as `enginehouse up` runs it, with the echo engine. The gateway is shown `more_engines`, by their ids.

    `more_tenants` get a key. While the stack runs, nobody may: `up` would look at all bundles then, and take away the
    engines that have none.
    """
    _allow_much(folder)
    with running_stack(folder, [_ECHO], tenants=[TENANT, *more_tenants]) as stack:
        if more_engines:
            show_engines(stack, more_engines)
        yield _system(stack, redis=stack.pid("redis"))


@contextmanager
def over_postgres(folder: Path, *, gateways: int) -> Iterator[System]:
    """A stack with so many gateways over one PostgreSQL, whose commits wait for the disk."""
    _allow_much(folder)
    with ExitStack() as stops:
        postgres = stops.enter_context(postgres_server(durable=True))
        redis = start_redis(folder.with_suffix(".redis"))
        stops.callback(redis.stop)
        env = {
            "REDIS_URL": f"redis://:{redis.address.password}@127.0.0.1:{redis.address.port}",
            "ENGINEHOUSE_GATEWAY_LEDGER_URL": postgres.url,
        }
        stack = stops.enter_context(running_stack(folder, [_ECHO], tenants=[TENANT], env=env))
        system = _system(stack, redis=redis.pid, postgres=postgres.started.pid)
        for number in range(2, gateways + 1):
            _join(system, stops.enter_context(second_gateway(stack, env, f"gateway-{number}")), number)
        yield system


def _join(system: System, gateway: KeptApp, number: int) -> None:
    """Give a system one more gateway."""
    first = system.targets[0]
    target = Target(gateway.url, first.path, first.api_key)
    until(lambda: takes_jobs([target]), f"gateway {number} takes jobs")
    system.targets = [*system.targets, target]
    for name, kept in ((f"gateway-{number}", gateway.app), (f"gateway-{number}.daprd", gateway.daprd)):
        assert kept.started
        system.processes[name] = kept.started.pid


def _allow_much(folder: Path) -> None:
    """One tenant with the load of many needs more than one may have."""
    limits = Limits(submits_per_second=100_000)
    write_bundle(Home.at(folder).tenants / TENANT, render_tenant(Tenant(name=TENANT, limits=limits)))


def show_engines(stack: StackHandle, engines: Sequence[str]) -> None:
    """Show the gateway engines: their parts of its sidecar, without the engines themselves."""
    spec = EngineSpec.model_validate({"tenant": TENANT, "name": "idle"})
    part = render_engine(spec, ".")["gateway/results.yaml"]
    # Stopped meanwhile: one that runs would load its whole folder again for every file.
    pid = stack.signal("gateway.daprd", signal.SIGSTOP)
    for engine in engines:
        (stack.home.gateway_parts / f"{engine}.results.yaml").write_text(part.replace(spec.id, engine))
    stack.kill("gateway.daprd")
    stack.until_restarted("gateway.daprd", pid)

    def known() -> bool:
        # Not all, because each look is audited. The tenant of this home is an administrator, who sees every tenant's.
        return all(stack.call("GET", f"/v1/engines/{engine}").status == 200 for engine in engines[::50])

    until(known, f"the gateway knows {len(engines)} more engines", timeout_seconds=240)


def submit_batches(stack: StackHandle, batches: int, size: int) -> float:
    """Submit so many batches of so many jobs. Return the seconds until all have ended; raise LoadFailed if any did not succeed."""
    jobs = [{"engine": ENGINE, "input": {"text": "hello"}}] * size

    def counts() -> dict[str, int]:
        found: dict[str, int] = stack.call("GET", f"/v1/engines/{ENGINE}", tenant=TENANT).body["queue"]["jobs"]
        return found

    before, began = counts(), time.perf_counter()
    for _ in range(batches):
        answer = stack.call("POST", "/v1/jobs/batch", {"jobs": jobs}, tenant=TENANT)
        refused = [job for job in answer.body["jobs"] if "problem" in job]
        if answer.status != 202 or refused:
            raise LoadFailed(f"a batch was answered {answer.status}; refused: {len(refused)}, first {refused[:1]}")
    ended = before["succeeded"] + batches * size
    until(lambda: counts()["succeeded"] >= ended or counts()["failed"] > before["failed"], "all jobs end", 300)
    took, after = time.perf_counter() - began, counts()
    if after["succeeded"] != ended or after["failed"] != before["failed"]:
        raise LoadFailed(f"{batches * size} jobs were submitted; counts before: {before}, after: {after}")
    return took
