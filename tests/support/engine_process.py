"""Tiny engines as real processes, started from their engine.yaml."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.waiting import NotInTime, until

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.ports import PortPool
from enginehouse.yaml_files import read_yaml

ENGINES = Path(__file__).parents[1] / "engines"


class EngineProcess:
    """An engine's process and calls to it."""

    def __init__(self, folder: str, port: int, log: Path, **environment: str) -> None:
        spec = read_spec(folder)
        assert spec.run is not None
        command = [sys.executable if part == "python" else part for part in spec.run.command]
        self.port, self.log = port, log
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                command,
                cwd=ENGINES / folder,
                env={"PATH": os.environ["PATH"], "PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 30) -> tuple[int, bytes]:
        """Send a request, and return status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()

    def predict(self, data: Any, timeout: float = 30) -> tuple[int, Any]:
        """Ask for a prediction, and return status and answer."""
        status, body = self.ask("POST", "/predict", {"data": data}, timeout)
        return status, json.loads(body)

    def wait_until_healthy(self) -> None:
        """Wait until it is loaded."""
        self.wait_for_health(200)

    def wait_for_health(self, *wanted: int) -> int:
        """Wait until its health check has one of these statuses, and return that."""

        def found() -> int | None:
            assert self.popen.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                status = self.ask("GET", "/healthz")[0]
                return status if status in wanted else None
            return None

        try:
            return until(found, f"the health of {self.log.stem} is one of {wanted}")
        except NotInTime as late:
            raise AssertionError(f"{late}: {self.log.read_text()}") from None


@contextlib.contextmanager
def engine_processes(logs: Path) -> Iterator[Callable[..., EngineProcess]]:
    """Give the block a function that starts an engine by its folder's name; kill what it started at the end."""
    ports, processes = PortPool(), []

    def start(folder: str, **environment: str) -> EngineProcess:
        process = EngineProcess(folder, ports.take(), logs / f"{folder}.log", **environment)
        processes.append(process)
        return process

    try:
        yield start
    finally:
        for process in processes:
            process.popen.kill()
            process.popen.wait()
        ports.close()


def read_spec(folder: str) -> EngineSpec:
    """Return the engine.yaml in that folder."""
    return read_yaml(EngineSpec, ENGINES / folder / "engine.yaml")
