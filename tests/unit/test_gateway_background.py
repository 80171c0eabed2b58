"""A gateway's background tasks go on: a task that fails is logged and started again."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.support.gateway import gateway_world
from tests.support.waiting import until_async

from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.notify.notifier import Notifier
from enginehouse.gateway.outcome.hints import Hints
from enginehouse.gateway.pace import Pace
from enginehouse.gateway.recovery.sweep import Sweep
from enginehouse.gateway.tenants.tenants import Tenants


@pytest.mark.parametrize(
    ("part", "method"),
    [
        (Catalogue, "run"),
        (Sweep, "run"),
        (Notifier, "run"),
        (Hints, "listen_to_others"),
        (Tenants, "watch"),
    ],
)
async def test_a_task_that_breaks_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type, method: str
) -> None:
    calls, works = 0, getattr(part, method)

    async def breaks(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("a bug")
        await works(*arguments)

    monkeypatch.setattr(part, method, breaks)
    with capture_logs() as logs:
        async with gateway_world(tmp_path, pace=Pace(task_restart_seconds=0.01)):
            await until_async(lambda: calls == 3)
    assert [entry["action"] for entry in logs].count("task_failed") == 2
