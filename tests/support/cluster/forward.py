"""Reach a Service of the cluster at a port of this machine."""

import re
import socket
import subprocess
import time
from contextlib import AbstractContextManager
from types import TracebackType


class Forward(AbstractContextManager["Forward"]):
    """A port of 127.0.0.1 that leads to one pod of a Service. When that pod goes, the next `url` finds another."""

    def __init__(self, namespace: str, service: str, port: int) -> None:
        self._command = ["kubectl", "-n", namespace, "port-forward", f"service/{service}", f":{port}"]
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        if self._process:
            self._process.kill()
            self._process.communicate()  # Closes its output as well.
            self._process = None

    @property
    def url(self) -> str:
        """Return the URL that leads to the Service now."""
        if not self._leads():
            self.close()
            self._start()
        return f"http://127.0.0.1:{self._port}"

    def _start(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            assert self._process.stdout
            said = self._process.stdout.readline()
            if found := re.search(r"127\.0\.0\.1:(\d+)", said):
                self._port = int(found[1])
                return
            self.close()
            assert time.monotonic() < deadline, f"{' '.join(self._command)}: {said}"
            time.sleep(0.5)

    def _leads(self) -> bool:
        """Say whether it still leads to a pod: kubectl goes on to listen when its pod is gone, and closes what comes."""
        if self._process is None or self._process.poll() is not None:
            return False
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                connection.sendall(b"GET /healthz/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return connection.recv(12).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
