"""Procrastinate's task: answers its input, as the echo engine does, and keeps the answer."""

import json
import os
from typing import Any

import procrastinate

URL = os.environ["BASELINE_POSTGRES_URL"]
RESULTS = "results"
"""The table of answers, and the channel that announces each. Procrastinate itself keeps no results."""
_MAKE = f"CREATE TABLE {RESULTS} (id text PRIMARY KEY, output jsonb, ended_at timestamptz DEFAULT now())"
# In its favour: one statement, so one commit, keeps the answer and wakes whoever waits.
_KEEP = f"""
WITH kept AS (INSERT INTO {RESULTS} (id, output) VALUES (%(id)s, %(output)s::jsonb))
SELECT pg_notify('{RESULTS}', %(news)s)
"""

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL, min_size=4, max_size=32))


@app.task
async def echo(job: str, data: Any) -> None:
    news = json.dumps({"id": job, "output": data})
    await app.connector.execute_query_async(_KEEP, id=job, output=json.dumps(data), news=news)


async def make_tables() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async(_MAKE)
