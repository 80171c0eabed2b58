"""Make the folder of a new engine from the template, with its own name everywhere."""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from enginehouse.contracts.errors import InvalidName, RequestError
from enginehouse.contracts.names import EngineId, check_name
from enginehouse.local.checkout import engine_template
from enginehouse.local.errors import LocalError
from enginehouse.registry.content import deployed_files

_TEMPLATE = EngineId("demo", "my-engine")
"""The engine that the template describes."""
_TEXT = frozenset({".md", ".py", ".yaml", ".txt", ".ini"})


class CannotMake(RequestError):
    """The folder of a new engine cannot be made."""

    code = "ENGINE_NOT_MADE"
    advice = "Nothing was written: correct this and try again."


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the author asks for, as it was written."""

    tenant: str
    name: str

    @classmethod
    def read(cls, text: str, own_tenant: str) -> "Wanted":
        """Read `tenant/name`, `tenant--name`, or a bare name of `own_tenant`'s."""
        tenant, separator, name = text.partition("/" if "/" in text else "--")
        return cls(tenant, name) if separator else cls(own_tenant, tenant)


def make_engine(wanted: Wanted, folder: Path) -> EngineId:
    """Make `folder` from the template, and return the id of the engine in it. Raise CannotMake with every mistake."""
    mistakes = [*_wrong_name("tenant", wanted.tenant), *_wrong_name("engine", wanted.name), *_taken(folder)]
    if mistakes:
        raise CannotMake("\n  ".join(["The engine cannot be made:", *mistakes]) if len(mistakes) > 1 else mistakes[0])
    engine, folder = EngineId(wanted.tenant, wanted.name), folder.absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made beside it and renamed, so that an interruption leaves no half folder that the next attempt would refuse.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as place:
            fresh = Path(place, "engine")
            fresh.mkdir()
            _copy(fresh, _renamings(engine))
            _put(fresh, folder)
    except OSError as error:
        raise LocalError(
            f"{folder} cannot be made: {error.strerror}.", "Name a folder that you may write to."
        ) from None
    return engine


def _copy(folder: Path, renamings: Mapping[str, str]) -> None:
    for name, path in deployed_files(engine_template()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix not in _TEXT:
            shutil.copyfile(path, folder / name)
            continue
        text = path.read_text()
        for old, new in renamings.items():
            text = text.replace(old, new)
        (folder / name).write_text(text)


def _put(fresh: Path, folder: Path) -> None:
    if not folder.exists():
        fresh.rename(folder)
        return
    for path in fresh.iterdir():  # An empty folder stays: a shell may be in it.
        path.rename(folder / path.name)


def _renamings(engine: EngineId) -> dict[str, str]:
    """Return what stands for what in the template's files, the longer text before the shorter one in it."""
    old = _TEMPLATE
    return {
        f"tenant: {old.tenant} ".ljust(24): f"tenant: {engine.tenant} ".ljust(24),
        f"name: {old.engine} ".ljust(24): f"name: {engine.engine} ".ljust(24),
        f"{old.tenant}/{old.engine}": f"{engine.tenant}/{engine.engine}",
        str(old): str(engine),
        class_name(old.engine): class_name(engine.engine),
        old.engine: engine.engine,
        # Relative to the template's folder, so it would lead nowhere from elsewhere.
        "(../docs/engines.md)": "(docs/engines.md of Enginehouse)",
    }


def class_name(engine: str) -> str:
    """Return the name of an engine's class. It ends in `Engine`, so it is no name that the module imports or declares."""
    words = "".join(word.capitalize() for word in engine.split("-"))
    return words if words.endswith("Engine") else f"{words}Engine"


def _wrong_name(kind: str, name: str) -> list[str]:
    try:
        check_name(kind, name)
    except InvalidName as error:
        near = _near(kind, name)
        return [f"{error}" + (f"; {near!r} would be right" if near else "")]
    return []


def _near(kind: str, name: str) -> str | None:
    """Return a valid name that is like `name`."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")
    for candidate in (plain[:24].rstrip("-"), f"my-{plain}"[:24].rstrip("-")):
        try:
            return check_name(kind, candidate)
        except InvalidName:
            continue
    return None


def _taken(folder: Path) -> list[str]:
    if not folder.exists():
        return []
    if not folder.is_dir():
        return [f"{folder} is a file; name a folder that does not exist yet"]
    return [f"{folder} exists and is not empty; name another folder"] if any(folder.iterdir()) else []
