"""The parts of a run. Each starts its systems, lets them take turns for several rounds, and stops them."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

from tests.benchmarks.filled import measure_filled_ledger
from tests.benchmarks.load import post_jobs
from tests.benchmarks.measure import Run, rotated
from tests.benchmarks.peers import PEERS
from tests.benchmarks.processes import pss_mib
from tests.benchmarks.results import BATCHES, FEW, IDLE, MANY, ONE, SUBMIT
from tests.benchmarks.systems import TENANT, System, enginehouse, over_postgres

BATCH_COUNT, BATCH_SIZE = 10, 1_000


def compare(run: Run) -> None:
    """Compare Enginehouse with what it replaces, and with what costs least."""
    with ExitStack() as stops:
        # Alone at first: PSS counts in part only what processes of other systems share with it.
        systems = run.start({"enginehouse": enginehouse}, stops)
        post_jobs(systems["enginehouse"].targets, "wait", 1, 1)
        _measure_idle_memory(run, systems["enginehouse"])
        systems |= run.start(PEERS, stops)
        for number in run.turns("peers", systems):
            for load in (ONE, FEW, MANY):
                run.load(load, systems, number)
            _run_batches(run, systems, number)
        for name, system in systems.items():
            run.results.add(IDLE, name, **{f"PSS of {part}": pss_mib(pid) for part, pid in system.processes.items()})


def _measure_idle_memory(run: Run, system: System) -> None:
    gateway, runner, daprd = (system.processes[part] for part in ("gateway", "runner", "runner.daprd"))
    run.results.add(IDLE, "enginehouse", gateway_mib=pss_mib(gateway), runner_mib=pss_mib(runner, daprd))


def _run_batches(run: Run, systems: Mapping[str, System], number: int) -> None:
    """Let each system that can run all batches, from the first submit until the last job has ended."""
    for name in rotated([name for name, system in systems.items() if system.run_batches], number):
        run_batches = systems[name].run_batches
        assert run_batches
        seconds = run_batches(BATCH_COUNT, BATCH_SIZE)
        run.results.add(BATCHES, name, per_second=BATCH_COUNT * BATCH_SIZE / seconds)


def add_engines(run: Run) -> None:
    """Submit with a few engines, and with a thousand: the gateway's parts of their bundles, without their processes."""
    counts = {"3 engines": 3, "1,000 engines": 1_000}
    starts = {
        name: partial(enginehouse, more_engines=[f"{TENANT}--idle-{number}" for number in range(1, count)])
        for name, count in counts.items()
    }
    with ExitStack() as stops:
        systems = run.start(starts, stops)
        for number in run.turns("engines", systems):
            run.load(SUBMIT, systems, number)


def add_gateways(run: Run) -> None:
    """Run jobs through 1, 2 and 3 gateways over one PostgreSQL, each deployment with one of its own."""
    names = ("1 gateway", "2 gateways", "3 gateways")
    starts = {name: partial(over_postgres, gateways=count) for count, name in enumerate(names, 1)}
    with ExitStack() as stops:
        systems = run.start(starts, stops)
        for number in run.turns("postgres", systems):
            run.load(MANY, systems, number)


PARTS: dict[str, Callable[[Run], None]] = {
    "peers": compare,
    "engines": add_engines,
    "postgres": add_gateways,
    "ledger": measure_filled_ledger,
}
