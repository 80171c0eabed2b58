"""Find the project's files that are not Python. Local mode runs from a checkout of the project."""

from pathlib import Path

import enginehouse
from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.errors import LocalError
from enginehouse.registry.bundle import ENGINE_FILE, read_spec


def root() -> Path:
    """Return the top folder of the checkout."""
    folder = Path(enginehouse.__file__).resolve().parents[2]
    if not (folder / "components" / "local").is_dir():
        raise LocalError(
            f"{folder} is not a checkout of Enginehouse: components/local/ is not there.",
            "Run from a checkout, installed with 'uv sync --all-extras' (editable, which is uv's default).",
        )
    return folder


def source_folders(*packages: str) -> list[Path]:
    """Return the folders of our own packages."""
    return [root() / "services" / "enginehouse" / package for package in packages]


def gateway_resources() -> list[Path]:
    """Return the folders that the gateway's sidecar always loads."""
    return [root() / "components" / "local", root() / "dapr" / "subscriptions", root() / "dapr" / "resiliency"]


def runner_resources() -> list[Path]:
    """Return the folders that every runner's sidecar loads beside its engine's bundle."""
    return [root() / "dapr" / "resiliency"]


def configuration(kind: str) -> Path:
    """Return the path of the Configuration for a kind of app, `gateway` or `runner`, where sidecars prove who they are."""
    return root() / "dapr" / "configuration" / f"{kind}.yaml"


def engine_template() -> Path:
    """Return the folder from which new engines are made."""
    return root() / "engine_template"


def platform_engines() -> dict[Path, EngineSpec]:
    """Return the engines that come with the system, by folder."""
    folders = sorted(path.parent for path in (root() / "services" / "engines").glob(f"*/{ENGINE_FILE}"))
    return {folder: read_spec(folder / ENGINE_FILE) for folder in folders}
