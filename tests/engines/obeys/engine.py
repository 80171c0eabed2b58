"""Does what its input says, for tests in which tenants share one engine and one of them is hostile."""

import asyncio
import os
import signal
from typing import Any

from enginehouse.engine import Engine


class Obeys(Engine):
    """Sleeps for `seconds`, then fails (`"do": "fail"`), dies (`"do": "die"`), or answers how large its input was."""

    concurrency = 4

    async def predict(self, data: Any) -> int:
        orders = data if isinstance(data, dict) else {}
        await asyncio.sleep(orders.get("seconds", 0))
        match orders.get("do"):
            case "fail":
                raise RuntimeError("as it was told")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
        return len(data) if isinstance(data, dict | list | str) else 0
