"""Run the gateway as processes: the API and its daprd."""

import os
from dataclasses import dataclass, replace

from enginehouse.broker.redis import RedisAddress
from enginehouse.contracts.names import GATEWAY_APP
from enginehouse.local import checkout
from enginehouse.local.configurations import sidecar_configuration
from enginehouse.local.daprd import compared_every
from enginehouse.local.processes import Supervised
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, app_environment
from enginehouse.local.stack_context import StackContext, stop_app_and_sidecar, wait_all_healthy
from enginehouse.sidecar.dapr import DaprSidecar

_START_SECONDS = 60
_MIGRATION_SECONDS_PER_GIB = 120
"""Time in addition to bring the tables of a large ledger up to date: about four times what was measured (docs/scale.md)."""
_STOP_SECONDS = 10
_LEDGER = "ledger.sqlite"


@dataclass(slots=True)
class GatewayProcesses:
    """The running gateway and its daprd."""

    context: StackContext
    gateway: Supervised
    daprd: Supervised
    tokens: Tokens
    grpc_port: int
    """Port of the Open Inference Protocol over gRPC."""

    @classmethod
    def start(cls, context: StackContext, port: int, login: RedisAddress) -> "GatewayProcesses":
        """Start both. The API listens on `port`, and the sidecar uses the broker with the credentials of `login`."""
        delivery, sidecar, tokens = context.ports.take(), SidecarPorts.take(context.ports), Tokens.new()
        # The operator's own settings of the gateway stay; the values that connect the processes are set here.
        environment = {
            **os.environ,
            **app_environment(sidecar, tokens),
            "ENGINEHOUSE_GATEWAY_PORT": str(port),
            "ENGINEHOUSE_GATEWAY_DELIVERY_PORT": str(delivery),
            "ENGINEHOUSE_GATEWAY_TENANTS_DIR": str(context.home.tenants),
            "ENGINEHOUSE_GATEWAY_ENGINES_DIR": str(context.home.engines),
            "ENGINEHOUSE_GATEWAY_PROOF_KEY": context.home.proof_key,
        }
        environment.setdefault("ENGINEHOUSE_GATEWAY_LEDGER_URL", f"sqlite+aiosqlite:///{context.home.data / _LEDGER}")
        environment.setdefault("ENGINEHOUSE_GATEWAY_GRPC_PORT", str(context.ports.take()))
        environment.setdefault("ENGINEHOUSE_GATEWAY_OBJECTS_URL", context.home.objects.as_uri())
        environment.setdefault("ENGINEHOUSE_GATEWAY_AUDIT_DIR", str(context.home.audit))
        environment.setdefault("ENGINEHOUSE_GATEWAY_WEBHOOK_SECRETS_DIR", str(context.home.webhook_secrets))
        url = f"http://127.0.0.1:{port}/healthz/ready"
        gateway = context.supervisor.start(
            context.python_spec(GATEWAY_APP, "gateway", "enginehouse.gateway", lambda: environment, port, url)
        )
        plan = SidecarPlan(
            app_id=GATEWAY_APP,
            ports=sidecar,
            resources=[*checkout.gateway_resources(), context.home.gateway_parts],
            config=sidecar_configuration("gateway", context.home.run),
            app_port=delivery,
            block_shutdown_seconds=_STOP_SECONDS + 5,
        )
        spec = context.sidecar_spec(f"{GATEWAY_APP}.daprd", plan, tokens, login.environment())

        def interval_argument() -> list[str]:
            files = sum(1 for _ in context.home.gateway_parts.glob("*.yaml"))
            seconds = compared_every(context.daprd, files)
            return [] if seconds is None else ["--hot-reload-reconcile-interval", f"{seconds}s"]

        daprd = context.supervisor.start(replace(spec, more_arguments=interval_argument))
        return cls(context, gateway, daprd, tokens, int(environment["ENGINEHOUSE_GATEWAY_GRPC_PORT"]))

    @property
    def sidecar(self) -> DaprSidecar:
        """A connection to the gateway's sidecar, to see what it has loaded."""
        return DaprSidecar(self.daprd.spec.port, self.tokens.api)

    async def wait_healthy(self) -> None:
        """Wait until the API takes jobs and its sidecar has loaded everything."""
        ledger = self.context.home.data / _LEDGER
        gibibytes = ledger.stat().st_size / 2**30 if ledger.exists() else 0
        patience = _START_SECONDS + _MIGRATION_SECONDS_PER_GIB * gibibytes
        await wait_all_healthy((self.daprd, patience), (self.gateway, patience))

    async def stop(self) -> None:
        """Answer the waiting callers, then stop both."""
        await stop_app_and_sidecar(self.context.supervisor, self.gateway, self.daprd, _STOP_SECONDS)
