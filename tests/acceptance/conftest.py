"""What acceptance tests share: one running stack for all modules of a worker that need nothing of their own."""

from collections.abc import Iterator

import pytest
from tests.support.stack import StackHandle, running_stack


@pytest.fixture(scope="session")
def lasting_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    """A stack without engines. To start one for each module costs ten times what it costs to keep one."""
    with running_stack(tmp_path_factory.mktemp("lasting")) as handle:
        yield handle


@pytest.fixture(scope="module")
def shared_stack(lasting_stack: StackHandle) -> Iterator[StackHandle]:
    """The stack of this worker: what a module deploys there is removed after it.

    Not for modules that stop its parts, that need a variable of their own, or that look at what all have done there.
    """
    with lasting_stack.lent():
        yield lasting_stack
