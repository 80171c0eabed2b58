"""What a run found: as a table on the terminal, as JSON, as Markdown and as a plot."""

import datetime
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tests.benchmarks.measure import DIRECT_MANY, DIRECT_ONE, FEW, MANY, ONE, SUBMIT, Results, Sample
from tests.benchmarks.plot import bars
from tests.benchmarks.processes import Memory
from tests.benchmarks.systems import HERE

README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
NAMES = {
    "enginehouse": "Enginehouse",
    "celery": "FastAPI + Celery + Redis",
    "dapr": "bare Dapr over Redis",
    "floor": "bare Redis Streams (floor)",
}


@dataclass(frozen=True)
class Rows:
    """A table of text."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]

    def markdown(self) -> str:
        rule = ["---"] + ["---:"] * (len(self.head) - 1)
        return "\n".join("| " + " | ".join(row) + " |" for row in [self.head, rule, *self.body])

    def show(self, console: Console, title: str) -> None:
        table = Table(title=title, header_style="bold", title_justify="left")
        for number, name in enumerate(self.head):
            table.add_column(name, justify="right" if number else "left")
        for row in self.body:
            table.add_row(*row)
        console.print(table)


def systems_table(results: Results) -> Rows:
    body = []
    for system, name in NAMES.items():
        latency = f"{results.p50_ms(ONE, system):.1f} / {results.p99_ms(ONE, system):.1f} ms"
        rates = [f"{results.per_second(phase, system):,.0f}" for phase in (FEW, MANY, SUBMIT)]
        body.append([name, latency, *rates, f"{results.cpu_ms(MANY, system):.2f} ms"])
    direct = f"{results.p50_ms(DIRECT_ONE, 'floor'):.1f} / {results.p99_ms(DIRECT_ONE, 'floor'):.1f} ms"
    body.append(["the floor without HTTP", direct, "", f"{results.per_second(DIRECT_MANY, 'floor'):,.0f}", "", ""])
    head = ["", "one job, p50 / p99", "jobs/s, 8 callers", "jobs/s, 64 callers", "submits/s", "CPU per job"]
    return Rows(head, body)


def _rate(sample: Sample) -> float:
    return sample.load.per_second


def _p50(sample: Sample) -> float:
    return sample.load.p50_ms


def _cpu(sample: Sample) -> float:
    return sum(sample.cpu_ms.values())


def aims_table(results: Results) -> Rows:
    """Ratios within a round each, then their median."""
    jobs = results.ratio(MANY, "enginehouse", "celery", _rate)
    submits = results.ratio(SUBMIT, "enginehouse", "celery", _rate)
    p50 = results.ratio(ONE, "enginehouse", "celery", _p50)
    floor = results.ratio(MANY, "enginehouse", "floor", _cpu)
    dapr_floor = results.ratio(MANY, "dapr", "floor", _cpu)
    dapr_jobs = results.ratio(MANY, "dapr", "celery", _rate)
    dapr_p50 = results.ratio(ONE, "dapr", "celery", _p50)
    # How much longer a submit takes: the inverse of how many there are.
    thousand = 1 / results.ratio(SUBMIT, "thousand", "enginehouse", _rate)
    return Rows(
        ["", "aim", "reached", "bare Dapr"],
        [
            ["jobs/s over HTTP, to Celery's", "≥ 5", f"{jobs:.2f}", f"{dapr_jobs:.2f}"],
            ["submits/s, to Celery's", "", f"{submits:.2f}", ""],
            ["p50 of one job, to Celery's", "≤ 0.5", f"{p50:.2f}", f"{dapr_p50:.2f}"],
            ["CPU per job over HTTP, to the floor's", "≤ 2", f"{floor:.2f}", f"{dapr_floor:.2f}"],
            ["time of a submit with 1,000 engines, to that with 3", "≤ 1.2", f"{thousand:.2f}", ""],
        ],
    )


def shares_table(results: Results) -> Rows:
    """Where the CPU time of a job of ours goes."""
    first = results.samples[MANY.key]["enginehouse"][0].cpu_ms
    body = []
    whole = results.cpu_ms(MANY, "enginehouse")
    for process in first:
        one, many = (results.process_ms(phase, "enginehouse", process) for phase in (ONE, MANY))
        body.append([process, f"{one:.2f} ms", f"{many:.2f} ms", f"{100 * many / whole:.0f} %"])
    return Rows(["process", "one job at a time", "64 callers", "share"], body)


def memory_table(memory: dict[str, dict[str, Memory]]) -> Rows:
    body = []
    for system, processes in memory.items():
        for process, found in processes.items():
            body.append([f"{system}: {process}", f"{found.rss_mib:.0f}", f"{found.pss_mib:.0f}"])
        total = sum(found.pss_mib for found in processes.values())
        body.append([f"**{system}**", "", f"**{total:.0f}**"])
    return Rows(["process", "RSS, MiB", "PSS, MiB"], body)


def machine() -> dict[str, Any]:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "cpu": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def write(results: Results, memory: dict[str, dict[str, Memory]], console: Console) -> None:
    """Show and keep what was found."""
    info = machine()
    systems, aims, shares, held = (
        systems_table(results),
        aims_table(results),
        shares_table(results),
        memory_table(memory),
    )
    others = max(sample.others for phase in results.samples.values() for run in phase.values() for sample in run)
    note = (
        f"{info['cores']} cores ({info['cpu']}), Python {info['python']}, {info['when'][:10]}; the load generator (wrk) on the "
        f"same machine, medians of {len(results.samples[ONE.key]['celery'])} rounds in turn. Meanwhile other programs "
        f"used up to {100 * others:.0f} % of the machine, so ratios say more than numbers."
    )
    systems.show(console, "Over HTTP, with an engine that answers its input")
    aims.show(console, "Ratios, each within its round")
    shares.show(console, "CPU time of one job of ours")
    held.show(console, "Memory, after the run")
    console.print(note)
    (HERE / "results.json").write_text(
        json.dumps(
            {
                "machine": info,
                "samples": results.as_json(),
                "memory": {system: {p: vars(m) for p, m in found.items()} for system, found in memory.items()},
            },
            indent=1,
        )
        + "\n"
    )
    (HERE / "plot.svg").write_text(_plot(results))
    tables = f"{systems.markdown()}\n\n{aims.markdown()}\n\n{note}\n"
    (HERE / "RESULTS.md").write_text(
        f"# What `make bench` found\n\nWritten by it; how it measures is in [README.md](README.md).\n\n![plot](plot.svg)\n\n"
        f"{tables}\n## CPU time of one job of ours\n\n{shares.markdown()}\n\n## Memory\n\n{held.markdown()}\n"
    )
    _into_readme(f"![plot](tests/benchmarks/plot.svg)\n\n{tables}")


def _plot(results: Results) -> str:
    def values(get: Any, phase: Any) -> list[tuple[str, float]]:
        return [(name, get(phase, system)) for system, name in NAMES.items()]

    return bars(
        [
            ("jobs/s over HTTP, 64 callers (more is better)", values(results.per_second, MANY)),
            ("submits/s, 64 callers (more is better)", values(results.per_second, SUBMIT)),
            ("one job at a time, p50 in ms (less is better)", values(results.p50_ms, ONE)),
        ]
    )


def _into_readme(text: str) -> None:
    readme = README.read_text() if README.exists() else ""
    if BEGIN in readme and END in readme:
        before, after = readme.partition(BEGIN)[0], readme.partition(END)[2]
        README.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
