"""The settings of a gateway."""

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from enginehouse.contracts.audit import AUDIT_MAX_BYTES
from enginehouse.contracts.base import TOKEN_MIN_LENGTH, at_least
from enginehouse.contracts.engine import INLINE_MAX_BYTES, WINDOW_FACTOR, WINDOW_MIN
from enginehouse.contracts.proofs import PROOF_KEY_MIN_LENGTH


class GatewaySettings(BaseSettings):
    """Settings that are read once, at start, from ENGINEHOUSE_GATEWAY_* and Dapr's own variables."""

    model_config = SettingsConfigDict(env_prefix="ENGINEHOUSE_GATEWAY_", populate_by_name=True)

    host: str = Field(
        "127.0.0.1", description="Address of the public API. Use another one than loopback only behind TLS."
    )
    port: int = Field(8080, description="Port of the public API.")
    grpc_port: int = Field(8090, description="Port of the Open Inference Protocol over gRPC, at the same address.")
    delivery_port: int = Field(8081, description="Loopback port on which the sidecar delivers events.")
    internal_host: str = Field(
        "127.0.0.1", description="Address of the internal listener. Whoever reaches it needs no key."
    )
    internal_port: int | None = Field(
        None,
        description="Port on which a cluster's own parts find, without a key, `/scaling/{engine}` (how many unfinished jobs an engine has, for a scaler), `/healthz/live`, `/healthz/ready` and `/metrics`. None: there is no such listener.",
    )
    ledger_url: SecretStr = Field(description="sqlite:///FILE (one gateway) or postgresql://USER:PASSWORD@HOST/NAME.")
    tenants_dir: Path = Field(
        description="Folder of `<tenant>/tenant.yaml` or `<tenant>.yaml` (as a mounted ConfigMap or Secret has them): names, limits, hashed keys."
    )
    tenant_namespaces: bool = Field(
        False,
        description="Whether each tenant's runners stand in its Kubernetes namespace, `tenant-<tenant>`: calls of extra endpoints then go to the app `<app id>.<namespace>`.",
    )
    engines_dir: Path | None = Field(
        None,
        description="Folder of engines' bundles: while an engine's bundle is there, it keeps its jobs even if its component cannot load.",
    )
    objects_url: SecretStr | None = Field(
        None, description="Where large inputs and outputs are kept: file:///FOLDER, s3://…, az://…, gs://…"
    )
    public_url: str | None = Field(
        None, description="The API as runners and clients reach it, for signed URLs. Default: host and port."
    )
    object_max_bytes: int = Field(64 * 1024 * 1024, description="Largest input or output by reference.")
    shared_object_max_bytes: int = Field(
        16 * 1024 * 1024, description="The same for jobs of engines that all tenants share."
    )
    webhook_secrets_dir: Path | None = Field(
        None, description="Folder with a file for each tenant that holds its signing secrets."
    )
    webhook_allow_inside: bool = Field(False, description="Whether webhooks may reach private and loopback addresses.")
    inline_max_bytes: int = Field(INLINE_MAX_BYTES, description="Largest input that travels in the message.")
    body_max_bytes: int = Field(
        8 * 1024 * 1024, description="Largest request body. A larger one is refused before it is read whole."
    )
    window_min: int = Field(
        WINDOW_MIN,
        ge=1,
        description="Least size of an engine's window: how many of its jobs may be handed over and unfinished. A shared engine's sidecar takes no more than the default at once, so in a larger window its tenants take no turns.",
    )
    window_factor: int = Field(
        WINDOW_FACTOR,
        ge=1,
        description="Size of an engine's window for each job that its workers can run at the same time.",
    )
    sweep_seconds: float = Field(
        2.0,
        gt=0,
        description="Pause between two searches of the ledger for jobs that need attention: lost, expired, waiting.",
    )
    rows_kept_seconds: float = Field(
        7 * 86_400, gt=0, description="How long a job answers 410 after its result was deleted; after that, 404."
    )
    record_margin_seconds: int = Field(
        3_600, ge=30, description="How long a job's record is kept after the last moment at which it may be needed."
    )
    audit_dir: Path | None = Field(
        None, description="Folder of the audit log. Gateways and the registry may share one. Without it, none is kept."
    )
    audit_max_bytes: int = Field(
        AUDIT_MAX_BYTES,
        ge=1024 * 1024,
        description="Most bytes of this process's audit log; the oldest entries are deleted.",
    )
    audit_shipped: bool = Field(
        False,
        description="Whether the entries of all chains in the audit log's folder are published to the topic `audit`.",
    )
    misbehaviour_window_seconds: float = Field(
        3_600, gt=0, description="Misbehaviour of an engine is counted over so long."
    )
    denied_commands_max: int = Field(
        300,
        ge=1,
        description="So many commands that the broker refuses to an engine's credentials in this time quarantine it, until an operator resumes it.",
    )
    crashes_while_starting_max: int = Field(
        100,
        ge=1,
        description="So many ends of a replica of the active version before any replica has been healthy in this time quarantine it, until it is resumed or another version replaces it.",
    )
    malformed_answers_max: int = Field(
        300,
        ge=1,
        description="So many answers that are no results in this time quarantine a tenant's own engine, if at most ten times as many jobs succeeded, until it is resumed or another version replaces it.",
    )
    crashes_max: int = Field(
        60,
        ge=1,
        description="So many ends of a replica of the active version after a replica has been healthy do the same.",
    )
    out_of_memory_max: int = Field(
        60,
        ge=1,
        description="So many kills of a process because the memory of its container was used up do the same.",
    )
    hangs_max: int = Field(
        30,
        ge=1,
        description="So many restarts of a replica because a call went on long after its time do the same.",
    )
    log_json: bool = Field(True, description="Whether logs are JSON; otherwise text for people.")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="Lowest level that is logged."
    )
    dapr_http_port: int = Field(3500, alias="DAPR_HTTP_PORT", description="HTTP port of the gateway's own sidecar.")
    dapr_api_token: Annotated[SecretStr, at_least(TOKEN_MIN_LENGTH)] = Field(
        alias="DAPR_API_TOKEN", description="Token that the gateway shows to its sidecar."
    )
    app_api_token: Annotated[SecretStr, at_least(TOKEN_MIN_LENGTH)] = Field(
        alias="APP_API_TOKEN", description="Token that the sidecar shows to the gateway."
    )
    proof_key: Annotated[SecretStr, at_least(PROOF_KEY_MIN_LENGTH)] = Field(
        description="Secret of all gateways. Each engine's key is derived from it, by which gateways and this engine's runners prove to each other what they say."
    )

    @property
    def listens_beyond_loopback(self) -> bool:
        """Whether other machines can reach the public API."""
        return self.host != "localhost" and not ipaddress.ip_address(self.host).is_loopback
