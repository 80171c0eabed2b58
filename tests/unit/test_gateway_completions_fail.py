"""A completion whose record cannot be mirrored, for whatever reason, is answered, so that it comes again."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.ledger import sqlite_url

from enginehouse.contracts.names import new_job_id
from enginehouse.gateway.app import wire
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.sidecar.records import JobRecords


@pytest.mark.parametrize("broken", [RuntimeError("a bug"), TypeError("another")])
async def test_no_delivery_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Exception) -> None:
    settings = GatewaySettings(
        ledger_url=sqlite_url(tmp_path),
        tenants_dir=tmp_path,
        dapr_api_token=SecretStr("x" * 16),
        app_api_token=SecretStr("x" * 16),
    )
    state = wire(settings, FakeSidecar(FakeDapr(), "gateway"))

    async def breaks(*_: object) -> None:
        raise broken

    monkeypatch.setattr(JobRecords, "read_many", breaks)
    async with asyncio.timeout(5):
        with pytest.raises(type(broken)):
            await state.completions.mirror({new_job_id(): "acme--echo"})
