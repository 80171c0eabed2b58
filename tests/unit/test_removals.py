"""What the gateway's sidecar is slow to let go of holds up no removal for long."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginehouse.local import removals
from enginehouse.local.home import Home
from enginehouse.local.removals import GatewayState


class Sidecar:
    def __init__(self, *components: str) -> None:
        self.components = {*components}

    async def metadata(self) -> Any:
        return SimpleNamespace(components=self.components)


async def test_a_sidecar_that_still_has_a_component_is_made_to_look_again_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, sidecar, clock = Home.at(tmp_path), Sidecar("results-acme--one", "other"), [100.0]
    state: Any = GatewayState(home, "http://127.0.0.1:1", None, sidecar)  # type: ignore[arg-type]
    monkeypatch.setattr(removals, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    async def looked_again(seconds: float) -> bool:
        """Return whether the folder that it watches was touched when its removal was looked at so much later."""
        before = home.gateway_parts.stat().st_mtime_ns
        clock[0] += seconds
        assert not await state.has_let_go("results-acme--one")
        assert list(home.gateway_parts.iterdir()) == []
        return home.gateway_parts.stat().st_mtime_ns > before

    assert [await looked_again(seconds) for seconds in (0, 1, 2, 1, 1, 3)] == [False, False, False, True, False, True]
    sidecar.components = {"other"}
    assert await state.has_let_go("results-acme--one")
    assert not state.waits_since
