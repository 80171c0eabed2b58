"""Write the sidecars' Configurations for this machine: how they find each other, and whom they admit without mTLS."""

import contextlib
import sqlite3
from pathlib import Path

import yaml

from enginehouse.local import checkout
from enginehouse.private_files import write_private

_NAMES_FILE = "names.sqlite"
_NAMES_TABLE = "hosts"
"""The table of Dapr's component, with a row for each sidecar."""
_BUSY_SECONDS = 5.0


def forget_app(run: Path, app_id: str) -> None:
    """Delete an app whose sidecar is gone from the file of names, and from the log of its changes."""
    if not (run / _NAMES_FILE).exists():
        return
    with contextlib.closing(sqlite3.connect(run / _NAMES_FILE, timeout=_BUSY_SECONDS, isolation_level=None)) as names:
        names.execute("PRAGMA secure_delete = ON")
        names.execute(f"DELETE FROM {_NAMES_TABLE} WHERE app_id = ?", [app_id])  # noqa: S608 - a constant
        names.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def sidecar_configuration(kind: str, run: Path) -> Path:
    """Write the Configuration for a kind of app, `gateway` or `runner`, into the folder `run`, and return its path.

    It is that of `dapr/configuration/`, with two differences. The sidecars of one home find each other by a file in `run`:
    Dapr's default is multicast, which leaves the machine and finds the sidecars of other homes as well. And without mTLS
    nothing proves to a sidecar who calls it: it knows no rules for an app then, and its default action decides. So a
    runner's sidecar admits calls, and the runner itself refuses all that its caller's sidecar does not name as the gateway's.
    """
    content = yaml.safe_load(checkout.configuration(kind).read_text())
    spec = content["spec"]
    spec["nameResolution"] = {
        "component": "sqlite",
        "version": "v1",
        "configuration": {
            "connectionString": str(run / _NAMES_FILE),
            # The component's clean-up deletes the living names and not the old ones (1.18), and a sidecar whose name is
            # gone ends itself. Without it, the file keeps a row for each port that was ever used.
            "cleanupInterval": "0",
        },
    }
    if kind == "runner":
        spec["accessControl"] = {"defaultAction": "allow", "trustDomain": "public"}
    path = run / f"configuration-{kind}.yaml"
    text = yaml.safe_dump(content, sort_keys=False)
    if not path.exists() or path.read_text() != text:  # A sidecar whose Configuration is written anew restarts.
        write_private(path, text)
    return path
