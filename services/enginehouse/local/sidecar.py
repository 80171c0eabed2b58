"""How a daprd is started on this machine: the command line that dapr.md's findings ask for, and its environment."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginehouse.local.ports import PortPool

API_TOKEN_VARIABLE = "DAPR_API_TOKEN"  # noqa: S105 - a variable's name
APP_TOKEN_VARIABLE = "APP_API_TOKEN"  # noqa: S105


@dataclass(frozen=True, slots=True)
class SidecarPorts:
    """Every port a daprd listens on; left out, it would choose some of them itself, on all interfaces."""

    http: int
    grpc: int
    internal: int
    metrics: int
    profile: int

    @classmethod
    def take(cls, pool: PortPool) -> "SidecarPorts":
        """Five free ports."""
        return cls(*(pool.take() for _ in range(5)))

    def all(self) -> tuple[int, ...]:
        """The five, to give them back."""
        return (self.http, self.grpc, self.internal, self.metrics, self.profile)


@dataclass(frozen=True, slots=True)
class SidecarPlan:
    """One daprd: whose it is, what it loads, where its app listens."""

    app_id: str
    ports: SidecarPorts
    resources: Sequence[Path] = field(default_factory=tuple)
    """Folders, read flat. Which ones decides what this app can reach: locally the app id is only a flag."""
    config: Path | None = None
    app_port: int | None = None
    app_health_path: str = "/healthz"
    block_shutdown_seconds: int = 0
    """How long a running job may go on once daprd was told to stop. 0: not blocked."""
    graceful_shutdown_seconds: int = 10
    extra_arguments: Sequence[str] = field(default_factory=tuple)

    def command(self, binary: Path) -> list[str]:
        """Double-dash flags, and --app-id never last: `dapr list` and the dashboard read exactly this."""
        arguments = [
            str(binary),
            "--app-id",
            self.app_id,
            "--mode",
            "standalone",
            *self._listeners(),
            *self._app(),
            "--disable-init-endpoints",
            "subscribe,config",
            "--dapr-graceful-shutdown-seconds",
            str(self.graceful_shutdown_seconds),
            # Cards are bounded, results inline up to 64 KiB; only bulk reads of many of them come near this.
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
        return [
            "--app-port",
            str(self.app_port),
            "--app-protocol",
            "http",
            "--app-channel-address",
            "127.0.0.1",
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
        """204 once components are loaded and the app listens."""
        return f"http://127.0.0.1:{self.ports.http}/v1.0/healthz"


def sidecar_environment(api_token: str, app_token: str, extra: Mapping[str, str]) -> dict[str, str]:
    """daprd's environment: tokens and what components refer to travel here, never in arguments."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ}
    return {
        **kept,
        "NO_PROXY": "127.0.0.1,localhost",
        # Measured, 2026-11-22: on one core a daprd spends a quarter less on a job than spread over two, and it has
        # room for thousands of jobs a second there.
        "GOMAXPROCS": "1",
        API_TOKEN_VARIABLE: api_token,
        APP_TOKEN_VARIABLE: app_token,
        **extra,
    }


def app_environment(ports: SidecarPorts, api_token: str, app_token: str) -> dict[str, str]:
    """How an app finds its sidecar, and knows that a delivery is its sidecar's."""
    return {
        "DAPR_HTTP_PORT": str(ports.http),
        API_TOKEN_VARIABLE: api_token,
        APP_TOKEN_VARIABLE: app_token,
    }
