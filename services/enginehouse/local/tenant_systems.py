"""Prepare what a tenant's own system needs beside a running stack: a component, and the tenant's own user of the broker.

The system gets only the `systems/` part of the tenant's bundle: it may publish `requests.<tenant>` and subscribe to
`finished.<tenant>`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from enginehouse.broker.passwords import new_password
from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.redis_users import disconnect_user, set_user, user_of_tenant
from enginehouse.contracts.names import system_app, tenant_component
from enginehouse.local import redis_server
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts
from enginehouse.private_files import write_private
from enginehouse.registry.bundle import SYSTEM_FILE
from enginehouse.registry.tenants import existing_tenant

_SECRETS_FILE = "secrets.json"
_DEFAULT_PORTS = SidecarPorts(http=3500, grpc=50001, internal=50002, metrics=9090, profile=7777)
"""Where Dapr's SDKs look for a sidecar if they are told nothing."""


@dataclass(frozen=True, slots=True)
class TenantSystem:
    """A folder that has what the sidecar of a tenant's own system loads."""

    app_id: str
    resources: Path

    def plan(self, ports: SidecarPorts, app_port: int) -> SidecarPlan:
        """Return the sidecar of the system. The app itself says what it subscribes, and need not have a health check."""
        return SidecarPlan(
            self.app_id, ports, [self.resources], app_port=app_port, app_health_path=None, app_subscribes=True
        )

    def dapr_run(self, app_port: int) -> list[str]:
        """Return the command line of Dapr's CLI, without the program to run."""
        command = ["dapr", "run", "--app-id", self.app_id, "--app-port", str(app_port)]
        return [*command, "--resources-path", str(self.resources), "--dapr-listen-addresses", "127.0.0.1", "--"]

    def daprd(self, binary: Path, app_port: int) -> list[str]:
        """Return the command line of a sidecar on the ports where SDKs look for it."""
        return self.plan(_DEFAULT_PORTS, app_port).command(binary)


def write_system(
    home: Home, tenant: str, folder: Path, name: str | None = None, *, rotate: bool = False
) -> TenantSystem:
    """Write the folder for a system of `tenant`, and give the tenant its user of the running broker.

    Systems of different names are different apps, and each gets every answer. `rotate`: the user gets another password,
    and all its connections end, those of the tenant's other systems as well. Raise LocalError, before anything is
    written, if nothing runs, if the component is for another broker, or if the broker takes no users.
    """
    existing_tenant(home.tenants, tenant)
    app = system_app(tenant, name)
    address = redis_of(home)
    path = home.tenants / tenant / SYSTEM_FILE
    component = yaml.safe_load(path.read_text())
    if component["spec"]["type"] != "pubsub.redis":
        raise LocalError(
            f"{path} is a {component['spec']['type']}, and only pubsub.redis is filled in here.",
            "Give the tenant's system a copy of it with the broker's address and credentials.",
        )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _SECRETS_FILE).is_file():
        raise LocalError(
            f"{folder} holds other files, and a tenant's system needs a folder of its own.", "Name another with --into."
        )
    user = user_of_tenant(tenant)
    password = new_password() if rotate else home.broker_passwords.of(user.name)
    set_user(address, user, [password])
    if rotate:
        home.broker_passwords.set(user.name, [password])
        disconnect_user(address, user.name)
    secrets = folder / _SECRETS_FILE
    resources = folder / "resources"
    resources.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    # The folder may be below a repository.
    (folder / ".gitignore").write_text("*\n")
    write_private(secrets, json.dumps({"redisPassword": password}))
    for file, content in (
        ("pubsub.yaml", _filled(component, app, tenant_component(tenant), address)),
        ("secrets.yaml", _secret_store(secrets)),
    ):
        (resources / file).write_text(yaml.safe_dump(content, sort_keys=False))
    return TenantSystem(app, resources)


def redis_of(home: Home) -> RedisAddress:
    """Return the Redis of the stack that runs in `home`. Raise LocalError if none runs."""
    address = redis_server.external()
    if address:
        return address
    for process in home.read_state().get("processes", []) if home.is_running() else []:
        if process["kind"] == "redis":
            return RedisAddress("127.0.0.1", process["port"], home.secret("redis"))
    raise LocalError(
        f"Nothing is running in {home.path}.",
        "'enginehouse up' starts it. If it uses REDIS_URL, set that here as well.",
    )


def _filled(component: dict[str, Any], app: str, bundled_app: str, address: RedisAddress) -> dict[str, Any]:
    """Return the bundle's component for this app, with the address and the user of the broker in it."""
    settings = {item["name"]: item for item in component["spec"]["metadata"]}
    for name in {"publishingScopes", "subscriptionScopes"} & settings.keys():
        settings[name]["value"] = settings[name]["value"].replace(f"{bundled_app}=", f"{app}=")
    # Systems that are different apps do not share a consumer group, so that each gets every answer.
    settings["consumerID"] = {"name": "consumerID", "value": app}
    settings["redisHost"] = {"name": "redisHost", "value": f"{address.host}:{address.port}"}
    settings["redisUsername"] = {"name": "redisUsername", "value": bundled_app}
    settings["redisPassword"] = {
        "name": "redisPassword",
        "secretKeyRef": {"name": "redisPassword", "key": "redisPassword"},
    }
    spec = {**component["spec"], "metadata": list(settings.values())}
    return {**component, "spec": spec, "auth": {"secretStore": "broker"}, "scopes": [app]}


def _secret_store(secrets: Path) -> dict[str, Any]:
    return {
        "apiVersion": "dapr.io/v1alpha1",
        "kind": "Component",
        "metadata": {"name": "broker"},
        "spec": {
            "type": "secretstores.local.file",
            "version": "v1",
            "metadata": [{"name": "secretsFile", "value": str(secrets)}],
        },
    }
