"""What processes cost: CPU time and memory, told by the kernel. A process stands for itself and all its children."""

import os

import psutil


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time so far of a process, of its children, and of those that have ended."""
    spent = 0.0
    for process in _tree(pid):
        try:
            spent += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return spent


def machine_busy_seconds() -> float:
    """Return the CPU time that the whole machine has spent on anything."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)


def pss_mib(*pids: int) -> float:
    """Return the memory that processes and their children hold together, in MiB.

    It is PSS: what is shared, such as forked pages and libraries, is divided by those who share it.
    """
    found = [process.memory_full_info().pss for pid in pids for process in _tree(pid)]
    return sum(found) / 2**20


class CpuMeter:
    """CPU seconds of processes, by name, since it was made, and of everybody who is not part of this run."""

    def __init__(self, processes: dict[str, int]) -> None:
        self._processes = processes
        self._before = self._spent()
        self._others = self._of_others()

    def spent(self) -> dict[str, float]:
        """Return the CPU seconds of each process since then."""
        return {name: now - self._before[name] for name, now in self._spent().items()}

    def others(self) -> float:
        """Return the CPU seconds since then of all processes that this one has not started."""
        return self._of_others() - self._others

    def _spent(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._processes.items()}

    @staticmethod
    def _of_others() -> float:
        return machine_busy_seconds() - cpu_seconds(os.getpid())
