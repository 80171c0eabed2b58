"""Restarts an engine gracefully, or an app and its sidecar in the order in which `enginehouse up` stops them."""

import signal

from tests.support.stack import StackHandle


def roll(stack: StackHandle, app: str, daprd: str) -> None:
    """SIGTERM: the sidecar takes in nothing more, the app ends what it has, the sidecar follows. Both come back."""
    old = stack.signal(daprd, signal.SIGTERM)
    stack.until_restarted(app, stack.signal(app, signal.SIGTERM), 60)
    # While its app lives a daprd waits for it; the second signal means now.
    if stack.pid(daprd) == old:
        stack.signal(daprd, signal.SIGTERM)
    stack.until_restarted(daprd, old)


def roll_engine(stack: StackHandle, replica: str) -> None:
    """SIGTERM: the engine ends what it has and takes nothing more. It comes back."""
    stack.until_restarted(replica, stack.signal(replica, signal.SIGTERM), 60)
