"""Measures a running stack: the memory of each process and of Redis, and the disk used below its home."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import redis
from tests.support.stack import StackHandle

STREAMS_KEPT_SECONDS = 60


def _folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        # Blocks, not length: what the disk really lacks. A folder counts too: one that holds many files grows.
        total += status.st_blocks * 512
    return total


def _process_bytes(pid: int) -> int:
    found = psutil.Process(pid)
    return sum(int(process.memory_info().rss) for process in [found, *found.children(recursive=True)])


class Measures:
    """Looks at one stack."""

    def __init__(self, stack: StackHandle, broker: "redis.Redis") -> None:
        self._stack = stack
        self._broker = broker
        self._pids = {name: process["pid"] for name, process in stack.processes().items()}
        self._pids["supervisor"] = stack.up.pid

    def restarted(self) -> list[str]:
        """Processes that are others than at the beginning: none was asked to die."""
        present = {name: process["pid"] for name, process in self._stack.processes().items()}
        return [name for name, pid in self._pids.items() if present.get(name, pid) != pid]

    def bytes_now(self) -> Iterator[tuple[str, int]]:
        """Each thing measured, by name."""
        for name, pid in self._pids.items():
            # What an engine takes is its own business, but this one is known to keep nothing.
            if name != "supervisor":
                yield f"memory of {name}", _process_bytes(pid)
        yield "memory of supervisor", int(psutil.Process(self._pids["supervisor"]).memory_info().rss)
        yield "memory redis says it uses", int(self._broker.info("memory")["used_memory"])
        data = self._stack.home.data
        yield "disk of the ledger", sum(path.stat().st_size for path in data.glob("ledger.sqlite*"))
        yield "disk of redis", _folder_bytes(data / "redis")
        yield "disk of objects", _folder_bytes(data / "objects")
        yield "disk of logs", _folder_bytes(self._stack.home.logs)

    def trim_streams(self) -> None:
        """What `streamTTL` trims after six hours is trimmed after a minute, so that a short run shows a level."""
        oldest = int((time.time() - STREAMS_KEPT_SECONDS) * 1_000)
        for key in self._broker.scan_iter(_type="STREAM"):
            self._broker.xtrim(key, minid=oldest)


@contextmanager
def measures(stack: StackHandle) -> Iterator[Measures]:
    """Of a stack with a Redis of its own, whose append-only file is rewritten often enough to show a level, too."""
    port = re.search(r"^port (\d+)$", (stack.home.run / "redis.conf").read_text(), re.MULTILINE)
    assert port
    broker = redis.Redis(port=int(port[1]), password=stack.home.secret("redis"))
    broker.config_set("auto-aof-rewrite-min-size", "4mb")
    try:
        yield Measures(stack, broker)
    finally:
        broker.close()
