"""Compares the simulation with what `make bench` has recorded: the same machine of two cores, the same callers."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.results import FEW, MANY, ONE, Results
from tests.benchmarks.simulation.cell import Cell, Shape
from tests.benchmarks.simulation.costs import Costs
from tests.benchmarks.simulation.loads import with_callers

WITHIN = 0.25
"""How far from a recorded figure a simulated one may be."""


@dataclass(frozen=True)
class Case:
    """A load of the benchmark."""

    name: str
    load: str
    system: str
    callers: int
    gateways: int = 1
    postgres: bool = False

    @property
    def shape(self) -> Shape:
        """Return what the benchmark runs: one engine that answers at once, and a disk that syncs in half a millisecond."""
        engine = {"engines": 1, "predict_seconds": 0.0, "at_once": 32, "window": 128}
        return Shape(gateways=self.gateways, cores=2, postgres=self.postgres, sync_seconds=0.0005, **engine)  # type: ignore[arg-type]


CASES: Sequence[Case] = (
    Case("one job at a time", ONE, "enginehouse", 1),
    Case("8 callers", FEW, "enginehouse", 8),
    Case("64 callers", MANY, "enginehouse", 64),
    Case("64 callers, PostgreSQL, 1 gateway", MANY, "1 gateway", 64, 1, True),
    Case("64 callers, PostgreSQL, 2 gateways", MANY, "2 gateways", 64, 2, True),
    Case("64 callers, PostgreSQL, 3 gateways", MANY, "3 gateways", 64, 3, True),
)


@dataclass(frozen=True)
class Compared:
    """A recorded figure, and what the simulation says of it."""

    name: str
    measure: str
    recorded: float
    simulated: float

    @property
    def off(self) -> float:
        """Return how far the simulation is off: 0.1 is 10 % too high."""
        return self.simulated / self.recorded - 1


MEASURES = {"per_second": "jobs/s", "p50_ms": "p50, ms", "p99_ms": "p99, ms", "cpu_ms": "CPU per job, ms"}


def compare(results: Results, costs: Costs, case: Case, seconds: float = 2.0) -> list[Compared]:
    """Simulate one load of the benchmark, and compare every measure that both have."""
    found = with_callers(Cell(case.shape, costs), case.callers, seconds)
    simulated = [found.per_second, found.p50_ms, found.p99_ms, sum(found.cpu_ms.values())]
    compared = []
    for measure, number in zip(MEASURES, simulated, strict=True):
        recorded = results.median(case.load, case.system, measure)
        if recorded is None:
            raise ValueError(f"docs/benchmarks.json has no {measure} of {case.name}: run make bench ARGS=--record")
        compared.append(Compared(case.name, measure, recorded, number))
    return compared
