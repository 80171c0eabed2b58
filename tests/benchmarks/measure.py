"""One burst of load on one system, and turns of several: what disturbs the machine disturbs all of them."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.benchmarks.load import Kind, post_jobs, takes_jobs
from tests.benchmarks.processes import CpuMeter
from tests.benchmarks.results import FEW, MANY, ONE, SUBMIT, Results
from tests.benchmarks.systems import Start, System
from tests.support.waiting import until

T = TypeVar("T")

LOADS: Mapping[str, tuple[Kind, int]] = {ONE: ("wait", 1), FEW: ("wait", 8), MANY: ("wait", 64), SUBMIT: ("submit", 64)}
"""How jobs are posted, and on how many connections."""


@dataclass(frozen=True)
class Run:
    """A run of the benchmark: what all its parts share."""

    folder: Path
    rounds: int
    seconds: int
    """Of each burst."""
    ledger_rows: int
    results: Results
    say: Callable[[str], None]

    def start(self, starts: Mapping[str, Start], stops: ExitStack) -> dict[str, System]:
        """Start systems, which run until the end of `stops`."""
        systems = {}
        for name, start in starts.items():
            self.say(f"starting {name}")
            systems[name] = stops.enter_context(start(self.folder_of(name)))
        return systems

    def folder_of(self, system: str) -> Path:
        """Return the folder in which a system keeps its files."""
        folder = self.folder / system.replace(" ", "-").replace(",", "")
        folder.mkdir(exist_ok=True)
        return folder

    def turns(self, part: str, systems: Mapping[str, System]) -> Iterator[int]:
        """Warm up the systems, and count the rounds."""
        self.say(f"{part}: warming up")
        for system in systems.values():
            burst(system, *LOADS[MANY], 1)
        for number in range(self.rounds):
            self.say(f"{part}: round {number + 1} of {self.rounds}")
            yield number

    def load(self, load: str, systems: Mapping[str, System], number: int) -> None:
        """Load each system for a while, beginning with another one in each round."""
        for name in rotated(list(systems), number):
            self.results.add(load, name, **burst(systems[name], *LOADS[load], self.seconds))
            if load == SUBMIT:
                drain(systems[name])


def rotated(names: list[T], number: int) -> list[T]:
    """Return the names, beginning with another one for each number."""
    first = number % len(names)
    return names[first:] + names[:first]


def drain(system: System) -> None:
    """Wait until everything that was submitted has ended: a job that waits behind it is answered."""
    until(lambda: takes_jobs(system.targets), f"{system.targets[0].url} comes to rest", 120)


def burst(system: System, kind: Kind, connections: int, seconds: int) -> dict[str, float]:
    """Load one system for so long. Return what it did and what that cost, per job in all and of each process."""
    meter = CpuMeter(system.processes)
    load = post_jobs(system.targets, kind, connections, seconds)
    spent, others = meter.spent(), meter.others()
    return {
        "per_second": load.per_second,
        "p50_ms": load.p50_ms,
        "p99_ms": load.p99_ms,
        "cpu_ms": 1000 * sum(spent.values()) / load.count,
        "others_percent": max(0.0, 100 * others / (seconds * (os.cpu_count() or 1))),
        **{f"cpu_ms of {name}": 1000 * value / load.count for name, value in spent.items()},
    }
