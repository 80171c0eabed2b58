"""The settings of a registry."""

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator
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
    cluster: bool = Field(
        False,
        description="Whether this registry brings a Kubernetes cluster to what its home says: the one it runs in, or the one "
        "that KUBECONFIG names. One registry of a cluster does, with state_file, proof_key and broker_password set.",
    )
    cluster_file: Path | None = Field(
        None,
        description="File with what of the cluster its objects depend on (docs/kubernetes.md). Without it, the usual.",
    )
    gateway_url: str | None = Field(
        None, description="URL of the gateway's API. Without it, that of the gateway in the cluster's core namespace."
    )
    proof_key: SecretStr | None = Field(
        None, description="The gateways' proof key, from which each engine's is derived."
    )
    broker_host: str | None = Field(
        None, description="`host:port` of the broker as the registry reaches it. Without it, that of the cluster_file."
    )
    broker_username: str = Field("registry", description="User of the broker that makes the other users.")
    broker_password: SecretStr | None = Field(None, description="Its password.")
    gateway_broker_password: SecretStr | None = Field(
        None,
        description="Password of the gateway's user of the broker, which is made with it. Without it, that user is not made.",
    )
    operator: str = Field(
        "operators",
        description="Tenant of the first operator, which is made at the first start, and of the registry's own key.",
    )
    operator_key_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = Field(
        None, description="SHA-256 of the first operator's key, in hexadecimal digits."
    )
    log_json: bool = Field(True, description="Whether logs are JSON; otherwise text for people.")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="Lowest level that is logged."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {name: getattr(self, name) for name in ("state_file", "proof_key", "broker_password")}
        if self.cluster and (missing := [name for name, value in needed.items() if value is None]):
            raise ValueError(f"cluster needs {', '.join(missing)}")
        return self

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach the API."""
        return self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback
