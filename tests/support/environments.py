"""An engine's own environment, made as a deployment makes it."""

from pathlib import Path

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local import environments
from enginehouse.local.guard import Guard
from enginehouse.local.steps import SilentSteps


async def make_environment(spec: EngineSpec, folder: Path) -> Path:
    """Make the environment of the engine in `folder`, and return it. May raise EnvironmentFailed."""
    guard = Guard()
    try:
        environment = await environments.prepare(spec, folder, guard, SilentSteps())
    finally:
        guard.close()
    assert environment is not None
    return environment.folder
