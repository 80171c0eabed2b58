"""Give an engine its own secrets: read through its own sidecar's secret store, and written as files for it alone."""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import secrets_component
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.registry.secrets import secrets_file
from enginehouse.sidecar.base import Sidecar

ReadSecrets = Callable[[EngineSpec], Awaitable[dict[str, str]]]
"""Returns the value of each secret that an engine names."""
SECRETS_FILE_VARIABLE = "ENGINEHOUSE_SECRETS_FILE"
"""Names the file of an engine's values to the engine's own sidecar. A component that names another store ignores it."""


def sidecars_variable(home: Home, engine_id: str) -> dict[str, str]:
    """Return the variable by which an engine's sidecar finds its values. The store needs a file, also without any."""
    path = secrets_file(home.path, engine_id)
    if not path.exists():
        path = home.run / "no-secrets.json"
        path.write_text("{}")
    return {SECRETS_FILE_VARIABLE: str(path)}


def secrets_folder(home: Home, app_id: str) -> Path:
    """Return the folder with the secrets that a slot's processes read, whether it exists or not."""
    return home.run / "secrets" / app_id


async def read_secrets(sidecar: Sidecar, engine_id: str, names: Sequence[str]) -> dict[str, str]:
    """Return each secret's value.

    Raise LocalError, naming the secret and the command that sets it, if the store does not give one.
    """
    store = secrets_component(engine_id)
    values: dict[str, str] = {}
    for name in names:
        try:
            values[name] = await sidecar.secret(store, name)
        except EnginehouseError as error:
            raise LocalError(
                f"{engine_id} cannot start: its engine.yaml names the secret {name}, and {store} gives no value for it "
                f"({type(error).__name__}).",
                f"Type: enginehouse engines secret set {engine_id} {name}",
            ) from None
    return values


def write_secrets(folder: Path, values: Mapping[str, str]) -> None:
    """Write each secret as the file `folder/<name>`, mode 0400."""
    forget_secrets(folder)
    folder.mkdir(parents=True, mode=0o700)
    for name, value in values.items():
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as file:
            file.write(value)


def forget_secrets(folder: Path) -> None:
    """Delete the files of an engine that has stopped."""
    shutil.rmtree(folder, ignore_errors=True)
