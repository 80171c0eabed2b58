"""Where the project's own files are that are not Python: this mode runs from a checkout of it."""

from pathlib import Path

import enginehouse
from enginehouse.contracts.engine import EngineSpec
from enginehouse.local.errors import LocalError
from enginehouse.registry.bundle import ENGINE_FILE, read_spec


def root() -> Path:
    """The checkout's top folder."""
    folder = Path(enginehouse.__file__).resolve().parents[2]
    if not (folder / "components" / "local").is_dir():
        raise LocalError(
            f"{folder} is not a checkout of Enginehouse: components/local/ is not there.",
            "Run from a checkout, installed with 'uv sync --all-extras' (editable, which is uv's default).",
        )
    return folder


def source_folders(*packages: str) -> list[Path]:
    """Folders of our own packages."""
    return [root() / "services" / "enginehouse" / package for package in packages]


def gateway_resources() -> list[Path]:
    """What the gateway's sidecar loads whatever engines there are."""
    return [root() / "components" / "local", root() / "dapr" / "subscriptions", root() / "dapr" / "resiliency"]


def runner_resources() -> list[Path]:
    """What every runner's sidecar loads beside its engine's bundle."""
    return [root() / "dapr" / "resiliency"]


def configuration(kind: str) -> Path:
    """The Configuration of a kind of app: `gateway` or `runner`."""
    return root() / "dapr" / "configuration" / f"{kind}.yaml"


def platform_engines() -> dict[Path, EngineSpec]:
    """The engines that come with the system, by folder."""
    folders = sorted(path.parent for path in (root() / "services" / "engines").glob(f"*/{ENGINE_FILE}"))
    return {folder: read_spec(folder / ENGINE_FILE) for folder in folders}
