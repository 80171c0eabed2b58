"""`enginehouse engines logs`: what an engine's own processes write, from the files of the stack on this machine."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
import watchfiles

from enginehouse.cli.console import print_lines, say
from enginehouse.cli.homes import HomeOption, home_to_change
from enginehouse.cli.options import EngineWithLogsArgument
from enginehouse.cli.running import run
from enginehouse.contracts.names import app_id, app_ids, engine_of, is_trial
from enginehouse.local.home import LOCAL_TENANT
from enginehouse.registry.deploy import deployed_engine
from enginehouse.registry.versions import NoOtherVersion, read_versions

_TAIL_MAX_BYTES = 4 * 1024 * 1024
_LOOK_AGAIN_MS = 5_000
"""File systems such as network drives do not say that a file has changed."""


def logs(
    engine: EngineWithLogsArgument,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, metavar="NUMBER", help="Last lines of each process.")
    ] = 50,
    runner: Annotated[bool, typer.Option("--runner", help="Also what its runner and its sidecar write.")] = False,
    home: HomeOption = None,
) -> None:
    """Print what an engine's own processes have written, each line after the name of its process."""
    place = home_to_change(home)
    engine_id = deployed_engine(place.engines, engine_of(engine), LOCAL_TENANT)
    apps = [_trial_app(place.engines / engine_id)] if is_trial(engine) else app_ids(engine_id)
    kinds = ("engine-*", "runner", "daprd") if runner else ("engine-*",)
    seen: dict[Path, int] = {}
    for path in _files(place.logs, apps, kinds):
        seen[path] = _print_all(path, _tail(path, lines))
    if follow:
        run(_follow(place.logs, apps, kinds, seen))
    elif not seen:
        say(f"{engine} has written nothing yet: it was not started on this machine.")


def _trial_app(bundle: Path) -> str:
    """Return the app of an engine's version on trial. Raise NoOtherVersion if there is none."""
    slot = read_versions(bundle).trial
    if slot is None:
        raise NoOtherVersion(
            f"No version of {bundle.name} is on trial; 'engines logs {bundle.name}' prints all that ran"
        )
    return app_id(bundle.name, slot)


async def _follow(folder: Path, apps: list[str], kinds: tuple[str, ...], seen: dict[Path, int]) -> None:
    async for _ in watchfiles.awatch(
        folder, step=50, debounce=200, yield_on_timeout=True, rust_timeout=_LOOK_AGAIN_MS, recursive=False
    ):
        for path in _files(folder, apps, kinds):
            seen[path] = await asyncio.to_thread(_print_all, path, seen.get(path, 0))


def _files(folder: Path, apps: list[str], kinds: tuple[str, ...]) -> list[Path]:
    """Return the logs of these apps, by name."""
    return sorted(path for app in apps for kind in kinds for path in folder.glob(f"{app}.{kind}.log"))


def _print_all(path: Path, start: int) -> int:
    if path.stat().st_size < start:
        start = 0  # The file was emptied.
    while (end := print_lines(path, start)) > start:
        start = end
    return start


def _tail(path: Path, lines: int) -> int:
    """Return where the last `lines` whole lines of a file begin. Of a very long tail, the beginning is left out."""
    size = path.stat().st_size
    first = max(0, size - _TAIL_MAX_BYTES)
    with path.open("rb") as file:
        file.seek(first)
        text = file.read(size - first)
    at = text.rfind(b"\n") + 1
    for _ in range(lines):
        if at <= 0:
            return first
        at = text.rfind(b"\n", 0, at - 1) + 1
    return first + at
