"""The settings of a runner, from the environment. A runner refuses to start with unsafe ones."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from enginehouse.contracts.base import TOKEN_MIN_LENGTH, at_least, explain_settings, variable
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.contracts.names import Slot
from enginehouse.contracts.proofs import PROOF_KEY_MIN_LENGTH, EngineKey
from enginehouse.yaml_files import InvalidFile, read_yaml


class RunnerSettings(BaseSettings):
    """Settings from `ENGINEHOUSE_RUNNER_*`. The sidecar's port and tokens come from Dapr's own variables."""

    model_config = SettingsConfigDict(
        env_prefix="ENGINEHOUSE_RUNNER_", frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True
    )

    spec: Path = Field(description="The engine's engine.yaml.")
    slot: Slot = Field(description="The slot of the engine, a or b, that this runner serves.")
    worker: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="A name that no other runner of this engine has, and that stays when this one dies and starts again in "
        "its place (as a pod's name does): it then takes its own jobs over at once."
    )
    engine_urls: Annotated[list[str], Field(max_length=100)] = Field(
        [],
        description='JSON list, one URL per engine replica: ["http://127.0.0.1:9001"]. Either this or the next must be set.',
    )
    engine_service: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\.?:[0-9]{1,5}$")] | None = (
        Field(
            None,
            validate_default=True,
            description="`host:port` of a headless service: each address that DNS has for it is a replica of the engine. None: the "
            "engine is asleep.",
        )
    )
    delivery_host: str = Field(
        "127.0.0.1", description="Must be loopback, so that only the runner's own sidecar can deliver."
    )
    delivery_port: Annotated[int, Field(ge=1, le=65535)] = Field(description="The --app-port of daprd.")
    jobs_component: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,252}$")] | None = Field(
        None,
        description="The pub/sub component of the runner's sidecar. Default: `jobs-<engine id>`. Kubernetes has one for each "
        "slot, because a namespace cannot hold two of one name and a busy one must not be edited.",
    )
    health_host: str = Field(
        "0.0.0.0",  # noqa: S104 - it shows no secret, takes no delivery, and is what probes reach
        description="Address of the health listener. `::` where pods have addresses of IPv6 only.",
    )
    health_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None,
        description="Port on which others reach `/healthz/live`, `/healthz/engine`, `/healthz/fit` (200: a replica is healthy and "
        "has answered the version's own examples) and `/metrics`. None: nobody does.",
    )
    deployment: Annotated[str, Field(max_length=64)] = Field(
        "", description="Hash of what was deployed beside engine.yaml. A change tells the gateway of a new deployment."
    )
    supervisor_dir: Path | None = Field(
        None,
        description="Folder shared with the supervisor. A file `<host>_<port>` asks it to restart that replica; its file "
        "`problem` says why the engine cannot work; `containers/image` names the image of its containers, and "
        "`containers/<host>_<port>.out-of-memory` says when memory was last refused to one.",
    )
    dapr_http_port: Annotated[int, Field(ge=1, le=65535)] = Field(
        validation_alias="DAPR_HTTP_PORT", description="Port of the sidecar's API."
    )
    dapr_api_token: Annotated[SecretStr, at_least(TOKEN_MIN_LENGTH)] = Field(
        validation_alias="DAPR_API_TOKEN", description="Proves the runner to its sidecar."
    )
    app_api_token: Annotated[SecretStr, at_least(TOKEN_MIN_LENGTH)] = Field(
        validation_alias="APP_API_TOKEN", description="Proves the sidecar to its runner."
    )
    proof_key: Annotated[SecretStr, at_least(PROOF_KEY_MIN_LENGTH)] = Field(
        description="The engine's own, derived from the gateways': proves gateways and runner to each other."
    )

    predict_max_bytes: Annotated[int, Field(ge=1024)] = Field(
        8 * 1024 * 1024, description="Most bytes of an engine's answer that are ever held in memory."
    )
    output_max_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = Field(
        1024 * 1024,
        description="Most bytes of a result. A larger one fails with OUTPUT_TOO_LARGE: the sidecar takes 16 MiB at most.",
    )
    claim_after_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0,
        description="Time after which a running job is claimed. Shorter jobs settle unclaimed, which saves them a write.",
    )
    watch_every_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="Time between two looks at the records of running jobs: a canceled job ends that soon."
    )
    hand_back_after_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Time that a job waits for an engine that is away or busy. Then it returns to the queue."
    )
    restart_after_seconds: Annotated[float, Field(ge=0)] = Field(
        5.0, description="Time from the end of a hung call's own time to the restart of its replica."
    )
    stop_grace_seconds: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Time that jobs running at SIGTERM may take to end. Default: the engine's execution timeout."
    )
    log_json: bool = Field(True, description="Whether log lines are JSON. False: lines for a person at a terminal.")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    @field_validator("delivery_host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError("must be a loopback address: on any other, strangers could forge deliveries")
        return host

    @field_validator("engine_urls")
    @classmethod
    def _engine_urls(cls, urls: list[str]) -> list[str]:
        for url in urls:
            parts = urlsplit(url)
            plain = parts.scheme == "http" and parts.hostname and parts.port and not parts.username
            if not plain or parts.path not in ("", "/") or parts.query or parts.fragment:
                raise ValueError(f"{url!r} is not of the form http://host:port")
        if len(set(urls)) != len(urls):
            raise ValueError("the same replica is listed twice")
        return urls

    @field_validator("engine_service")
    @classmethod
    def _one_way_to_the_engine(cls, service: str | None, info: ValidationInfo) -> str | None:
        urls = info.data.get("engine_urls")
        if urls is not None and bool(urls) is (service is not None):
            raise ValueError(f"either this or {variable(cls, 'engine_urls')} must be set, and not both")
        if service is not None and not 1 <= int(service.rpartition(":")[2]) <= 65535:
            raise ValueError("it must be host:port, with a port up to 65535")
        return service

    @property
    def engine_key(self) -> EngineKey:
        """The engine's proof key."""
        return EngineKey(self.proof_key.get_secret_value())


def load_settings() -> RunnerSettings:
    """Read the settings from the environment. Raise UnsafeSettings, which names each wrong setting and shows no value."""
    try:
        return RunnerSettings()
    except ValidationError as error:
        raise UnsafeSettings(f"the runner does not start: {explain_settings(error, RunnerSettings)}") from None
    except SettingsError as error:
        # It names the field only, of a list or an object that is not JSON.
        named = re.sub(r'^.*field "(\w+)".*$', lambda found: variable(RunnerSettings, found[1]), str(error))
        raise UnsafeSettings(f"the runner does not start: {named}: it must be JSON") from None


def load_spec(path: Path) -> EngineSpec:
    """Read the engine.yaml at `path`; raise UnsafeSettings if it is not a valid one."""
    try:
        return read_yaml(EngineSpec, path)
    except InvalidFile as error:
        raise UnsafeSettings(f"the runner does not start: {error}") from None


def load_engine(settings: RunnerSettings) -> EngineSpec:
    """Return the engine.yaml that the settings name; raise UnsafeSettings if it is none, or does not go with them."""
    spec = load_spec(settings.spec)
    if spec.one_job_each and settings.engine_service is None:
        name = variable(RunnerSettings, "engine_service")
        raise UnsafeSettings(
            f"the runner does not start: {name} must be set, because pods for one job each come and go"
        )
    return spec
