"""A gateway that is stopped gives what is in hand a few seconds, not a few seconds for each part."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.gateway import gateway_world
from tests.support.waiting import until_async


async def test_a_broker_and_a_ledger_that_hang_share_the_time_of_the_dispatcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling = asyncio.Event()
    given: list[float] = []

    async def hang(*_: Any) -> Any:
        await asyncio.sleep(3_600)

    async def hang_filling(*_: Any) -> Any:
        filling.set()
        await hang()

    async def close(finish_seconds: float) -> None:
        given.append(finish_seconds)
        await close_publishing(finish_seconds)

    async with gateway_world(tmp_path) as world:
        dispatcher = world.gateway.dispatcher
        close_publishing = dispatcher._publishing.close
        with monkeypatch.context() as hanging:
            hanging.setattr(world.gateway.sidecar, "publish", hang)
            await world.submit()
            hanging.setattr(world.gateway.ledger, "fill_window", hang_filling)
            dispatcher.wake("acme--echo")
            await filling.wait()
            await until_async(lambda: dispatcher._publishing._under_way)
            hanging.setattr(dispatcher._publishing, "close", close)
            began = time.monotonic()
            await dispatcher.close(finish_seconds=0.5)
        assert time.monotonic() - began >= 0.5
        assert given == [pytest.approx(0, abs=0.05)], "the first part took all of it"
