"""Run the registry as a process. It may write bundles; it gets no sidecar, and no credentials of the broker."""

import json
import os

from enginehouse.local.home import KEPT_TENANTS, Home
from enginehouse.local.processes import ProcessSpec
from enginehouse.local.stack_context import StackContext, inherited_environment

REGISTRY = "registry"
_PORT = 8081
"""Port that its API has if nobody else has it."""
_OWN = "ENGINEHOUSE_REGISTRY_"
_OBJECT_STORES = ("AWS_", "GOOGLE_", "AZURE_")
"""Variables with the credentials of object stores: the registry fetches engines' files. Runners and engines never get them."""


def registry_spec(context: StackContext, gateway_port: int) -> ProcessSpec:
    """Return the process of the registry. Its port is the usual one, or a free one."""
    port = context.ports.take(None if gateway_port == _PORT else _PORT)
    environment = registry_environment(context.home, port)
    url = f"http://127.0.0.1:{port}/healthz/live"
    return context.python_spec(REGISTRY, REGISTRY, "enginehouse.registry", lambda: environment, port, url)


def registry_environment(home: Home, port: int) -> dict[str, str]:
    """Return the variables of the registry's process."""
    return {
        **inherited_environment(),
        # The operator's own settings stay; the values that connect the processes are set here.
        **{name: value for name, value in os.environ.items() if name.startswith((_OWN, *_OBJECT_STORES))},
        f"{_OWN}AUDIT_DIR": os.environ.get(f"{_OWN}AUDIT_DIR", str(home.audit)),
        f"{_OWN}PORT": str(port),
        f"{_OWN}ENGINES_DIR": str(home.engines),
        f"{_OWN}TENANTS_DIR": str(home.tenants),
        f"{_OWN}WEBHOOK_SECRETS_DIR": str(home.webhook_secrets),
        f"{_OWN}SUPPLY_DIR": str(home.supply),
        f"{_OWN}WORK_DIR": str(home.run / "uploads"),
        f"{_OWN}KEPT_TENANTS": json.dumps(KEPT_TENANTS),
        f"{_OWN}STATE_FILE": str(home.state_file),
    }
