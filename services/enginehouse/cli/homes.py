"""Find the home that a command works on: an existing one, one to change, or one to start."""

import os
from pathlib import Path
from typing import Annotated

import typer

from enginehouse.homes import HOME_NAME, NoHome, find_home
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home

_NEAREST = f"the nearest {HOME_NAME}, in this folder or one above it"
_HELP = "Folder of this deployment: bundles, data, logs."

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="FOLDER", envvar="ENGINEHOUSE_HOME", help=_HELP, show_default=_NEAREST),
]
NewHomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="FOLDER",
        envvar="ENGINEHOUSE_HOME",
        help=_HELP,
        show_default=f"{_NEAREST}; else a new one here",
    ),
]


def existing_home(given: Path | None) -> Home:
    """Return the home that is given, or the nearest one. Raise NoHome if there is none."""
    return Home.at(find_home(given))


def home_to_start(given: Path | None) -> Home:
    """Return the home that is given, the nearest one, or a new one in the present folder."""
    if given is not None:
        return Home.at(given)
    try:
        return existing_home(None)
    except NoHome as missing:
        if missing.path is not None:
            raise
        return Home.at(Path(HOME_NAME))


def home_to_change(given: Path | None) -> Home:
    """Return the home whose bundles a command changes. Raise LocalError where ENGINEHOUSE_URL means another platform."""
    url = os.environ.get("ENGINEHOUSE_URL", "").rstrip("/")
    try:
        home = existing_home(given)
    except NoHome:
        if url:
            raise _only_here(url) from None
        raise
    # A home that was named in the command itself is meant. ENGINEHOUSE_HOME may only be left over.
    named = given is not None and str(given) != os.environ.get("ENGINEHOUSE_HOME")
    if not named and url and url != home.read_local().get("url"):
        raise _only_here(url)
    return home


def _only_here(url: str) -> LocalError:
    return LocalError(
        f"ENGINEHOUSE_URL names {url}, and this command changes a home on this machine.",
        "Name the home with --home FOLDER; or deploy over the network with 'enginehouse engines deploy FOLDER --to NAME'.",
    )
