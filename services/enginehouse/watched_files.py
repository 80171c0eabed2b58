"""Follow files, so that nobody who looks at them again after each change misses one."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import watchfiles


async def changes_of(*paths: Path, **options: Any) -> AsyncGenerator[set[watchfiles.main.FileChange]]:
    """Return no change once, as soon as these paths are watched, then each set of changes, until `stop_event` is set.

    What was changed before is found by the look that follows the first return, and what is changed during a look by the
    next one. `options` are those of watchfiles.awatch. Use it with contextlib.aclosing: what it waits for ends with it.
    """
    watching = watchfiles.awatch(*paths, **options)
    change = asyncio.ensure_future(anext(watching, None))
    try:
        await asyncio.sleep(0)  # Its first step has begun to watch.
        yield set()
        while (found := await change) is not None:
            change = asyncio.ensure_future(anext(watching, None))
            yield found
    finally:
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)
        await watching.aclose()
