"""What a run has found, as tables: the aims and what was reached, and the numbers behind them."""

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.benchmarks.aims import AIMS, Aim
from tests.benchmarks.results import BATCHES, FEW, IDLE, LISTINGS, MANY, ONE, SUBMIT, Results

NAMES = {
    "enginehouse": "Enginehouse",
    "celery": "Celery over Redis",
    "celery durable": "Celery, durable",
    "procrastinate": "Procrastinate over PostgreSQL",
    "dapr": "bare Dapr over Redis",
    "floor": "bare Redis Streams",
}


@dataclass(frozen=True)
class Rows:
    """A table of text with its title."""

    title: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """Return the table as Markdown, below a heading."""
        rule = ["---"] + ["---:"] * (len(self.head) - 1)
        table = "\n".join("| " + " | ".join(row) + " |" for row in [self.head, rule, *self.body])
        return f"## {self.title}\n\n{table}\n"

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title=self.title, header_style="bold", title_justify="left")
        for number, name in enumerate(self.head):
            table.add_column(name, justify="right" if number else "left")
        for row in self.body:
            table.add_row(*row)
        console.print(table)


def tables(results: Results) -> list[Rows]:
    """Return all tables of what was measured, the aims first."""
    all_tables = (aims, systems, processes, submits, gateways, ledger, memory)
    return [table for make in all_tables if (table := make(results)).body]


def aims(results: Results) -> Rows:
    """Return each aim, what was reached, and whether that is good enough."""
    return Rows("Aims", ["", "aim", "reached", ""], [_judged(aim, aim.reached(results)) for aim in AIMS])


def _judged(aim: Aim, reached: float | None) -> list[str]:
    limit = f"{aim.sign} {aim.limit:g}{aim.unit}"
    if reached is None:
        return [aim.what, limit, "", "not measured"]
    return [aim.what, limit, f"{reached:.2f}{aim.unit}", "met" if aim.met(reached) else "not met"]


def _text(number: float | None, form: str = ",.0f", unit: str = "") -> str:
    return "" if number is None else f"{number:{form}}{unit}"


def _latency(results: Results, load: str, system: str) -> str:
    both = [results.median(load, system, measure) for measure in ("p50_ms", "p99_ms")]
    return " / ".join(_text(number, ".1f") for number in both) + " ms"


def systems(results: Results) -> Rows:
    """Return what each of the compared systems did."""
    body = []
    for system, name in NAMES.items():
        if not results.of(ONE, system, "p50_ms"):
            continue
        rates = [_text(results.median(load, system, "per_second")) for load in (FEW, MANY, BATCHES)]
        cpu = _text(results.median(MANY, system, "cpu_ms"), ".2f", " ms")
        body.append([name, _latency(results, ONE, system), *rates, cpu])
    head = ["", "one job, p50 / p99", "jobs/s, 8 callers", "jobs/s, 64 callers", "jobs/s, in batches", "CPU per job"]
    return Rows("Beside other systems", head, body)


def processes(results: Results) -> Rows:
    """Return where the CPU time of a job of ours goes."""
    body, whole = [], results.median(MANY, "enginehouse", "cpu_ms")
    for process in _parts(results, MANY, "cpu_ms of "):
        one, many = (results.median(load, "enginehouse", f"cpu_ms of {process}") for load in (ONE, MANY))
        share = None if many is None or whole is None else 100 * many / whole
        body.append([process, _text(one, ".2f", " ms"), _text(many, ".2f", " ms"), _text(share, ".0f", " %")])
    return Rows("CPU time of one job of ours", ["process", "one job at a time", "64 callers", "share"], body)


def _parts(results: Results, load: str, prefix: str, system: str = "enginehouse") -> list[str]:
    measures = results.numbers.get(load, {}).get(system, {})
    return [measure.removeprefix(prefix) for measure in measures if measure.startswith(prefix)]


def submits(results: Results) -> Rows:
    """Return how fast jobs are accepted."""
    body = []
    for system in ("3 engines", "1,000 engines", "empty ledger", "filled ledger"):
        if rate := results.median(SUBMIT, system, "per_second"):
            body.append([system, _text(rate), _latency(results, SUBMIT, system)])
    return Rows("Submits, 64 callers", ["", "submits/s", "p50 / p99"], body)


def gateways(results: Results) -> Rows:
    """Return what several gateways over one PostgreSQL did."""
    body = []
    for system in ("1 gateway", "2 gateways", "3 gateways"):
        if rate := results.median(MANY, system, "per_second"):
            cpu = results.median(MANY, system, "cpu_ms")
            of_postgres = results.median(MANY, system, "cpu_ms of postgres")
            body.append([system, _text(rate), _text(cpu, ".2f", " ms"), _text(of_postgres, ".2f", " ms")])
    return Rows("Over PostgreSQL, 64 callers", ["", "jobs/s", "CPU per job", "of it PostgreSQL"], body)


def ledger(results: Results) -> Rows:
    """Return how long each listing took, and what the gateway used at rest."""
    body = []
    for listing in results.numbers.get(LISTINGS, {}):
        pages = [results.median(LISTINGS, listing, measure) for measure in ("first_page_ms", "deep_page_ms")]
        body.append([listing, *(_text(page, ".1f", " ms") for page in pages)])
    for system in ("empty ledger", "filled ledger"):
        if (share := results.median(IDLE, system, "core_percent")) is not None:
            body.append([f"gateway at rest, {system}", _text(share, ".1f", " % of a core"), ""])
    return Rows("A full ledger", ["", "first page", "deep page"], body)


def memory(results: Results) -> Rows:
    """Return what each system held at the end, by process."""
    body = []
    for system, name in NAMES.items():
        parts = _parts(results, IDLE, "PSS of ", system)
        held = {part: results.median(IDLE, system, f"PSS of {part}") or 0 for part in parts}
        if held:
            each = ", ".join(f"{part} {number:.0f}" for part, number in held.items())
            body.append([f"{name}: {each}", f"{sum(held.values()):.0f}"])
    return Rows("Memory after the run, MiB (PSS)", ["", "all"], body)


def conditions(results: Results, rounds: int, ledger_rows: int) -> str:
    """Return where and when this was measured."""
    found = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in found if line.startswith("model name")), "unknown")
    loads = [measures for systems in results.numbers.values() for measures in systems.values()]
    others = [number for measures in loads for number in measures.get("others_percent", [])]
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, {today}; the load generator (wrk) on the same "
        f"machine, medians of {rounds} rounds, ratios within a round. The full ledger had {ledger_rows:,} rows, a tenth of "
        f"them queued. Meanwhile other programs used {statistics.median(others or [0]):.0f} % of the machine in the median "
        f"burst, and {max(others, default=0):.0f} % in the worst."
    )
