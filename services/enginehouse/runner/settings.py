"""Everything a runner is told from outside. What would be unsafe does not start."""

import ipaddress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from enginehouse.contracts.errors import UnsafeSettings
from enginehouse.contracts.names import Slot

_MIN_TOKEN_LENGTH = 16


class RunnerSettings(BaseSettings):
    """Read from `ENGINEHOUSE_RUNNER_*`, and the tokens and ports of the sidecar from Dapr's own variables."""

    model_config = SettingsConfigDict(
        env_prefix="ENGINEHOUSE_RUNNER_", frozen=True, extra="ignore", validate_by_name=True, validate_by_alias=True
    )

    spec: Path = Field(description="The engine's engine.yaml.")
    slot: Slot = Field(description="Which of the engine's two slots this runner serves.")
    worker: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")] = Field(
        description="A name that no other runner of this engine has."
    )
    engine_urls: Annotated[list[str], Field(min_length=1, max_length=100)] = Field(
        description='JSON list, one URL per engine replica: ["http://127.0.0.1:9001"].'
    )
    delivery_host: str = Field("127.0.0.1", description="Must be loopback: only the own sidecar may deliver.")
    delivery_port: Annotated[int, Field(ge=1, le=65535)] = Field(description="daprd's --app-port.")
    restart_dir: Path | None = Field(
        None, description="Where a file <host>_<port> asks the supervisor to restart that replica."
    )
    dapr_http_port: Annotated[int, Field(ge=1, le=65535)] = Field(validation_alias="DAPR_HTTP_PORT")
    dapr_api_token: SecretStr = Field(validation_alias="DAPR_API_TOKEN", description="Opens the sidecar to us.")
    app_api_token: SecretStr = Field(validation_alias="APP_API_TOKEN", description="Proves the sidecar to us.")

    predict_max_bytes: Annotated[int, Field(ge=1024)] = Field(
        8 * 1024 * 1024, description="No more than this of an engine's answer is ever held in memory."
    )
    output_max_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = Field(
        1024 * 1024, description="Larger results fail with OUTPUT_TOO_LARGE: the sidecar takes 16 MiB at most."
    )
    claim_after_seconds: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Shorter jobs settle unclaimed: one write less for almost every job."
    )
    watch_every_seconds: Annotated[float, Field(gt=0)] = Field(
        2.0, description="How soon a running job notices that it was canceled."
    )
    hand_back_after_seconds: Annotated[float, Field(gt=0)] = Field(
        30.0, description="How long a job waits for an engine that is away or busy before it returns to the queue."
    )
    restart_after_seconds: Annotated[float, Field(ge=0)] = Field(
        5.0, description="From the end of a hung call's time to the restart of its replica."
    )
    stop_grace_seconds: Annotated[float, Field(ge=0)] | None = Field(
        None, description="What runs at SIGTERM may go on for this long. Default: the engine's execution timeout."
    )
    log_json: bool = Field(True, description="False: lines for a person at a terminal.")
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"

    @field_validator("delivery_host")
    @classmethod
    def _loopback(cls, host: str) -> str:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError("deliveries must be taken on a loopback address: others could forge them")
        return host

    @field_validator("dapr_api_token", "app_api_token")
    @classmethod
    def _token(cls, token: SecretStr) -> SecretStr:
        if len(token.get_secret_value()) < _MIN_TOKEN_LENGTH:
            raise ValueError(f"must have at least {_MIN_TOKEN_LENGTH} characters")
        return token

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


def load_settings() -> RunnerSettings:
    """The settings from the environment; UnsafeSettings, naming each wrong one and no value, if they will not do."""
    try:
        return RunnerSettings()
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        )
        raise UnsafeSettings(f"the runner does not start: {wrong}") from None
    except SettingsError as error:
        raise UnsafeSettings(f"the runner does not start: {error}") from None
