"""Finds the home of a deployment on this machine, as git finds a repository, and the URL and the key to call it."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from enginehouse.contracts.errors import EnginehouseError

HOME_NAME = ".enginehouse"
"""Name of the home that `enginehouse up` makes, and that is looked for in the present folder and those above it."""

_START = "'enginehouse up' ('make up' in the checkout) starts one"
_ELSEWHERE = "--home FOLDER or ENGINEHOUSE_HOME names one that is elsewhere"


class NoHome(EnginehouseError):
    """No home of a deployment is where it was looked for."""

    code = "NO_HOME"
    retryable = False
    advice = ""

    def __init__(self, detail: str, path: Path | None = None) -> None:
        super().__init__(detail)
        self.path = path
        """The folder that was found or named, and cannot be used."""


class Access(NamedTuple):
    """How to call a deployment."""

    url: str
    api_key: str


def find_home(given: Path | None = None) -> Path:
    """Return the home that is given, that ENGINEHOUSE_HOME names, or the nearest one from the present folder upwards.

    Raise NoHome with what was looked for if there is none, or if the nearest one belongs to another user: its owner
    would decide where keys and inputs go.
    """
    named = given or (Path(os.environ["ENGINEHOUSE_HOME"]) if os.environ.get("ENGINEHOUSE_HOME") else None)
    if named is not None:
        home = named.expanduser().resolve()
        if not _is_home(home):
            raise NoHome(f"{home} is not the home of an Enginehouse. {_START} there: --home {named}.", home)
        return home
    try:
        folder = Path.cwd()
    except OSError as error:
        raise NoHome(f"The present folder cannot be read: {error.strerror}. {_ELSEWHERE}.") from None
    for home in (above / HOME_NAME for above in (folder, *folder.parents)):
        if _is_home(home):
            _check_owner(home)
            return home
    raise NoHome(
        f"There is no Enginehouse here: no {HOME_NAME} in {folder} or in a folder above it. {_START}; {_ELSEWHERE}."
    )


def _is_home(folder: Path) -> bool:
    # `up` makes this folder before anything else. A clone of a home need not have more.
    try:
        return (folder / "engines").is_dir()
    except OSError:
        return False


def _check_owner(home: Path) -> None:
    if not hasattr(os, "geteuid"):
        return  # Windows
    found = [home.lstat(), home.stat(), *(file.lstat() for file in [local_json(home)] if file.exists())]
    if any(status.st_uid != os.geteuid() for status in found):
        raise NoHome(
            f"{home} is the nearest home of an Enginehouse, and belongs to another user, so it is not used. "
            f"To trust it, name it: --home {home} or ENGINEHOUSE_HOME={home}.",
            home,
        )


def local_json(home: Path) -> Path:
    """Return the path of the file with the URL and key that commands on this machine use by default; mode 0600."""
    return home / "local.json"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, empty if it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_access(url: str | None = None, api_key: str | None = None, home: Path | None = None) -> Access:
    """Return the URL and the key to use: those given, else those of the environment, else those of the home.

    The key of a home is only for the URL of that home: no other server may see it. Raise NoHome without any URL.
    """
    url = url or os.environ.get("ENGINEHOUSE_URL")
    api_key = api_key or os.environ.get("ENGINEHOUSE_API_KEY")
    if url and api_key:
        return Access(url.rstrip("/"), api_key)
    try:
        found = find_home(home)
    except NoHome as missing:
        if url:
            return Access(url.rstrip("/"), "")
        raise NoHome(f"{missing} Or set ENGINEHOUSE_URL and ENGINEHOUSE_API_KEY to use another.") from None
    local = read_json(local_json(found))
    if not url and not local.get("url"):
        raise NoHome(f"No Enginehouse has run in {found}. {_START}: --home {found}.")
    own = not url or url.rstrip("/") == local.get("url")
    return Access(local["url"] if own else str(url).rstrip("/"), api_key or (local.get("api_key", "") if own else ""))
