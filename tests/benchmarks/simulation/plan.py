"""How much of everything a load needs: each number from a formula, and from a figure that was measured or simulated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from tests.benchmarks.simulation.cell import Cell
from tests.benchmarks.simulation.cells import STANDARD, USED
from tests.benchmarks.simulation.costs import Costs
from tests.benchmarks.simulation.loads import Measured, at_rate

ENGINES_OF_CELL = 1_000
"""As many as have been tried at one gateway."""
SIDECAR_MB = 380.0
"""Memory of a gateway's sidecar with so many engines (docs/scale.md)."""
ROW_BYTES = 700
"""Of a job in the ledger (docs/scale.md)."""
DAYS_KEPT = 8
"""Results for a day by default, and rows for a week longer."""
POLLS_OF_SLEEPER = 1.0
"""A second: two ScaledObjects, each every two seconds (`registry/kubernetes/scaling.py`)."""
_SNAPSHOT = Path(__file__).parents[2] / "manifests" / "snapshots" / "acme--sentiment"
_SEEN_JOBS = 800
"""So many jobs are simulated."""
_SECRETS = 3
"""Of an engine: docs/kubernetes.md."""


@dataclass(frozen=True)
class Load:
    """What is asked for."""

    name: str
    per_second: float
    engines: int


LOADS: Sequence[Load] = (
    Load("10 jobs/s, 10 engines", 10, 10),
    Load("1,000 jobs/s, 100 engines", 1_000, 100),
    Load("100,000 jobs/s, 10,000 engines", 100_000, 10_000),
    Load("10,000 engines, 1,000 jobs/s", 1_000, 10_000),
)


@dataclass(frozen=True)
class Need:
    """What a load needs."""

    load: Load
    cells: int
    gateways: int
    """Of each cell."""
    cell: Measured
    """What one of the cells does, simulated."""

    @property
    def engines(self) -> int:
        """Return the engines of one cell."""
        return math.ceil(self.load.engines / self.cells)

    def of_job(self, *processes: str) -> float:
        """Return the processor time of these processes for a job, in milliseconds."""
        return sum(self.cell.cpu_ms[name] for name in processes)

    def cores(self, *processes: str) -> float:
        """Return the cores of these processes in all cells, so that no more than USED of them is used."""
        return self.load.per_second * self.of_job(*processes) / 1000 / USED

    @property
    def rows(self) -> float:
        """Return the rows of one cell's ledger, if they are kept as long as they are by default."""
        return self.load.per_second / self.cells * 86_400 * DAYS_KEPT

    @property
    def gigabytes(self) -> float:
        """Return the size of those rows."""
        return self.rows * ROW_BYTES / 1e9

    @property
    def connections(self) -> int:
        """Return the connections to one cell's broker: one for each component of each sidecar."""
        return self.gateways * self.engines + 2 * self.engines

    @property
    def polls(self) -> int:
        """Return KEDA's questions a second to the gateways of one cell, if all of its engines may sleep."""
        return round(self.engines * POLLS_OF_SLEEPER)


def sidecar_mib_of_engine(idle_mib: float) -> float:
    """Return what the components of one engine take in a gateway's sidecar."""
    return (SIDECAR_MB * 1e6 / 2**20 - idle_mib) / ENGINES_OF_CELL


def objects_of_engine() -> int:
    """Count the objects of an engine with one version that runs, as they are rendered, and its Secrets."""
    files = [path for path in _SNAPSHOT.rglob("*.yaml") if path.name != "kustomization.yaml"]
    one_slot = [path for path in files if "slot-b" not in path.parts]
    return sum(len([item for item in yaml.safe_load_all(path.read_text()) if item]) for path in one_slot) + _SECRETS


def need_of(load: Load, costs: Costs, per_cell: float) -> Need:
    """Return what a load needs, if a standard cell is planned to do `per_cell` jobs a second."""
    cells = max(math.ceil(load.per_second / per_cell), math.ceil(load.engines / ENGINES_OF_CELL))
    gateways = max(2, math.ceil(load.per_second / cells / (per_cell / STANDARD.gateways)))
    shape = replace(STANDARD, gateways=gateways, engines=math.ceil(load.engines / cells))
    rate = load.per_second / cells
    return Need(load, cells, gateways, at_rate(Cell(shape, costs), rate, _SEEN_JOBS / rate))
