"""The home folder of one deployment on this machine: its paths, its lock, its secrets."""

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginehouse.broker.passwords import Passwords
from enginehouse.contracts.errors import InvalidName
from enginehouse.contracts.names import PLATFORM_TENANT, check_name, is_engine_id
from enginehouse.homes import local_json, read_json
from enginehouse.local.errors import LocalError
from enginehouse.private_files import write_private

LOCAL_TENANT = "demo"
"""Tenant that every home has from the first start, so that commands work without an account."""

KEPT_TENANTS = (PLATFORM_TENANT, LOCAL_TENANT)
"""Tenants that cannot be removed: the engines that come with the system, and the key that commands here use, are theirs."""


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one folder. `engines` and `tenants` belong to the home's owner; Enginehouse writes the rest."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "Home":
        """Return the home in `path` and make its folders."""
        home = cls(path.expanduser().resolve())
        for folder in (
            home.engines,
            home.tenants,
            home.run,
            home.logs,
            home.data,
            home.secrets,
            home.gateway_parts,
            home.exchange,
            home.supply,
        ):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in home.private_folders:
            folder.chmod(0o700)
        return home

    @property
    def private_folders(self) -> tuple[Path, ...]:
        """Folders with data, logs, secrets and scan reports: mode 0700. Bundles hold none of these, and may be a team's repository."""
        return (self.run, self.logs, self.data, self.secrets, self.supply)

    def keep_private(self) -> None:
        """Take away what others than the owner may do with the private files: a former version let them be read."""
        for folder in (*self.private_folders, self.webhook_secrets):
            for parent, _, names in os.walk(folder):
                for path in (Path(parent), *(Path(parent, name) for name in names)):
                    with contextlib.suppress(FileNotFoundError):
                        mode = path.lstat().st_mode
                        if mode & 0o077 and not stat.S_ISLNK(mode):
                            path.chmod(mode & 0o700)

    @property
    def engines(self) -> Path:
        """Folder of the engines' bundles."""
        return self.path / "engines"

    @property
    def tenants(self) -> Path:
        """Folder of the tenants' bundles."""
        return self.path / "tenants"

    @property
    def supply(self) -> Path:
        """Folder with the operator's policy of what may run, its keys, and signatures and scan reports of images; mode 0700."""
        return self.path / "supply"

    @property
    def run(self) -> Path:
        """Folder for files of the running stack; mode 0700."""
        return self.path / "run"

    @property
    def logs(self) -> Path:
        """Folder with one log file per process; mode 0700."""
        return self.path / "logs"

    @property
    def data(self) -> Path:
        """Folder for everything that must survive a restart: ledger, data of Redis, objects; mode 0700."""
        return self.path / "data"

    @property
    def objects(self) -> Path:
        """Folder in which the gateway keeps objects, a folder for each tenant."""
        return self.data / "objects"

    @property
    def audit(self) -> Path:
        """Folder of the audit log: a folder for each process that writes, and one for the commands."""
        return self.data / "audit"

    @property
    def webhook_secrets(self) -> Path:
        """Folder with one file per tenant: the secrets that sign its webhooks; mode 0700."""
        return self.path / "webhook-secrets"

    @property
    def secrets(self) -> Path:
        """Folder with a file for each engine: the values of its secrets; mode 0700."""
        return self.path / "secrets"

    @property
    def gateway_parts(self) -> Path:
        """Folder of gateway parts from engines and tenants. The gateway's sidecar watches it."""
        return self.run / "gateway"

    @property
    def exchange(self) -> Path:
        """Folder with a folder for each app, which its runner and its supervisor share.

        A runner leaves a file there to have a replica restarted; the supervisor leaves one that says why the engine
        does not work.
        """
        return self.run / "exchange"

    @property
    def state_file(self) -> Path:
        """File that `enginehouse status` reads."""
        return self.run / "state.json"

    @property
    def local_json(self) -> Path:
        """File with the URL and key that commands on this machine use by default; mode 0600."""
        return local_json(self.path)

    def engine_bundles(self) -> dict[str, Path]:
        """Return the folders of engines, by engine id. Ignore everything that is not an engine's folder."""
        return {
            folder.name: folder
            for folder in sorted(self.engines.iterdir())
            if folder.is_dir() and is_engine_id(folder.name)
        }

    def tenant_bundles(self) -> dict[str, Path]:
        """Return the folders of tenants, by name. Ignore everything that is not a tenant's folder."""
        return {folder.name: folder for folder in sorted(self.tenants.iterdir()) if _is_tenant(folder)}

    def secret(self, name: str) -> str:
        """Return a secret of this home. It is made at first use and kept in `run` with mode 0600."""
        path = self.secret_file(name)
        if not path.exists():
            write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    @property
    def broker_passwords(self) -> Passwords:
        """The passwords of the broker's users."""
        return Passwords(self.run)

    @property
    def proof_key(self) -> str:
        """The gateway's proof key, from which each engine's is derived. It outlives a restart: events wait in topics."""
        return self.secret("proofs")

    @property
    def demo_keys(self) -> Path:
        """The file with the keys of the demo's tenants, by tenant."""
        return self.run / "demo-keys.json"

    def example_system(self, tenant: str) -> Path:
        """Return the folder of the demo's example of a tenant's own system, whether it exists or not."""
        return self.run / "example" / tenant

    def secret_file(self, name: str) -> Path:
        """Return the file of a secret of this home, whether it exists or not."""
        return self.run / f"{name}.secret"

    def read_local(self) -> dict[str, str]:
        """Return the content of local.json, empty if there is none yet."""
        return read_json(self.local_json)

    def read_state(self) -> dict[str, Any]:
        """Return the content of state.json, empty if no stack has run here."""
        return read_json(self.state_file)

    def is_running(self) -> bool:
        """Return whether a supervisor runs this home now."""
        try:
            with self.lock():
                return False
        except LocalError:
            return True

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only supervisor of this home. Raise LocalError if there is one.

        The kernel unlocks when this process dies.
        """
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


def _is_tenant(folder: Path) -> bool:
    try:
        check_name("tenant", folder.name)
    except InvalidName:
        return False
    return folder.is_dir()
