"""Build the command line and the environment of a daprd on this machine."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.local.ports import PortPool

API_TOKEN_VARIABLE = "DAPR_API_TOKEN"  # noqa: S105 - a variable's name
APP_TOKEN_VARIABLE = "APP_API_TOKEN"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an app and its own sidecar show each other. No other app knows them, and no file holds them."""

    api: str = field(repr=False)
    """Opens the sidecar's API to its app."""
    app: str = field(repr=False)
    """Proves the sidecar to its app."""

    @classmethod
    def new(cls) -> "Tokens":
        """Return tokens that nobody has had before."""
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32))


@dataclass(frozen=True, slots=True)
class SidecarPorts:
    """Every port of a daprd. Without a value, daprd would choose some ports itself, on all interfaces."""

    http: int
    grpc: int
    internal: int
    metrics: int
    profile: int

    @classmethod
    def take(cls, pool: PortPool) -> "SidecarPorts":
        """Take five free ports."""
        return cls(*(pool.take() for _ in range(5)))

    def all(self) -> tuple[int, ...]:
        """Return the five ports, to give them back."""
        return (self.http, self.grpc, self.internal, self.metrics, self.profile)


@dataclass(frozen=True, slots=True)
class SidecarPlan:
    """One daprd: its app id, the files it loads, the port of its app."""

    app_id: str
    ports: SidecarPorts
    resources: Sequence[Path] = field(default_factory=tuple)
    """Folders, without subfolders. They decide what the app can reach, because locally the app id is only a flag."""
    config: Path | None = None
    app_port: int | None = None
    app_health_path: str | None = "/healthz"
    """None: the app's health is not asked for."""
    app_subscribes: bool = False
    """Whether the app says itself what it subscribes. Otherwise only the files in `resources` do."""
    block_shutdown_seconds: int = 0
    """How long running jobs may continue after daprd is told to stop. 0: shutdown is not blocked."""
    graceful_shutdown_seconds: int = 10
    extra_arguments: Sequence[str] = field(default_factory=tuple)

    def command(self, binary: Path) -> list[str]:
        """Return the command line.

        Flags have two dashes and --app-id is not last: `dapr list` and the dashboard need this.
        """
        arguments = [
            str(binary),
            "--app-id",
            self.app_id,
            "--mode",
            "standalone",
            *self._listeners(),
            *self._app(),
            "--disable-init-endpoints",
            "config" if self.app_subscribes else "subscribe,config",
            "--dapr-graceful-shutdown-seconds",
            str(self.graceful_shutdown_seconds),
            # Cards are bounded and inline results have at most 64 KiB. Only bulk reads of many results come near this
            # limit.
            "--max-body-size",
            "16Mi",
        ]
        if self.block_shutdown_seconds:
            arguments += ["--dapr-block-shutdown-duration", f"{self.block_shutdown_seconds}s"]
        if self.config:
            arguments += ["--config", str(self.config)]
        for folder in self.resources:
            arguments += ["--resources-path", str(folder)]
        return [*arguments, *self.extra_arguments, "--log-level", "info"]

    def _listeners(self) -> list[str]:
        return [
            "--dapr-listen-addresses",
            "127.0.0.1",
            "--dapr-internal-grpc-listen-address",
            "127.0.0.1",
            "--metrics-listen-address",
            "127.0.0.1",
            "--dapr-http-port",
            str(self.ports.http),
            "--dapr-grpc-port",
            str(self.ports.grpc),
            "--dapr-internal-grpc-port",
            str(self.ports.internal),
            "--enable-metrics",
            "--metrics-port",
            str(self.ports.metrics),
            "--profile-port",
            str(self.ports.profile),
        ]

    def _app(self) -> list[str]:
        if self.app_port is None:
            return []
        channel = ["--app-port", str(self.app_port), "--app-protocol", "http", "--app-channel-address", "127.0.0.1"]
        if self.app_health_path is None:
            return channel
        return [
            *channel,
            "--enable-app-health-check",
            "--app-health-check-path",
            self.app_health_path,
            "--app-health-probe-interval",
            "1",
            "--app-health-probe-timeout",
            "900",
            "--app-health-threshold",
            "3",
        ]

    @property
    def health_url(self) -> str:
        """Return the URL that answers 204 once components are loaded and the app listens."""
        return f"http://127.0.0.1:{self.ports.http}/v1.0/healthz"


def sidecar_environment(tokens: Tokens, extra: Mapping[str, str]) -> dict[str, str]:
    """Return daprd's environment. Tokens and values for components are here, because arguments are public."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    return {
        **kept,
        "NO_PROXY": "127.0.0.1,localhost",
        # Measured, 2026-11-22: a daprd on one core spends a quarter less on a job than on two cores, and one core is
        # enough for thousands of jobs a second.
        "GOMAXPROCS": "1",
        API_TOKEN_VARIABLE: tokens.api,
        APP_TOKEN_VARIABLE: tokens.app,
        **extra,
    }


def app_environment(ports: SidecarPorts, tokens: Tokens) -> dict[str, str]:
    """Return the variables by which an app finds its sidecar and recognises its sidecar's deliveries."""
    return {
        "DAPR_HTTP_PORT": str(ports.http),
        API_TOKEN_VARIABLE: tokens.api,
        APP_TOKEN_VARIABLE: tokens.app,
    }
