"""A real PostgreSQL for tests: one server per test run, and an empty database for each test that needs one."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.support.dapr import PORTS, Started, spawn, wait_until
from tests.support.disk import SmallDisk, small_disk

_USER = "enginehouse"
_DISK_MIB = 512
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    # Short, so that a deadlock between two gateways shows early.
    "deadlock_timeout": "200ms",
}
# Not needed by tests: none looks at the state after a power cut.
_FORGETFUL = {"fsync": "off", "full_page_writes": "off"}


class NoPostgres(AssertionError):
    """PostgreSQL's server is not installed: on Debian and Ubuntu, `apt-get install postgresql`."""


@dataclass
class PostgresServer:
    """A running PostgreSQL server."""

    port: int
    started: Started
    disk: SmallDisk
    _start: Callable[[], Started]

    @property
    def url(self) -> str:
        """URL of a database that always exists. Opening a ledger on it makes the tables."""
        return f"postgresql://{_USER}@127.0.0.1:{self.port}/postgres"

    def signal(self, number: int) -> None:
        """Send a signal to the server and all of its processes."""
        for process in [psutil.Process(self.started.pid), *psutil.Process(self.started.pid).children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to all its processes. `restart` brings it back with everything it had committed."""
        self.signal(signal.SIGKILL)
        self.started.kill()

    def restart(self) -> None:
        """Start the server again if it has ended, and wait until it is ready."""
        if self.started.process.poll() is not None:
            self.started = self._start()


def _binaries() -> Path:
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    # Debian installs the binaries outside PATH, in one folder per major version.
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if not folders:
        raise NoPostgres(NoPostgres.__doc__)
    return folders[-1].parent


def _as_its_user(folder: Path) -> list[str]:
    """Return a command prefix: PostgreSQL refuses to run as root, so root runs it as the user of its package."""
    if os.getuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


@contextlib.contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[PostgresServer]:
    """Run a server, which is ready, on a small disk of its own during the block. Remove both afterwards.

    `durable`: on the disk of the machine, which every commit waits for, as in production.
    """
    # Outside pytest's folder, which only this user may enter.
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-postgres-"))
    try:
        place = contextlib.nullcontext(SmallDisk(folder, False)) if durable else small_disk(folder, _DISK_MIB)
        with place as disk, _server(disk, _SETTINGS if durable else _SETTINGS | _FORGETFUL) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(f"{folder}.log").unlink(missing_ok=True)


@contextlib.contextmanager
def _server(disk: SmallDisk, settings: Mapping[str, str]) -> Iterator[PostgresServer]:
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
        chosen = {**settings, "port": port, "unix_socket_directories": folder}
        options = [f"-c{name}={value}" for name, value in chosen.items()]
        ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", _USER]

        def start() -> Started:
            started = spawn(
                "postgres",
                [*prefix, str(binaries / "postgres"), "-D", str(data), *options],
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
        PORTS.release(port)
