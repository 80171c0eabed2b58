"""FastAPI in front of Procrastinate: POST defers a job; with `Prefer: wait` one LISTEN of the process wakes who waits."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel
from tasks import RESULTS, URL, echo
from tasks import app as procrastinate

waiting: dict[str, asyncio.Future[Any]] = {}


class Job(BaseModel):
    input: Any = None


async def read_results(results: psycopg.AsyncConnection[Any]) -> None:
    async for message in results.notifies():
        news = json.loads(message.payload)
        future = waiting.get(news["id"])
        if future and not future.done():
            future.set_result(news["output"])


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with procrastinate.open_async(), await psycopg.AsyncConnection.connect(URL, autocommit=True) as results:
        await results.execute(f"LISTEN {RESULTS}")
        reading = asyncio.create_task(read_results(results))
        yield
        reading.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    return {"ok": True}


@app.post("/jobs", status_code=202)
async def submit(job: Job, response: Response, prefer: str | None = Header(None)) -> dict[str, Any]:
    job_id = str(uuid4())
    if not prefer:
        await echo.defer_async(job=job_id, data=job.input)
        return {"id": job_id, "status": "queued"}
    future = waiting[job_id] = asyncio.get_running_loop().create_future()
    try:
        await echo.defer_async(job=job_id, data=job.input)
        async with asyncio.timeout(float(prefer.partition("=")[2])):
            output = await future
    except TimeoutError:
        raise HTTPException(504) from None
    finally:
        del waiting[job_id]
    response.status_code = 200
    return {"id": job_id, "status": "succeeded", "output": output}
