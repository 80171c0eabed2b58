"""A tenant's jobs that name no engine go to its default engine, by each way that they come."""

import json
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from tests.support.gateway import ECHO, STANDARD, gateway_world
from typer.testing import CliRunner, Result

from enginehouse.cli.app import app
from enginehouse.contracts.tenant import Tenant
from enginehouse.local.home import Home
from enginehouse.registry.tenants import InvalidSetting, TenantDoesNotExist, add_key, change_tenant

EVENT = {
    "specversion": "1.0",
    "id": "1",
    "source": "/s",
    "type": "dev.enginehouse.job.requested.v1",
    "data": {"input": 1},
}


async def test_each_way_leads_there(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        client = world.client()
        assert (await client.post("/v1/jobs", json={"input": 1})).json()["engine"] == STANDARD
        path = tmp_path / "tenants/acme/tenant.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "default_engine": "echo"}))
        world.gateway.tenants.load()
        assert (await client.post("/v1/jobs", json={"input": 1})).json()["engine"] == ECHO
        batch = (await client.post("/v1/jobs/batch", json={"jobs": [{"input": 1}]})).json()
        assert batch["jobs"][0]["engine"] == ECHO
        headers = {"Content-Type": "application/cloudevents+json"}
        event = await client.post("/v1/events", content=json.dumps(EVENT), headers=headers)
        assert event.json()["engine"] == ECHO, event.text
        assert (await client.post("/v1/jobs", json={"engine": "standard", "input": 1})).json()["engine"] == STANDARD
        assert (await world.client("umbra").post("/v1/jobs", json={"input": 1})).json()["engine"] == STANDARD


def test_it_is_an_engine_that_the_tenant_may_use(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    for name in ("acme", "umbra"):
        add_key(home.tenants, name)
    for bundle in ("acme--sentiment", "shared--standard", "umbra--secret"):
        (home.engines / bundle).mkdir()

    def default(engine: str, tenant: str = "acme") -> Result:
        return CliRunner().invoke(app, ["tenant", "default-engine", tenant, engine, "--home", str(tmp_path)])

    for engine in ("sentiment", "acme--sentiment", "shared--standard", "standard"):
        assert default(engine).exit_code == 0, engine
    for engine in ("sentimetn", "umbra--secret", "standard@trial", "No Name"):
        refused = default(engine)
        assert refused.exit_code == 1, engine
        assert "default_engine" in refused.output
    assert "there are acme--sentiment, shared--standard. Deploy it first" in " ".join(default("nosuch").output.split())
    assert "There is no tenant 'nobody'" in default("standard", "nobody").output
    stored = yaml.safe_load((home.tenants / "acme/tenant.yaml").read_text())
    assert stored["default_engine"] == "standard"


def test_it_is_a_valid_name_of_a_tenant_that_exists(tmp_path: Path) -> None:
    add_key(tmp_path, "acme")
    assert change_tenant(tmp_path, "acme", {"default_engine": "sentiment"}).default_engine == "sentiment"
    assert yaml.safe_load((tmp_path / "acme/tenant.yaml").read_text())["default_engine"] == "sentiment"
    with pytest.raises(InvalidSetting):
        change_tenant(tmp_path, "acme", {"default_engine": "No Name"})
    with pytest.raises(TenantDoesNotExist):
        change_tenant(tmp_path, "umbra", {"default_engine": "sentiment"})
    with pytest.raises(ValidationError):
        Tenant(name="acme", default_engine="a--b--c--")
