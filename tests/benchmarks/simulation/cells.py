"""How cells behave that cannot be run here: more gateways, more engines, slower disks, too many jobs at once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.benchmarks.simulation.cell import Cell, Shape
from tests.benchmarks.simulation.checked import CASES, Compared
from tests.benchmarks.simulation.costs import Costs
from tests.benchmarks.simulation.loads import Burst, Measured, burst, with_callers

STANDARD = Shape(gateways=4, engines=1_000)
"""The cell that is planned with: engines that get few jobs each, whose events are not shared."""
CALLERS = 128
"""At each gateway: enough to keep it busy."""
USED = 0.6
"""Of what a cell can do, how much is planned with."""


@dataclass(frozen=True)
class Tried:
    """A cell, and what it does if callers keep it busy."""

    what: str
    shape: Shape
    found: Measured


def _tried(costs: Costs, what: str, seconds: float = 0.4, **differs: float) -> Tried:
    shape = replace(STANDARD, **differs)  # type: ignore[arg-type]
    return Tried(what, shape, with_callers(Cell(shape, costs), CALLERS * shape.gateways, seconds))


def sweep(costs: Costs) -> Sequence[Tried]:
    """Return what cells do whose callers keep them busy."""
    return [
        *(_tried(costs, f"{count} gateway{'s' * (count > 1)}", gateways=count) for count in (1, 2, 4, 8)),
        _tried(costs, "4 gateways, 10,000 engines", engines=10_000),
        _tried(costs, "4 gateways, one engine", engines=1, at_once=256, window=1024),
        _tried(costs, "4 gateways, a commit takes 5 ms", sync_seconds=0.005),
        _tried(costs, "4 gateways, a commit takes 10 ms", sync_seconds=0.01),
    ]


def shortfall(compared: Sequence[Compared]) -> float:
    """Return how much of what it simulates for three gateways was recorded, at most all: 0.8 is a fifth too much."""
    (three,) = (one for one in compared if one.name == CASES[-1].name and one.measure == "per_second")
    return min(1.0, three.recorded / three.simulated)


def bursts(costs: Costs, per_second: float) -> Sequence[tuple[float, Burst]]:
    """Return what a second of many times the planned load does to half a standard cell, planned for `per_second`."""
    half = replace(STANDARD, gateways=STANDARD.gateways // 2)
    return [(times, burst(Cell(half, costs), per_second, times)) for times in (2.0, 4.0)]
