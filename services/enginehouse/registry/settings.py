"""The settings of a registry."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from enginehouse.contracts.audit import AUDIT_MAX_BYTES


class RegistrySettings(BaseSettings):
    """Settings that are read once, at start, from ENGINEHOUSE_REGISTRY_*."""

    model_config = SettingsConfigDict(env_prefix="ENGINEHOUSE_REGISTRY_")

    host: str = Field("127.0.0.1", description="Address of the API. Use another one than loopback only behind TLS.")
    port: int = Field(8081, description="Port of the API.")
    engines_dir: Path = Field(description="Folder of engines' bundles. Their files are copied to `sources/` beside it.")
    tenants_dir: Path = Field(description="Folder of tenants' bundles.")
    webhook_secrets_dir: Path = Field(description="Folder with a file for each tenant that holds its signing secrets.")
    supply_dir: Path | None = Field(
        None,
        description="Folder of the policy of what may run (docs/supply.md). Without it, everything may, and no signatures "
        "and scan reports are taken.",
    )
    work_dir: Path = Field(description="Folder for uploads while they are unpacked. It is emptied at start.")
    state_file: Path | None = Field(
        None,
        description="File in which whoever runs the engines says how they are. Without it, nothing is known of that.",
    )
    kept_tenants: list[str] = Field(
        ["shared"], description="Tenants that cannot be removed, because the deployment itself needs them."
    )
    upload_max_bytes: int = Field(
        1024 * 1024 * 1024,
        gt=0,
        description="Largest upload of an engine's folder, packed. Unpacked it may have 4 GiB.",
    )
    audit_dir: Path | None = Field(
        None, description="Folder of the audit log. Gateways and the registry may share one. Without it, none is kept."
    )
    audit_max_bytes: int = Field(
        AUDIT_MAX_BYTES,
        ge=1024 * 1024,
        description="Most bytes of this process's audit log; the oldest entries are deleted.",
    )
    log_json: bool = Field(True, description="Whether logs are JSON; otherwise text for people.")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="Lowest level that is logged."
    )

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach the API."""
        return self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback
