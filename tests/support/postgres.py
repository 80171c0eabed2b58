"""A real PostgreSQL for tests: a server of this test run's own, and an empty database for each test that asks."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.support.dapr import PORTS, Started, spawn, wait_until
from tests.support.disk import SmallDisk, small_disk

_USER = "enginehouse"
_DISK_MIB = 512
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # What a power cut leaves is nothing that a test looks at.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    # A deadlock between two gateways should show itself soon.
    "deadlock_timeout": "200ms",
}


class NoPostgres(AssertionError):
    """PostgreSQL's server is not installed: on Debian and Ubuntu, `apt-get install postgresql`."""


@dataclass
class PostgresServer:
    """A running server."""

    port: int
    started: Started
    disk: SmallDisk
    _start: Callable[[], Started]

    @property
    def url(self) -> str:
        """Of a database that is there from the first; tables are made by whoever opens a ledger on it."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def signal(self, number: int) -> None:
        """Signal it and all of its processes."""
        for process in [psutil.Process(self.started.pid), *psutil.Process(self.started.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """kill -9, all of it; `restart` brings it back with what it had committed."""
        self.signal(signal.SIGKILL)
        self.started.kill()

    def restart(self) -> None:
        """Start it again if it ended, by `kill` or because it could not write; ready."""
        if self.started.process.poll() is not None:
            self.started = self._start()


def _binaries() -> Path:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    # Debian keeps them off PATH, a folder for each major version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not folders:
        raise NoPostgres(NoPostgres.__doc__)
    return folders[-1].parent


def _as_its_user(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: then it runs as the user that its package made."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server with a data folder of its own on a small disk, ready; both are gone at the end of the block."""
    # Not below pytest's own folder: nobody but this user may enter that one.
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-postgres-"))
    try:
        with small_disk(folder, _DISK_MIB) as disk, _server(disk) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.log").unlink(missing_ok=True)


@contextlib.contextmanager
def _server(disk: SmallDisk) -> Iterator[PostgresServer]:
    binaries, folder = _binaries(), disk.folder
    data, port = folder / "data", PORTS.take()
    try:
        prefix = _as_its_user(folder)
        made = subprocess.run(
            [
                *prefix,
                str(binaries / "initdb"),
                "-D",
                str(data),
                "-U",
                _USER,
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        settings = [f"-c{name}={value}" for name, value in {**_SETTINGS, "port": port}.items()]
        settings.append(f"-cunix_socket_directories={folder}")
        ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", _USER]

        def start() -> Started:
            started = spawn(
                "postgres",
                [*prefix, str(binaries / "postgres"), "-D", str(data), *settings],
                Path(f"{folder}.log"),
                {"PATH": os.environ["PATH"], "LC_ALL": "C"},
                cwd=folder,
            )
            wait_until(started, lambda: subprocess.run(ready, check=False).returncode == 0)
            return started

        server = PostgresServer(port, start(), disk, start)
        try:
            yield server
        finally:
            server.signal(signal.SIGCONT)
            server.started.stop()
    finally:
        PORTS.give_back(port)
