"""Run the example of a tenant's own system, services/upstream/, beside a running stack, as its owner would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from enginehouse.contracts.engine import EngineSpec
from enginehouse.local import checkout, daprd, environments
from enginehouse.local.health import Prober
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.processes import ProcessSpec, Supervisor
from enginehouse.local.sidecar import SidecarPlan, SidecarPorts, Tokens, app_environment, sidecar_environment
from enginehouse.local.stack_context import inherited_environment, wait_all_healthy
from enginehouse.local.steps import SilentSteps
from enginehouse.local.tenant_systems import write_system

_START_SECONDS = 60
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class ExampleSystem:
    """A running system of a tenant: it asks by event, and shows its answers."""

    http: httpx2.AsyncClient

    async def ask(self, engine: str, value: Any, kind: str) -> str:
        """Have it publish a question of type `kind`. Return the question's id."""
        asked = await self.http.post("/questions", json={"engine": engine, "input": value, "type": kind})
        question: str = asked.raise_for_status().json()["id"]
        return question

    async def answer(self, question: str) -> dict[str, Any]:
        """Wait until it has heard the answer to its question, and return that: an ended job, or a refusal."""
        while (found := await self.http.get(f"/answers/{question}")).status_code == 404:
            await asyncio.sleep(_LOOK_SECONDS)
        answer: dict[str, Any] = found.raise_for_status().json()
        return answer


@asynccontextmanager
async def example_system(home: Home, tenant: str) -> AsyncIterator[ExampleSystem]:
    """Run a system of `tenant` beside the stack of `home` during the block.

    Raise EnvironmentFailed if its packages cannot be installed, and LocalError if it does not start.
    """
    supervisor, ports, prober = Supervisor(lambda: None), PortPool(), Prober()
    try:
        python = await _environment(tenant, supervisor) / "bin" / "python"
        system = await asyncio.to_thread(write_system, home, tenant, home.example_system(tenant))
        app_port = ports.take()
        plan = system.plan(SidecarPorts.take(ports), app_port)
        tokens = Tokens.new()
        variables = {
            **inherited_environment(),
            **app_environment(plan.ports, tokens),
            "DAPR_GRPC_PORT": str(plan.ports.grpc),
            "TENANT": tenant,
        }
        url = f"http://127.0.0.1:{app_port}"
        app = ProcessSpec(
            name=system.app_id,
            kind="system",
            command=[str(python), "-B", "-m", "uvicorn", "app:app", "--port", str(app_port)],
            environment=lambda: variables,
            cwd=_folder(),
            log=home.logs / f"{system.app_id}.log",
            port=app_port,
            health_url=f"{url}/answers",
            health=prober.http(f"{url}/answers"),
        )
        processes = [supervisor.start(spec) for spec in (app, _sidecar_spec(home, plan, tokens, prober))]
        await wait_all_healthy(*((process, _START_SECONDS) for process in processes))
        async with httpx2.AsyncClient(base_url=url, timeout=_START_SECONDS, trust_env=False) as http:
            yield ExampleSystem(http)
    finally:
        await supervisor.close()
        await prober.close()
        ports.close()


def _folder() -> Path:
    return checkout.root() / "services" / "upstream"


async def _environment(tenant: str, supervisor: Supervisor) -> Path:
    """Return an environment with its packages, made and kept as an engine's."""
    run = {"command": ["python"], "requirements": "requirements.txt"}
    spec = EngineSpec.model_validate({"tenant": tenant, "name": "upstream", "version": "v1", "run": run})
    made = await environments.prepare(spec, _folder(), supervisor.guard, SilentSteps())
    assert made is not None
    return made.folder


def _sidecar_spec(home: Home, plan: SidecarPlan, tokens: Tokens, prober: Prober) -> ProcessSpec:
    environment = sidecar_environment(tokens, {})
    return ProcessSpec(
        name=f"{plan.app_id}.daprd",
        kind="daprd",
        command=plan.command(daprd.require()),
        environment=lambda: environment,
        cwd=home.run,
        log=home.logs / f"{plan.app_id}.daprd.log",
        port=plan.ports.http,
        health_url=plan.health_url,
        health=prober.http(plan.health_url),
    )
