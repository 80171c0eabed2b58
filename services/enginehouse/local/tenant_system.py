"""Run a tenant's own system beside a running stack, as its owner would: an app, and a daprd with its component.

It gets only the `systems/` part of the tenant's bundle: it may publish `requests.<tenant>` and subscribe to
`finished.<tenant>`.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import yaml

from enginehouse.contracts.names import finished_topic, requests_topic, tenant_component
from enginehouse.local import daprd, redis
from enginehouse.local.errors import LocalError
from enginehouse.local.health import Prober
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import Supervisor
from enginehouse.local.redis import RedisAddress
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts
from enginehouse.local.stack_context import StackContext
from enginehouse.local.steps import SilentSteps
from enginehouse.registry.objects import subscription

_START_SECONDS = 60
_ROUTE = "/finished"


class TenantSystem:
    """A tenant's own system: it publishes events and receives the ends of its jobs."""

    def __init__(
        self, tenant: str, sidecar_url: str, api_token: str, received: "asyncio.Queue[dict[str, Any]]"
    ) -> None:
        self._url = f"{sidecar_url}/v1.0/publish/{tenant_component(tenant)}/{requests_topic(tenant)}"
        self._headers = {"content-type": "application/cloudevents+json", "dapr-api-token": api_token}
        self._received = received

    async def publish(self, event: dict[str, Any]) -> None:
        """Publish a CloudEvent on `requests.<tenant>`."""
        async with httpx2.AsyncClient(trust_env=False) as client:
            (await client.post(self._url, content=json.dumps(event), headers=self._headers)).raise_for_status()

    async def wait_for_finished(self, correlation_id: str) -> dict[str, Any]:
        """Wait for the event on `finished.<tenant>` that answers the event `correlation_id`, and return it."""
        while (event := await self._received.get()).get("correlationid") != correlation_id:
            pass
        return event


@asynccontextmanager
async def tenant_system(home: Home, tenant: str) -> AsyncIterator[TenantSystem]:
    """Run the system of `tenant` beside the stack of `home` during the block. Raise LocalError if it does not start."""
    supervisor, ports, prober = Supervisor(lambda: None), PortPool(), Prober()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    context = StackContext(
        home=home,
        daprd=await asyncio.to_thread(daprd.require),
        redis=redis_of(home),
        api_token=home.secret("dapr-api-token"),
        app_token=home.secret("app-api-token"),
        ports=ports,
        prober=prober,
        supervisor=supervisor,
        steps=SilentSteps(),
    )
    server = _serve(ports.take(), context.app_token, received)
    name = tenant_component(tenant)
    plan = SidecarPlan(
        app_id=name,
        ports=SidecarPorts.take(ports),
        resources=[home.tenants / tenant / "systems", _own_resources(home, tenant)],
        app_port=server.server_port,
    )
    try:
        await supervisor.start(context.sidecar_spec(f"{name}.daprd", plan)).wait_healthy(_START_SECONDS)
        yield TenantSystem(tenant, f"http://127.0.0.1:{plan.ports.http}", context.api_token, received)
    finally:
        await supervisor.close()
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        await prober.close()
        ports.close()


def redis_of(home: Home) -> RedisAddress:
    """Return the Redis of the stack that runs in `home`. Raise LocalError if none runs."""
    address = redis.external()
    if address:
        return address
    for process in home.read_state().get("processes", []):
        if process["kind"] == "redis":
            return RedisAddress("127.0.0.1", process["port"], home.secret("redis"))
    raise LocalError(f"Nothing is running in {home.path}.", "'enginehouse up' starts it.")


def _own_resources(home: Home, tenant: str) -> Path:
    folder = home.run / tenant_component(tenant)
    folder.mkdir(exist_ok=True)
    listening = subscription("finished", tenant_component(tenant), finished_topic(tenant), _ROUTE, [])
    # No scopes are needed, because no other sidecar loads this folder.
    del listening["scopes"]
    (folder / "finished.yaml").write_text(yaml.safe_dump(listening))
    return folder


def _serve(port: int, app_token: str, received: "asyncio.Queue[dict[str, Any]]") -> ThreadingHTTPServer:
    loop = asyncio.get_running_loop()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if not hmac.compare_digest(self.headers.get("dapr-api-token", ""), app_token):
                self._answer(403)
                return
            loop.call_soon_threadsafe(received.put_nowait, json.loads(body))
            self._answer(200)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write no access log."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True, name=f"app at {port}").start()
    return server
