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
    EngineAsleep,
    EngineCallFailed,
    EngineDoesNotExist,
    EnginehouseError,
    EngineRemoved,
    EngineUnavailable,
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
    NotAllowedToRun,
    NotFinalYet,
    NotFound,
    NotJson,
    ObjectExists,
    QueueFull,
    RateLimited,
    RequestError,
    ResultExpired,
    StorageFull,
    TenantSuspended,
    Unauthenticated,
    Unavailable,
    UnsafeSettings,
    UnsupportedMediaType,
    WrongState,
)
from enginehouse.contracts.replay import ReplayProgress, ReplayReport
from enginehouse.extras import needs
from enginehouse.homes import NoHome

with needs("client", "enginehouse.client"):
    from enginehouse.client.async_client import AsyncClient, AsyncHandle
    from enginehouse.client.errors import CannotConnect, JobFailed, WaitOver
    from enginehouse.client.models import (
        AuditInfo,
        BatchJob,
        DeadLetterInfo,
        EngineAnswer,
        EngineInfo,
        JobNews,
        SubmitOptions,
    )
    from enginehouse.client.sync_client import Client, Handle

__all__ = [
    "AlreadyRedriven",
    "AsyncClient",
    "AsyncHandle",
    "AuditInfo",
    "BatchJob",
    "CannotConnect",
    "Client",
    "Conflict",
    "DeadLetterInfo",
    "EngineAnswer",
    "EngineAsleep",
    "EngineCallFailed",
    "EngineDoesNotExist",
    "EngineInfo",
    "EngineRemoved",
    "EngineUnavailable",
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
    "NotAllowedToRun",
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
    "TenantSuspended",
    "Unauthenticated",
    "Unavailable",
    "UnsafeSettings",
    "UnsupportedMediaType",
    "WaitOver",
    "WrongState",
]
