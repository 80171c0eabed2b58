"""The tables of docs/scale.md that the simulation makes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tests.benchmarks.results import Results
from tests.benchmarks.simulation.cells import STANDARD, USED, Tried, bursts, shortfall, sweep
from tests.benchmarks.simulation.checked import CASES, MEASURES, Compared, compare
from tests.benchmarks.simulation.costs import costs_of
from tests.benchmarks.simulation.loads import Burst
from tests.benchmarks.simulation.plan import LOADS, Need, need_of
from tests.benchmarks.simulation.rows import rounded, rows_of


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *body])


@dataclass
class Tables:
    """Everything that is simulated for the document, once."""

    results: Results

    def __post_init__(self) -> None:
        self.costs = costs_of(self.results)

    @cached_property
    def compared(self) -> Sequence[Sequence[Compared]]:
        """What was recorded, and what is simulated, for each load of the benchmark."""
        return [compare(self.results, self.costs, case) for case in CASES]

    @cached_property
    def tried(self) -> Sequence[Tried]:
        """Cells whose callers keep them busy."""
        return sweep(self.costs)

    @cached_property
    def per_cell(self) -> float:
        """How many jobs a second a standard cell is planned to do."""
        (standard,) = (tried for tried in self.tried if tried.shape == STANDARD)
        return standard.found.per_second * shortfall([one for found in self.compared for one in found]) * USED

    @cached_property
    def needs(self) -> Sequence[Need]:
        """What each load needs."""
        return [need_of(load, self.costs, self.per_cell) for load in LOADS]

    @cached_property
    def tried_bursts(self) -> Sequence[tuple[float, Burst]]:
        """What bursts do to half a standard cell."""
        return bursts(self.costs, self.per_cell / 2)

    def checked(self) -> str:
        """Return what was recorded beside what is simulated."""
        head = ["recorded → simulated", *MEASURES.values()]
        return _table(head, ([found[0].name, *map(_beside, found)] for found in self.compared))

    def cells(self) -> str:
        """Return what cells do whose callers keep them busy."""
        head = [
            "",
            "jobs/s",
            "p50 / p99",
            "jobs of a commit",
            "commits/s",
            "busiest gateway",
            "Redis",
            "PostgreSQL, cores",
        ]
        return _table(head, map(_tried_row, self.tried))

    def bursts(self) -> str:
        """Return what a second of too many jobs does."""
        head = ["for one second", "202 after, p50 / p99", "as before again after"]
        rows = []
        for times, found in self.tried_bursts:
            accepted = f"{rounded(found.accept_p50_seconds * 1000)} / {rounded(found.accept_p99_seconds * 1000)} ms"
            rows.append([f"{times:g} times the planned load", accepted, f"{found.until_rest_seconds:.1f} s"])
        return _table(head, rows)

    def capacity(self) -> str:
        """Return what loads need, each number beside its formula."""
        head = ["", *(load.name for load in LOADS), "formula", "from"]
        rows = rows_of(self.results, self.per_cell)
        return _table(head, [[row.name, *map(row.of, self.needs), row.formula, row.source] for row in rows])


def _beside(one: Compared) -> str:
    form = ",.0f" if one.recorded >= 100 else ".1f"
    return f"{one.recorded:{form}} → {one.simulated:{form}} ({one.off:+.0%})"


def _tried_row(tried: Tried) -> Sequence[str]:
    found = tried.found
    return [
        tried.what,
        rounded(found.per_second),
        f"{rounded(found.p50_ms)} / {rounded(found.p99_ms)} ms",
        rounded(found.jobs_per_commit),
        rounded(found.commits_per_second),
        *(f"{min(1.0, found.busiest[name]):.0%}" for name in ("gateway", "redis")),
        f"{found.busiest['postgres']:.1f}",
    ]
