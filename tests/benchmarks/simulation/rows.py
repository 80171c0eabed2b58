"""The rows of the capacity table: each names a number of a load's need, its formula and where it comes from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.benchmarks.results import IDLE, Results
from tests.benchmarks.simulation.cells import STANDARD, USED
from tests.benchmarks.simulation.plan import ENGINES_OF_CELL, Need, objects_of_engine, sidecar_mib_of_engine

_GATEWAY, _RUNNER = ("gateway", "gateway.daprd"), ("runner", "runner.daprd")


@dataclass(frozen=True)
class Row:
    """A row: what it shows of a need, by which formula, and whether it was measured, simulated or extrapolated."""

    name: str
    of: Callable[[Need], str]
    formula: str
    source: str


def rounded(number: float) -> str:
    """Return a number with two digits that say something; more would promise too much."""
    if number < 10:
        return f"{number:.1f}"
    return f"{round(number, 2 - len(str(int(number)))):,.0f}"


def counted(number: int) -> str:
    """Return a whole number: a small one as it is."""
    return str(number) if number < 100 else rounded(number)


def rows_of(results: Results, per_cell: float) -> Sequence[Row]:
    """Return all rows. A standard cell is planned to do `per_cell` jobs a second."""
    return [*_parts(per_cell), *_cores(results), *_memory(results), *_what_grows()]


def _parts(per_cell: float) -> Sequence[Row]:
    cell, gateways = rounded(per_cell), STANDARD.gateways
    cells = f"`max(jobs/s / {cell}, engines / {ENGINES_OF_CELL:,})`"
    return [
        Row("cells", lambda need: str(need.cells), cells, "S; E beyond 1"),
        Row(
            "gateways of a cell",
            lambda need: str(need.gateways),
            f"`jobs/s / cells / ({cell} / {gateways})`, at least 2",
            "S; E beyond 3",
        ),
        Row("gateways", lambda need: counted(need.cells * need.gateways), "`cells * gateways of a cell`", "S; E"),
        Row("runners, if all are awake", lambda need: counted(need.load.engines), "`engines`", "E beyond 3"),
        Row("a job's p50", lambda need: f"{rounded(need.cell.p50_ms)} ms", "one cell under its load", "S"),
        Row("a job's p99", lambda need: f"{rounded(need.cell.p99_ms)} ms", "the same", "S"),
    ]


def _cores(results: Results) -> Sequence[Row]:
    idle = (results.median(IDLE, "filled ledger", "core_percent") or 0.0) / 100

    def of_job(processes: Sequence[str]) -> Callable[[Need], str]:
        return lambda need: f"{rounded(need.of_job(*processes))} ms"

    def used(process: str) -> Callable[[Need], str]:
        return lambda need: f"{need.cell.busiest[process]:.0%}"

    def gateways(need: Need) -> str:
        return rounded(need.cores(*_GATEWAY) + idle * need.cells * need.gateways)

    formula = f"`jobs/s * CPU of a job / {USED}`"
    return [
        Row("CPU of a job: gateway and sidecar", of_job(_GATEWAY), "one cell under its load", "S, from M"),
        Row("CPU of a job: runner and sidecar", of_job(_RUNNER), "the same", "S, from M"),
        Row("CPU of a job: Redis", of_job(("redis",)), "the same", "S, from M"),
        Row("CPU of a job: PostgreSQL", of_job(("postgres",)), "the same", "S, from M"),
        Row("a gateway's core, used", used("gateway"), "one cell under its load", "S"),
        Row("Redis's one core, used", used("redis"), "the same", "S"),
        Row("cores: gateways", gateways, f"{formula[:-1]} + {idle:.3f} * gateways`", "S; M at rest"),
        Row("cores: runners", lambda need: rounded(need.cores(*_RUNNER)), formula, "S; at rest not measured"),
        Row("cores: PostgreSQL", lambda need: rounded(need.cores("postgres")), formula, "S"),
    ]


def _memory(results: Results) -> Sequence[Row]:
    gateway, daprd, runner = (
        results.median(IDLE, "enginehouse", part) or 0.0
        for part in ("PSS of gateway", "PSS of gateway.daprd", "runner_mib")
    )
    each = sidecar_mib_of_engine(daprd)

    def gateways(need: Need) -> str:
        return rounded(need.cells * need.gateways * (gateway + daprd + each * need.engines) / 1024)

    return [
        Row(
            "GiB: gateways",
            gateways,
            f"`gateways * ({gateway:.0f} + {daprd:.0f} + {each:.2f} * engines of a cell) MiB`",
            "M; E",
        ),
        Row(
            "GiB: runners",
            lambda need: rounded(need.load.engines * runner / 1024),
            f"`engines * {runner:.0f} MiB`",
            "M; E",
        ),
    ]


def _what_grows() -> Sequence[Row]:
    objects = objects_of_engine()
    return [
        Row("commits/s of a cell", lambda need: rounded(need.cell.commits_per_second), "one cell under its load", "S"),
        Row(
            "rows of a cell, millions",
            lambda need: rounded(need.rows / 1e6),
            "`jobs/s / cells * 8 days`",
            "E beyond 10",
        ),
        Row("GB of a cell's ledger", lambda need: rounded(need.gigabytes), "`rows * 0.7 KB`", "M; E"),
        Row(
            "connections to a cell's Redis",
            lambda need: counted(need.connections),
            "`(gateways + 2) * engines of a cell`",
            "M; E",
        ),
        Row(
            "objects for engines",
            lambda need: counted(need.load.engines * objects),
            f"`engines * {objects}`",
            "counted; E",
        ),
        Row(
            "KEDA's questions/s to a cell, if all may sleep",
            lambda need: counted(need.polls),
            "`engines of a cell * 2 / 2 s`",
            "E",
        ),
    ]
