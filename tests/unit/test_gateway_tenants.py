"""The tenants' files are read again while the gateway runs, and a broken file changes nothing for other tenants."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.gateway import GatewayWorld, gateway_world, make_tenant
from tests.support.waiting import until_async

from enginehouse.gateway.pace import Pace
from enginehouse.gateway.tenants.tenants import Tenants

EVENT = b'{"specversion":"1.0","id":"1","source":"/s","type":"com.example.t","engineid":"echo"}'


def file_of(folder: Path, tenant: str) -> Path:
    return folder / "tenants" / tenant / "tenant.yaml"


async def status(world: GatewayWorld, tenant: str) -> int:
    return (await world.client(tenant).get("/v1/jobs")).status_code


UNREADABLE = {
    "no UTF-8": b"name: \xff\xfe",
    "no YAML": b"{",
    "no tenant": b"[]",
    "a date that is none": b"name: 2026-99-99",
    "10,000 levels": b"[" * 10_000,
}


@pytest.mark.parametrize("garbage", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_a_file_that_cannot_be_read_keeps_no_key_of_others_alive(tmp_path: Path, garbage: bytes) -> None:
    async with gateway_world(tmp_path) as world:
        assert await status(world, "umbra") == 200
        file_of(tmp_path, "acme").write_bytes(garbage)
        make_tenant(tmp_path / "tenants", "umbra")

        async def revoked() -> bool:
            return await status(world, "umbra") == 401

        await until_async(revoked)
        assert await status(world, "acme") == 200, "it stays as it was"


async def test_a_look_that_fails_is_logged_and_looked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Tenants.load
    failed: list[bool] = []

    def once_broken(self: Tenants) -> None:
        if not failed:
            failed.append(True)
            raise RuntimeError("broken")
        load(self)

    async with gateway_world(tmp_path, pace=Pace(task_restart_seconds=0.01)) as world:
        monkeypatch.setattr(Tenants, "load", once_broken)
        with capture_logs() as logs:
            make_tenant(tmp_path / "tenants", "umbra")

            async def revoked() -> bool:
                return await status(world, "umbra") == 401

            await until_async(revoked)
        assert [(line["action"], line["task"]) for line in logs if line["log_level"] == "error"] == [
            ("task_failed", "tenants")
        ]


async def test_an_event_of_a_tenant_whose_file_cannot_be_read_comes_again(tmp_path: Path) -> None:
    async with gateway_world(tmp_path) as world:
        make_tenant(tmp_path / "tenants", "globex")
        path = file_of(tmp_path, "globex")
        kept = path.read_bytes()
        path.write_bytes(b"\xff")
        with capture_logs() as logs:
            assert not await world.gateway.events.deliver(EVENT, "globex")
        assert [line["tenant"] for line in logs if line["action"] == "event_without_tenant"] == ["globex"]
        path.write_bytes(kept)
        world.gateway.tenants.load()
        assert await world.gateway.events.deliver(EVENT, "globex")
