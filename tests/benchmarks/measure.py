"""The measurements: every system does the same in turn, several rounds, so that what disturbs the machine disturbs all."""

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.load import Kind, Load, LoadFailed, post_jobs
from tests.benchmarks.processes import CpuMeter
from tests.benchmarks.systems import HERE, System, baseline_python


@dataclass(frozen=True)
class Phase:
    """One kind of load."""

    key: str
    kind: Kind
    connections: int


ONE = Phase("one job at a time", "wait", 1)
FEW = Phase("8 callers", "wait", 8)
MANY = Phase("64 callers", "wait", 64)
SUBMIT = Phase("submit only, 64 callers", "submit", 64)
DIRECT_ONE = Phase("one job at a time, without HTTP", "wait", 1)
DIRECT_MANY = Phase("64 callers, without HTTP", "wait", 64)


@dataclass
class Sample:
    """One burst of one system."""

    load: Load
    cpu_ms: dict[str, float]
    """CPU time per job, by process. Of submits: with what was done to run them meanwhile."""
    others: float
    """Share of the machine that belonged to none of what is measured."""


@dataclass
class Results:
    """All samples, by phase and system."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def add(self, phase: Phase, system: str, sample: Sample) -> None:
        self.samples.setdefault(phase.key, {}).setdefault(system, []).append(sample)

    def median(self, phase: Phase, system: str, value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in self.samples[phase.key][system])

    def per_second(self, phase: Phase, system: str) -> float:
        return self.median(phase, system, lambda sample: sample.load.per_second)

    def p50_ms(self, phase: Phase, system: str) -> float:
        return self.median(phase, system, lambda sample: sample.load.p50_ms)

    def p99_ms(self, phase: Phase, system: str) -> float:
        return self.median(phase, system, lambda sample: sample.load.p99_ms)

    def cpu_ms(self, phase: Phase, system: str) -> float:
        return self.median(phase, system, lambda sample: sum(sample.cpu_ms.values()))

    def process_ms(self, phase: Phase, system: str, process: str) -> float:
        return self.median(phase, system, lambda sample: sample.cpu_ms[process])

    def ratio(self, phase: Phase, one: str, other: str, value: Callable[[Sample], float]) -> float:
        """Of `one` to `other`, taken within each round."""
        pairs = zip(self.samples[phase.key][one], self.samples[phase.key][other], strict=True)
        return statistics.median(value(a) / value(b) for a, b in pairs)

    def as_json(self) -> dict[str, Any]:
        return {
            phase: {
                system: [vars(sample.load) | {"cpu_ms": sample.cpu_ms, "others": sample.others} for sample in samples]
                for system, samples in systems.items()
            }
            for phase, systems in self.samples.items()
        }


def drain(system: System) -> None:
    """Until everything that was submitted has ended: a job that waits behind it is answered."""
    for _ in range(30):
        try:
            post_jobs(system.target, "wait", 1, 1)
            return
        except LoadFailed:
            continue
    raise LoadFailed(f"{system.name} does not come to rest")


def burst(system: System, phase: Phase, seconds: int, own_processes: Sequence[int]) -> Sample:
    """Load one system for so long, and see what it cost."""
    meter = CpuMeter(system.processes)
    ours = CpuMeter({str(pid): pid for pid in own_processes})
    generator = os.times()
    load = post_jobs(system.target, phase.kind, phase.connections, seconds)
    spent, machine, after = meter.spent(), meter.machine(), os.times()
    wrk = after.children_user + after.children_system - generator.children_user - generator.children_system
    others = machine - wrk - sum(ours.spent().values())
    capacity = max(seconds * (os.cpu_count() or 1), machine)
    cpu = {name: 1000 * value / load.count for name, value in spent.items()}
    return Sample(load, cpu, max(0.0, others / capacity))


def direct(floor: System, phase: Phase, seconds: int) -> Sample:
    """The floor without HTTP: its callers are coroutines of one process."""
    command = [str(baseline_python()), "direct.py", str(phase.connections), str(seconds)]
    folder, environment = HERE / "floor_app", {"PATH": os.environ["PATH"], **floor.environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60)
    result = json.loads(done.stdout)
    return Sample(Load(result["per_second"], 0, result["p50_ms"], result["p99_ms"]), {}, 0)


def rounds(
    compared: dict[str, System], thousand: System, count: int, seconds: int, say: Callable[[str], None]
) -> Results:
    """All phases, `count` times, beginning with another system each time."""
    results = Results()
    everything = [pid for system in [*compared.values(), thousand] for pid in system.processes.values()]
    names = list(compared)
    for number in range(count):
        say(f"round {number + 1} of {count}")
        order = names[number % len(names) :] + names[: number % len(names)]
        for phase in (ONE, FEW, MANY):
            for name in order:
                results.add(phase, name, burst(compared[name], phase, seconds, everything))
        for phase in (DIRECT_ONE, DIRECT_MANY):
            results.add(phase, "floor", direct(compared["floor"], phase, seconds))
        with_thousand = compared | {"thousand": thousand}
        for name in [*order, "thousand"] if number % 2 else ["thousand", *order]:
            results.add(SUBMIT, name, burst(with_thousand[name], SUBMIT, seconds, everything))
            drain(with_thousand[name])
    return results
