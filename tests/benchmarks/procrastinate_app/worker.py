"""Procrastinate's worker: asynchronous, told of new jobs by the database, with as many in hand as the echo engine's slots."""

import uvloop
from tasks import app

SLOTS = 32


async def main() -> None:
    async with app.open_async():
        # In its favour: ended jobs are deleted, so that its queries never meet them.
        await app.run_worker_async(concurrency=SLOTS, delete_jobs="successful")


if __name__ == "__main__":
    uvloop.run(main())
