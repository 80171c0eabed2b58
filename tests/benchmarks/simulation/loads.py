"""Loads a simulated cell: callers that wait for each job, or jobs that come whatever happens; and says what it did."""

import itertools
from collections import defaultdict
from dataclasses import dataclass

from tests.benchmarks.simulation.cell import Cell
from tests.benchmarks.simulation.stages import Steps

_WARM_UP_SECONDS = 0.3
_AT_REST_SECONDS = 0.15
_GIVEN_UP_SECONDS = 30.0


@dataclass(frozen=True)
class Measured:
    """What a cell did between two moments."""

    per_second: float
    """Jobs that ended."""
    p50_ms: float
    p99_ms: float
    accept_p99_ms: float
    jobs_per_commit: float
    commits_per_second: float
    syncs_per_second: float
    cpu_ms: dict[str, float]
    """Processor time for a job, by kind of process."""
    busiest: dict[str, float]
    """Of each kind of process, how much of its core the busiest one uses."""


def with_callers(cell: Cell, callers: int, seconds: float) -> Measured:
    """Let so many callers, shared among the gateways, submit a job, wait for its end, and submit the next."""

    def caller(gateway: int) -> Steps:
        while True:
            yield cell.submit(gateway).ended

    for number in range(callers):
        cell.env.process(caller(number % cell.shape.gateways))
    return _measure(cell, seconds)


def at_rate(cell: Cell, per_second: float, seconds: float) -> Measured:
    """Submit jobs at random moments, so many a second, whatever becomes of them."""
    submit_steadily(cell, per_second, _WARM_UP_SECONDS + seconds)
    return _measure(cell, seconds)


def burst(cell: Cell, per_second: float, times: float) -> "Burst":
    """Load a cell steadily, and for one second so many times as much; wait until nothing is left of the burst."""
    submit_steadily(cell, per_second, 60)
    cell.env.run(_WARM_UP_SECONDS)
    submit_steadily(cell, per_second * (times - 1), 1)
    cell.env.run(_WARM_UP_SECONDS + 1)
    while cell.unfinished > _AT_REST_SECONDS * per_second and cell.env.now < _GIVEN_UP_SECONDS:
        cell.env.run(cell.env.now + 0.05)
    accepting = sorted(took for at, took in cell.seen.accepted if at >= _WARM_UP_SECONDS)
    return Burst(_at(accepting, 0.5), _at(accepting, 0.99), cell.env.now - _WARM_UP_SECONDS - 1)


@dataclass(frozen=True)
class Burst:
    """What a second of far too many jobs did."""

    accept_p50_seconds: float
    accept_p99_seconds: float
    until_rest_seconds: float
    """From the end of that second until no more jobs were unfinished than usual."""


def submit_steadily(cell: Cell, per_second: float, seconds: float) -> None:
    """Submit jobs at random moments for so long, whatever becomes of them. Begins now; run the cell to see it."""

    def source() -> Steps:
        until = cell.env.now + seconds
        for gateway in itertools.cycle(range(cell.shape.gateways)):
            yield cell.env.timeout(cell.chance.around(1 / per_second))
            if cell.env.now >= until:
                return
            cell.submit(gateway)

    cell.env.process(source())


def _measure(cell: Cell, seconds: float) -> Measured:
    warm_up = _WARM_UP_SECONDS
    cell.env.run(warm_up)
    commits, syncs = cell.ledger.commits, cell.ledger.disk.syncs
    busy = {process: process.busy for process in cell.processes}
    cell.env.run(warm_up + seconds)
    took = sorted(took for at, took in cell.seen.ended if at >= warm_up)
    accepting = sorted(took for at, took in cell.seen.accepted if at >= warm_up)
    spent: defaultdict[str, float] = defaultdict(float)
    busiest: defaultdict[str, float] = defaultdict(float)
    for process in cell.processes:
        used = process.busy - busy.get(process, 0.0)
        spent[process.name] += used
        busiest[process.name] = max(busiest[process.name], used / seconds)
    committed = cell.ledger.commits - commits
    return Measured(
        per_second=len(took) / seconds,
        p50_ms=1000 * _at(took, 0.5),
        p99_ms=1000 * _at(took, 0.99),
        accept_p99_ms=1000 * _at(accepting, 0.99),
        jobs_per_commit=len(took) / max(1, committed),
        commits_per_second=committed / seconds,
        syncs_per_second=(cell.ledger.disk.syncs - syncs) / seconds,
        cpu_ms={name: 1000 * used / max(1, len(took)) for name, used in spent.items()},
        busiest=dict(busiest),
    )


def _at(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
