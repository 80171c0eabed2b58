"""Locks between processes of this machine, which end with the process that holds them."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def only_one(path: Path, *, poll_seconds: float = 0.1) -> AsyncIterator[None]:
    """Wait until no other process holds the file, and hold it. Poll for it, so that waiting can be interrupted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(poll_seconds)
        yield
    finally:
        os.close(descriptor)
