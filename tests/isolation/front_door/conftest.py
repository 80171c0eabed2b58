"""One stack for all attacks through the front door."""

from collections.abc import Iterator

import pytest
from tests.support.abuse.door import Door, front_door


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with front_door(tmp_path_factory.mktemp("door")) as made:
        yield made
