"""FastAPI in front of Celery, as people write it: POST, `delay`, and with `Prefer: wait` the result.

How the result is waited for: Celery publishes every result on a channel named like its key, so one pattern
subscription of the whole process wakes whoever waits. Polling `AsyncResult.ready()`, which is seen more often, costs a
round trip of a blocking client per look, and is late by half its pause.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis.asyncio
from celery import uuid
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel
from tasks import app as celery
from tasks import echo

_CHANNEL = b"celery-task-meta-"
waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}

# In its favour: `delay` would also subscribe its own, blocking client to every result, which nobody here reads.
celery.backend.on_task_call = lambda producer, task_id: {}


class Job(BaseModel):
    input: Any = None


async def read_results(results: redis.asyncio.client.PubSub) -> None:
    async for message in results.listen():
        if message["type"] == "pmessage":
            future = waiting.get(message["channel"].removeprefix(_CHANNEL).decode())
            if future and not future.done():
                future.set_result(json.loads(message["data"]))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    client = redis.asyncio.Redis.from_url(os.environ["BASELINE_REDIS_URL"])
    results = client.pubsub()
    await results.psubscribe(_CHANNEL + b"*")
    reading = asyncio.create_task(read_results(results))
    yield
    reading.cancel()
    await client.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}


@app.post("/jobs", status_code=202)
async def submit(job: Job, response: Response, prefer: str | None = Header(None)) -> dict[str, Any]:
    task_id = uuid()
    if not prefer:
        echo.apply_async((job.input,), task_id=task_id)
        return {"id": task_id, "status": "queued"}
    future = waiting[task_id] = asyncio.get_running_loop().create_future()
    try:
        echo.apply_async((job.input,), task_id=task_id)
        async with asyncio.timeout(float(prefer.partition("=")[2])):
            result = await future
    except TimeoutError:
        raise HTTPException(504) from None
    finally:
        del waiting[task_id]
    response.status_code = 200
    return {"id": task_id, "status": result["status"], "output": result["result"]}
