"""Jobs wait in the ledger while the object store cannot sign their URLs."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from tests.support.gateway import GatewayWorld, gateway_world

from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.job import Status
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.pace import Pace


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[GatewayWorld]:
    pace = Pace(broker_retry_seconds=0.05)
    async with gateway_world(tmp_path, objects_url="memory:///", pace=pace) as made:
        yield made


async def test_a_job_whose_urls_cannot_be_signed_is_handed_over_once_they_can(
    world: GatewayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def sign(store: Any, method: str, key: str, expires: timedelta) -> str:
        asked.append(key)
        if len(asked) == 1:
            raise RuntimeError("the service that holds the key does not answer")
        return f"https://store.example/{key}"

    monkeypatch.setattr(obstore, "sign_async", sign)
    job_id = await world.submit()
    await world.until_status(job_id, Status.SUCCEEDED)
    assert world.runner.events[0].data.objects is not None


@pytest.mark.parametrize("call", ["sign", "copy"])
async def test_any_failure_of_the_store_is_unavailable(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError

    for name in ("sign_async", "copy_async"):
        monkeypatch.setattr(obstore, name, broken)
    objects = Objects("memory:///", "http://gateway", max_bytes=100, shared_max_bytes=100)
    with pytest.raises(Unavailable):
        await (objects.sign("GET", "a", 0) if call == "sign" else objects.copy("a", "b"))
