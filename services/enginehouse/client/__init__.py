"""The Python client, async and sync: submit jobs to engines, wait for them, list engines and jobs.

Every error that a call may raise is an `EnginehouseError`, and can be imported from here.

>>> from enginehouse.client import Client
>>> with Client() as client:
...     client.run("standard", {"text": "What a wonderful stall!"})["label"]
'positive'
"""

from enginehouse.contracts.errors import (
    AlreadyRedriven,
    Conflict,
    EngineDoesNotExist,
    EnginehouseError,
    EventReused,
    Forbidden,
    IdempotencyKeyReused,
    InputTooLarge,
    InvalidHeader,
    InvalidInput,
    InvalidName,
    JobDoesNotExist,
    JobIsFinal,
    Malformed,
    MethodNotAllowed,
    NotFinalYet,
    NotFound,
    NotJson,
    ObjectExists,
    QueueFull,
    RateLimited,
    RequestError,
    ResultExpired,
    StorageFull,
    Unauthenticated,
    Unavailable,
    UnsafeSettings,
    UnsupportedMediaType,
)
from enginehouse.contracts.replay import ReplayProgress, ReplayReport
from enginehouse.extras import needs
from enginehouse.homes import NoHome

with needs("client", "enginehouse.client"):
    from enginehouse.client.async_client import AsyncClient, AsyncHandle
    from enginehouse.client.errors import CannotConnect, JobFailed, WaitOver
    from enginehouse.client.models import BatchJob, DeadLetterInfo, EngineInfo, JobNews, SubmitOptions
    from enginehouse.client.sync_client import Client, Handle

__all__ = [
    "AlreadyRedriven",
    "AsyncClient",
    "AsyncHandle",
    "BatchJob",
    "CannotConnect",
    "Client",
    "Conflict",
    "DeadLetterInfo",
    "EngineDoesNotExist",
    "EngineInfo",
    "EnginehouseError",
    "EventReused",
    "Forbidden",
    "Handle",
    "IdempotencyKeyReused",
    "InputTooLarge",
    "InvalidHeader",
    "InvalidInput",
    "InvalidName",
    "JobDoesNotExist",
    "JobFailed",
    "JobIsFinal",
    "JobNews",
    "Malformed",
    "MethodNotAllowed",
    "NoHome",
    "NotFinalYet",
    "NotFound",
    "NotJson",
    "ObjectExists",
    "QueueFull",
    "RateLimited",
    "ReplayProgress",
    "ReplayReport",
    "RequestError",
    "ResultExpired",
    "StorageFull",
    "SubmitOptions",
    "Unauthenticated",
    "Unavailable",
    "UnsafeSettings",
    "UnsupportedMediaType",
    "WaitOver",
]
