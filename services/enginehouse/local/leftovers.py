"""Deletes what processes that are gone have left in a home: their logs and their folders in `run`."""

import json

from enginehouse.contracts.names import tenant_component
from enginehouse.homes import read_json
from enginehouse.local.configurations import forget_app
from enginehouse.local.engine_secrets import secrets_folder
from enginehouse.local.home import Home
from enginehouse.private_files import write_private
from enginehouse.registry.disk import remove_tree


def delete_of_app(home: Home, app_id: str) -> None:
    """Delete the logs, the exchanged files, the secrets and the engine's home folders of a slot whose processes have ended. Raise OSError."""
    # An app id holds no character that a pattern gives a meaning to; the dot ends it.
    for log in home.logs.glob(f"{app_id}.*.log*"):  # Also those that were put aside.
        log.unlink(missing_ok=True)
    for folder in (home.exchange / app_id, secrets_folder(home, app_id), *(home.run / "engines").glob(f"{app_id}.*")):
        remove_tree(folder)
    forget_app(home.run, app_id)
    for draft in home.run.glob(f"{app_id}.*"):
        draft.unlink(missing_ok=True)


def delete_of_systems(home: Home, tenant: str) -> None:
    """Delete what the demo's example of a tenant's own system has left, and the key that the demo kept. Raise OSError."""
    remove_tree(home.example_system(tenant))
    for log in home.logs.glob(f"{tenant_component(tenant)}*.log*"):
        if log.name.removeprefix(tenant_component(tenant)).startswith((".", "--")):
            log.unlink(missing_ok=True)
    keys = read_json(home.demo_keys)
    if keys.pop(tenant, None):
        write_private(home.demo_keys, json.dumps(keys))


def delete_objects(home: Home, tenant: str) -> None:
    """Delete the folders that a tenant's objects were in; the gateway has deleted the objects. Raise OSError."""
    remove_tree(home.objects / tenant)
