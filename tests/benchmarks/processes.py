"""What the processes of a system cost: CPU time and memory, told by the kernel."""

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def machine_busy_seconds() -> float:
    """CPU time that the whole machine has spent on anything."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + softirq) / _TICKS


@dataclass(frozen=True)
class Memory:
    """MiB. PSS divides what is shared, such as forked pages and libraries, by those who share it."""

    rss_mib: float
    pss_mib: float


def memory(pid: int) -> Memory:
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(value.split()[0]) / 1024
    return Memory(round(found["Rss"], 1), round(found["Pss"], 1))


class CpuMeter:
    """CPU seconds by process name since it was made."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        self._before = {name: cpu_seconds(pid) for name, pid in processes.items()}
        self._machine = machine_busy_seconds()

    def spent(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) - self._before[name] for name, pid in self._processes.items()}

    def machine(self) -> float:
        return machine_busy_seconds() - self._machine
