"""Write the sidecars' Configurations for this machine: how they find each other, and whom they admit without mTLS."""

from pathlib import Path

import yaml

from enginehouse.local import checkout
from enginehouse.local.home import write_private

_NAMES_FILE = "names.sqlite"


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
