"""`enginehouse environments`: the other Enginehouses that engines are deployed to, and the operator's key of each."""

import ipaddress
import json
import os
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from enginehouse.cli.commands import Lists
from enginehouse.cli.console import print_json, say
from enginehouse.cli.options import JsonOption
from enginehouse.cli.registry_calls import call
from enginehouse.cli.tables import Column, print_table
from enginehouse.contracts.errors import RequestError
from enginehouse.contracts.tenant import tenant_of_key
from enginehouse.local.errors import LocalError
from enginehouse.private_files import write_private

KEY_VARIABLE = "ENGINEHOUSE_OPERATOR_KEY"
EXAMPLES = """Examples:

enginehouse environments add staging https://registry.staging.example

enginehouse engines deploy sentiment/ --to staging"""

environments = typer.Typer(cls=Lists, epilog=EXAMPLES)

_COLUMNS = (Column("environment"), Column("registry"))
_LIST = "'enginehouse environments' lists those there are; 'enginehouse environments add NAME URL' adds one."


class Environment(BaseModel):
    """The registry of another Enginehouse, and an operator's key there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    key: SecretStr


class _Known(BaseModel):
    environments: dict[str, Environment] = {}


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Your name for it.", show_default=False)]


def _file() -> Path:
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(folder).expanduser() / "enginehouse" / "environments.json"


def _read() -> dict[str, Environment]:
    file = _file()
    try:
        return _Known.model_validate_json(file.read_text()).environments if file.exists() else {}
    except (OSError, ValidationError):
        raise LocalError(f"{file} cannot be read.", "Delete it, and add the environments again.") from None


def _write(known: dict[str, Environment]) -> None:
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    plain = {name: {"url": one.url, "key": one.key.get_secret_value()} for name, one in sorted(known.items())}
    write_private(file, json.dumps({"environments": plain}, indent=2) + "\n")


def environment(name: str) -> Environment:
    """Return an environment that was added. Raise LocalError if there is none of that name."""
    found = _read().get(name)
    if found is None:
        raise LocalError(f"There is no environment {name!r}.", _LIST)
    return found


def checked_url(url: str) -> str:
    """Return the URL of a registry that a key may be sent to. Raise LocalError for one that others could listen to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise LocalError(f"{url!r} is not the URL of a registry.", "It looks like https://registry.example.")
    if parts.scheme == "http" and not _is_here(parts.hostname):
        raise LocalError(f"{url} would carry the key unencrypted.", "Use https://; http:// is for this machine only.")
    return url.rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@environments.callback()
def callback() -> None:
    """List, add or remove the other Enginehouses that engines are deployed to. Without a command: list."""


@environments.command("list")
def list_environments(as_json: JsonOption = False) -> None:
    """List the environments and their registries. Keys are not shown."""
    rows = [(name, one.url) for name, one in _read().items()]
    if as_json:
        print_json([{"name": name, "url": url} for name, url in rows])
    else:
        print_table(_COLUMNS, rows) if rows else say("No environments.")


@environments.command()
def add(
    name: NameArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="URL of its registry.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Try an environment's registry and key, and add it, or replace it. The operator's key is asked for, or read from ENGINEHOUSE_OPERATOR_KEY or standard input."""
    place, known = checked_url(url), _read()
    key = SecretStr(_key())
    _try(place, key)
    _write({**known, name: Environment(url=place, key=key)})
    print_json({"name": name, "url": place}) if as_json else say(f"{name} is {place}. Its key is in {_file()}.")


def _try(url: str, key: SecretStr) -> None:
    """Call the registry once. Raise LocalError unless it answers, and takes the key as an operator's."""
    text = key.get_secret_value()
    tenant = tenant_of_key(text)
    if not (tenant and text.isascii() and text.isprintable()):
        raise LocalError(
            "This is no key of an Enginehouse.", "It looks like eh_TENANT_…; see 'tenant add NAME --admin'."
        )
    try:
        call(url, key, "GET", f"/v1/tenants/{tenant}")
    except RequestError as error:
        raise LocalError(
            f"{url} does not answer as a registry does: {error}.",
            "'enginehouse status' shows the registry's URL there.",
        ) from None


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "")
    if not key:
        key = typer.prompt("Operator's key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
    if not key.strip():
        raise LocalError("No key was given.", f"Set {KEY_VARIABLE}, or write the key to standard input.")
    return key.strip()


@environments.command()
def remove(name: NameArgument, as_json: JsonOption = False) -> None:
    """Forget an environment and its key. Nothing changes there."""
    environment(name)
    _write({known: one for known, one in _read().items() if known != name})
    print_json({"name": name, "removed": True}) if as_json else say(f"{name} is forgotten.")
