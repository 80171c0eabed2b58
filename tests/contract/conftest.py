"""Run every test that takes `world` on the fake and on a real daprd, which is started once."""

from collections.abc import Iterator

import pytest
from tests.contract.worlds import FakeWorld, World, dapr_world


@pytest.fixture(scope="package")
def real_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with dapr_world(tmp_path_factory.mktemp("dapr")) as world:
        yield world


@pytest.fixture(params=["fake", "dapr"])
def world(request: pytest.FixtureRequest) -> World:
    if request.param == "fake":
        return FakeWorld()
    real: World = request.getfixturevalue("real_world")
    return real
