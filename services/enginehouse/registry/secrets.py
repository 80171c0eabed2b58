"""Keep the values of engines' secrets on this machine: a file for each engine, which only its owner can read."""

import json
import os
from pathlib import Path

from enginehouse.contracts.engine import check_secret_name
from enginehouse.contracts.errors import NotFound, RequestError
from enginehouse.contracts.names import EngineId
from enginehouse.registry.locks import only_writer

VALUE_MAX_BYTES = 64 * 1024


class SecretDoesNotExist(NotFound):
    """The engine has no such secret."""

    code = "SECRET_DOES_NOT_EXIST"
    advice = "'enginehouse engines secret list ENGINE' shows the names there are."


class SecretNotDeclared(RequestError):
    """No version of the engine names this secret."""

    code = "SECRET_NOT_DECLARED"
    advice = "Name it under 'secrets' in engine.yaml and deploy that first: the version waits for the value."


def secrets_file(home: Path, engine_id: str) -> Path:
    """Return the file with an engine's values, whether it exists or not. It is beside the bundles, never in them."""
    return home / "secrets" / f"{EngineId.parse(engine_id)}.json"


def secret_names(home: Path, engine_id: str) -> list[str]:
    """Return the names of an engine's secrets that have a value."""
    return sorted(_read(secrets_file(home, engine_id)))


def set_secret(home: Path, engine_id: str, name: str, value: str) -> bool:
    """Set one value, and return whether it is another one than before: then a running stack restarts the engine.

    Raise RequestError for a name or a value that cannot be one.
    """
    check_secret_name(name)
    if not value or len(value.encode()) > VALUE_MAX_BYTES:
        raise RequestError(f"The value of {name} must have 1 to {VALUE_MAX_BYTES} bytes")
    path = secrets_file(home, engine_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_writer(path.parent):
        values = _read(path)
        if values.get(name) == value:
            return False
        _write(path, {**values, name: value})
    return True


def remove_secret(home: Path, engine_id: str, name: str) -> None:
    """Forget one value. Raise SecretDoesNotExist if there is none."""
    path = secrets_file(home, engine_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_writer(path.parent):
        values = _read(path)
        if values.pop(name, None) is None:
            raise SecretDoesNotExist(f"{engine_id} has no secret {name[:64]!r}")
        _write(path, values)


def _read(path: Path) -> dict[str, str]:
    try:
        values: dict[str, str] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return values


def _write(path: Path, values: dict[str, str]) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(values, file)
    os.replace(draft, path)
