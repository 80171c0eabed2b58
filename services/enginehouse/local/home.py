"""The home folder of one deployment on this machine: where everything is, and what is made once and kept."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.names import EngineId, check_name
from enginehouse.local.errors import LocalError

LOCAL_TENANT = "demo"
"""The tenant that a home has from the first start, so that commands work without an account."""


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(fresh, path)


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one folder. Bundles in `engines` and `tenants` are its owner's; `run`, `logs` and `data` are ours."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "Home":
        """The home in `path`, its folders made."""
        home = cls(path.expanduser().resolve())
        for folder in (home.engines, home.tenants, home.run, home.logs, home.data, home.gateway_parts, home.restarts):
            folder.mkdir(parents=True, exist_ok=True)
        home.run.chmod(0o700)
        return home

    @property
    def engines(self) -> Path:
        """Bundles of engines."""
        return self.path / "engines"

    @property
    def tenants(self) -> Path:
        """Bundles of tenants."""
        return self.path / "tenants"

    @property
    def run(self) -> Path:
        """What holds for the stack that runs at present; 0700."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """A file per process."""
        return self.path / "logs"

    @property
    def data(self) -> Path:
        """The ledger, Redis' data, objects: what must survive a restart."""
        return self.path / "data"

    @property
    def webhook_secrets(self) -> Path:
        """A file per tenant with what signs its webhooks; 0700."""
        return self.path / "webhook-secrets"

    @property
    def gateway_parts(self) -> Path:
        """What engines and tenants add to the gateway's sidecar, which watches this folder."""
        return self.run / "gateway"

    @property
    def restarts(self) -> Path:
        """Where runners leave a file to have an engine's process restarted."""
        return self.run / "restart"

    @property
    def state_file(self) -> Path:
        """What `enginehouse status` reads."""
        return self.run / "state.json"

    @property
    def local_json(self) -> Path:
        """URL and key that commands on this machine use by default; 0600."""
        return self.path / "local.json"

    def engine_bundles(self) -> dict[str, Path]:
        """Folders of engines by engine id; whatever else lies there is passed over."""
        return {folder.name: folder for folder in sorted(self.engines.iterdir()) if _is_engine(folder)}

    def tenant_bundles(self) -> dict[str, Path]:
        """Folders of tenants by name; whatever else lies there is passed over."""
        return {folder.name: folder for folder in sorted(self.tenants.iterdir()) if _is_tenant(folder)}

    def secret(self, name: str) -> str:
        """A secret of this home, made at first use and kept in `run` with mode 0600."""
        path = self.run / f"{name}.secret"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def read_local(self) -> dict[str, str]:
        """local.json, or nothing if it is not there yet."""
        return _read_json(self.local_json)

    def read_state(self) -> dict[str, Any]:
        """state.json, or nothing if no stack has run here."""
        return _read_json(self.state_file)

    def is_running(self) -> bool:
        """Whether a supervisor runs this home at present."""
        try:
            with self.lock():
                return False
        except LocalError:
            return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only supervisor of this home; LocalError if there is one. The kernel unlocks when we die."""
        descriptor = os.open(self.run / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise LocalError(
                f"Enginehouse is already running in {self.path}.",
                "'enginehouse status' shows it, 'enginehouse down' stops it; --home FOLDER starts another.",
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_engine(folder: Path) -> bool:
    try:
        EngineId.parse(folder.name)
    except InvalidName:
        return False
    return folder.is_dir()


def _is_tenant(folder: Path) -> bool:
    try:
        check_name("tenant", folder.name)
    except InvalidName:
        return False
    return folder.is_dir()
