"""What each step of a job costs, from what `make bench` has recorded: for a turn of its process, for an event, for a job."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.benchmarks.results import MANY, ONE, Results

GROUP_OF_MANY, GROUP_OF_THREE = 11, 5
"""Jobs of a commit with 64 callers, with one gateway and with three (tests/benchmarks/README.md, "What limits it")."""
BARE_EVENTS = 2
"""Events of a job in bare Dapr: one there and one back."""
NOTIFIED_MS, WOKEN_READ_MS = 0.1, 0.07
"""A message to or from PostgreSQL, and reading a job that another gateway has mirrored (the same place)."""


@dataclass(frozen=True)
class Step:
    """One step of a job, and its part of what its process costs."""

    process: str
    of_turn: float
    """Its part of what the process costs however many jobs share the turn."""
    of_job: float
    """Its part of what each job costs."""
    event: str = ""
    """The process of bare Dapr that does the same for one event; none if the step has no event."""


STEPS: Mapping[str, Step] = {
    # Turns: the shares of a job alone in the README. Jobs: half of the gateway's is a request with its checks there.
    "accept": Step("gateway", 0.23, 0.50),
    "insert": Step("gateway", 0.29, 0.15),
    "publish": Step("gateway", 0.10, 0.05, "api"),
    "hear": Step("gateway", 0.11, 0.10, "api"),
    "mirror": Step("gateway", 0.27, 0.20),
    "daprd publish": Step("gateway.daprd", 0.5, 0.5, "api.daprd"),
    "daprd deliver": Step("gateway.daprd", 0.5, 0.5, "api.daprd"),
    "take": Step("runner", 0.30, 0.30, "worker"),
    "call": Step("runner", 0.35, 0.35),
    "settle": Step("runner", 0.35, 0.35, "worker"),
    "runner daprd deliver": Step("runner.daprd", 0.34, 0.34, "worker.daprd"),
    "runner daprd record": Step("runner.daprd", 0.33, 0.33, "worker.daprd"),
    "runner daprd hint": Step("runner.daprd", 0.33, 0.33, "worker.daprd"),
    "order": Step("redis", 0.34, 0.34, "redis"),
    "record": Step("redis", 0.33, 0.33, "redis"),
    "hint": Step("redis", 0.33, 0.33, "redis"),
    "predict": Step("engine", 1.0, 1.0),
}


@dataclass(frozen=True)
class Cost:
    """Processor time of a step, in milliseconds."""

    turn: float = 0.0
    event: float = 0.0
    job: float = 0.0
    cold: float = 0.0
    """What a turn costs in addition if its process was at rest: it is woken, and the processor's caches have nothing of it."""


@dataclass(frozen=True)
class Costs:
    """The cost of every step, and of a transaction at PostgreSQL."""

    steps: Mapping[str, Cost]
    postgres: Cost


def costs_of(results: Results) -> Costs:
    """Return the cost of every step.

    What a process costs for a job alone is `cold + turn + job`, with 64 callers `turn / GROUP_OF_MANY + job`. Cold is the part by
    which a job of bare Dapr, whose events are never shared, costs less with 64 callers than alone. An event costs what
    it costs bare Dapr with 64 callers; that part of a turn is paid for each event in it.
    """
    alone, many = (results.median(load, "dapr", "cpu_ms") or 1.0 for load in (ONE, MANY))
    cold, found = 1 - many / alone, {}
    for name, step in STEPS.items():
        one = _cpu(results, ONE, step.process)
        turn, job = _fitted(one * (1 - cold), _cpu(results, MANY, step.process))
        event = min(_event(results, step.event), step.of_turn * turn) if step.event else 0.0
        found[name] = Cost(step.of_turn * turn - event, event, step.of_job * job, step.of_turn * one * cold)
    return Costs(found, _of_postgres(results))


def _of_postgres(results: Results) -> Cost:
    """Return what PostgreSQL costs for a transaction and for a job in it, from one and three gateways."""
    one, three = (results.median(MANY, system, "cpu_ms of postgres") or 0 for system in ("1 gateway", "3 gateways"))
    turn = (three - one) / (1 / GROUP_OF_THREE - 1 / GROUP_OF_MANY)
    return Cost(turn=turn, job=max(0.0, one - turn / GROUP_OF_MANY))


def _fitted(one: float, many: float) -> tuple[float, float]:
    turn = (one - many) / (1 - 1 / GROUP_OF_MANY)
    # A process whose parts do not fit the line costs no less than nothing for a job.
    return (turn, one - turn) if one > turn else (one, 0.0)


def _cpu(results: Results, load: str, process: str) -> float:
    found = results.median(load, "enginehouse", f"cpu_ms of {process}")
    if found is None:
        raise ValueError(
            f"docs/benchmarks.json has no CPU time of {process} for {load!r}: run make bench ARGS=--record"
        )
    return found


def _event(results: Results, process: str) -> float:
    spent = results.median(MANY, "dapr", f"cpu_ms of {process}") or 0.0
    if process == "api":
        # The rest is the request, which the floor has as well.
        spent -= results.median(MANY, "floor", "cpu_ms of api") or 0.0
    return spent / BARE_EVENTS
