"""The Python client, async and sync: submit jobs to engines, wait for them, list engines and jobs.

>>> from enginehouse.client import Client
>>> with Client() as client:
...     client.run("standard", {"text": "What a wonderful stall!"})["label"]
'positive'
"""

from enginehouse.client.async_client import AsyncClient, AsyncHandle
from enginehouse.client.errors import CannotConnect, JobFailed, WaitOver
from enginehouse.client.models import BatchJob, DeadLetterInfo, EngineInfo, JobNews, SubmitOptions
from enginehouse.client.sync_client import Client, Handle

__all__ = [
    "AsyncClient",
    "AsyncHandle",
    "BatchJob",
    "CannotConnect",
    "Client",
    "DeadLetterInfo",
    "EngineInfo",
    "Handle",
    "JobFailed",
    "JobNews",
    "SubmitOptions",
    "WaitOver",
]
