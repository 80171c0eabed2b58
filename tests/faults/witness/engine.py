"""Answers with a number of its own for each run, and writes down when the run begins and when it ends."""

import asyncio
import json
import os
import socket
import time
import uuid
from typing import Annotated

from pydantic import BaseModel, Field

from enginehouse.engine import Engine


class Task(BaseModel):
    """What to do, and under which name to write about it."""

    key: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
    seconds: Annotated[float, Field(ge=0, le=600)] = 0


class Witness(Engine):
    """Sends lines to the socket `$RUNS`; each is there for good once it is sent, whatever kills this process."""

    def load(self) -> None:
        self.address = "\0" + os.environ["RUNS"]

    def note(self, key: str, run: str, what: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(f"{key} {json.dumps({'run': run, what: time.time()})}".encode(), self.address)

    async def predict(self, data: Task) -> dict[str, str]:
        run = uuid.uuid4().hex[:12]
        self.note(data.key, run, "began")
        await asyncio.sleep(data.seconds)
        self.note(data.key, run, "ended")
        return {"key": data.key, "run": run, "version": os.environ.get("VERSION", "v1")}
