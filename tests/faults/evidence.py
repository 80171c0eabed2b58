"""Reads the runs of every job that the engine wrote down: when each began, and when it ended if it did."""

import contextlib
import json
import select
import shutil
import socket
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path

import yaml

_WITNESS = Path(__file__).parent / "witness"


@dataclass(slots=True)
class Run:
    """One run at the engine. `ended` None: it did not come to its end."""

    id: str
    began: float
    ended: float | None = None


class Evidence:
    """A folder with a file for each job's key, and the socket that engines send their lines to: they may write nowhere.

    What an engine has sent is there for good, whatever kills it. The socket lives as long as this process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"enginehouse-evidence-{uuid.uuid4().hex}"
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self.address}")
        self._socket.setblocking(False)
        threading.Thread(target=self._follow, name="evidence", daemon=True).start()

    def _follow(self) -> None:
        while True:  # An engine waits while too much is on its way.
            select.select([self._socket], [], [])
            self._write_down()

    def _write_down(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):
            while True:
                key, line = self._socket.recv(1_000).decode().split(" ", 1)
                with (self.folder / key).open("a") as file:
                    file.write(f"{line}\n")

    def runs(self, key: str) -> list[Run]:
        """Of one job, in the order in which they began."""
        self._write_down()
        try:
            lines = (self.folder / key).read_text().splitlines()
        except FileNotFoundError:
            return []
        runs: dict[str, Run] = {}
        for entry in map(json.loads, lines):
            if "began" in entry:
                runs[entry["run"]] = Run(entry["run"], entry["began"])
            else:
                runs[entry["run"]].ended = entry["ended"]
        return list(runs.values())


def make_witness(folder: Path, name: str, evidence: Evidence, **env: str) -> Path:
    """A folder of the witness engine under this name, writing to `evidence`; `env` is for its process, too."""
    copy = folder / name
    shutil.copytree(_WITNESS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    spec = yaml.safe_load((copy / "engine.yaml").read_text())
    spec |= {"name": name, "run": {**spec["run"], "env": {"RUNS": evidence.address, **env}}}
    (copy / "engine.yaml").write_text(yaml.safe_dump(spec))
    return copy
