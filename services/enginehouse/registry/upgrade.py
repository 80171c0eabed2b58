"""Bring bundles that a former version has rendered up to date, and leave all else in them as their owners wrote it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from enginehouse.registry.bundle import update_bundle
from enginehouse.registry.locks import only_writer
from enginehouse.registry.objects import REDIS_USERNAME
from enginehouse.registry.snapshot import only_deployer

_COMPONENTS = ("slots/*/dapr/*.yaml", "gateway/*.yaml", "systems/*.yaml")
_PASSWORD = {"name": "redisPassword", "envRef": "ENGINEHOUSE_REDIS_PASSWORD"}


def upgrade_engines(engines: Path, changed: Iterable[Path]) -> None:
    """Name the user of Redis in the components of the engines that hold these paths.

    A password without a name would be taken for that of Redis' administrator, and be refused.
    """
    if outdated := [bundle for bundle in _bundles(engines, changed) if _outdated(bundle)]:
        with only_deployer(engines):
            _upgrade(outdated)


def upgrade_tenants(tenants: Path, changed: Iterable[Path]) -> None:
    """Do the same for the tenants that hold these paths."""
    if outdated := [bundle for bundle in _bundles(tenants, changed) if _outdated(bundle)]:
        with only_writer(tenants):
            _upgrade(outdated)


def _bundles(folder: Path, changed: Iterable[Path]) -> list[Path]:
    names = {path.relative_to(folder).parts[0] for path in changed if folder in path.parents}
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def _upgrade(bundles: Iterable[Path]) -> None:
    for bundle in bundles:
        update_bundle(bundle, _outdated(bundle))


def _outdated(bundle: Path) -> dict[str, str]:
    """Return the files of a bundle that lack the user's name, by path, with the name in them."""
    found = {}
    for path in sorted(path for pattern in _COMPONENTS for path in bundle.glob(pattern)):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue  # It is being replaced at this moment, or whoever runs the engine says what is wrong.
        if _PASSWORD["envRef"] in text and REDIS_USERNAME["name"] not in text and (named := _with_username(text)):
            found[str(path.relative_to(bundle))] = named
    return found


def _with_username(text: str) -> str | None:
    """Return a component's text with the user's name before the password; None if that stands there in another way."""
    try:
        settings: list[dict[str, Any]] = yaml.safe_load(text)["spec"]["metadata"]
        place = settings.index(_PASSWORD)
        node = _part(_part(yaml.compose(text), "spec"), "metadata")
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return None  # Whoever runs the engine says what is wrong with the file.
    if node.flow_style:
        return None
    lines, mark = text.splitlines(keepends=True), node.value[place].start_mark
    before = lines[mark.line][: mark.column]
    named = f"{before}name: {REDIS_USERNAME['name']}\n{' ' * mark.column}envRef: {REDIS_USERNAME['envRef']}\n"
    return "".join([*lines[: mark.line], named, *lines[mark.line :]])


def _part(node: Any, name: str) -> Any:
    (value,) = [value for key, value in node.value if key.value == name]
    return value
