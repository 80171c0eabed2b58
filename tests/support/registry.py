"""The settings of a registry over a home, for tests that serve it in their own process."""

from pathlib import Path
from typing import Any

from enginehouse.registry.settings import RegistrySettings


def registry_settings(home: Path, **others: Any) -> RegistrySettings:
    """Return the settings of a registry whose folders lie in `home`, beside its `state.json`."""
    return RegistrySettings(
        engines_dir=home / "engines",
        tenants_dir=home / "tenants",
        webhook_secrets_dir=home / "webhook-secrets",
        work_dir=home / "uploads",
        state_file=home / "state.json",
        **others,
    )
