"""A gateway that `up` starts may take as long as its ledger needs to be brought up to date."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginehouse.local import gateway_processes
from enginehouse.local.gateway_processes import GatewayProcesses


@pytest.mark.parametrize(("gibibytes", "seconds"), [(None, 60), (0, 60), (2, 300)])
async def test_it_may_take_longer_to_start_the_larger_its_ledger_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gibibytes: int | None, seconds: float
) -> None:
    waited = dict[Any, float]()

    async def wait(*processes: tuple[Any, float]) -> None:
        waited.update(processes)

    monkeypatch.setattr(gateway_processes, "wait_all_healthy", wait)
    if gibibytes is not None:
        with (tmp_path / "ledger.sqlite").open("wb") as file:
            file.truncate(gibibytes * 2**30)  # It takes no room on the disk.
    context: Any = SimpleNamespace(home=SimpleNamespace(data=tmp_path))
    gateway, daprd, tokens = "gateway", "daprd", SimpleNamespace()
    await GatewayProcesses(context, gateway, daprd, tokens, 0).wait_healthy()  # type: ignore[arg-type]
    assert waited == {"gateway": seconds, "daprd": seconds}
