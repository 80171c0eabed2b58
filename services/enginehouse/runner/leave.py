"""Tells the gateway that the worker leaves, so that it hands over again what the sidecar took in and never delivers."""

import asyncio
import contextlib

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import WORKER_LEFT, completion_event
from enginehouse.contracts.names import COMPLETIONS_TOPIC, Slot
from enginehouse.contracts.proofs import EngineKey
from enginehouse.runner.heartbeat import Heartbeats
from enginehouse.sidecar.base import Sidecar

_log = structlog.get_logger(__name__)

_LAST_TAKEN_IN_SECONDS = 0.7
"""By then the sidecar has ended its subscription: 0.4 s after the last delivery in hand was acknowledged (daprd 1.18)."""
_LEAVE_SECONDS = 2.0
"""Time to tell the gateway that the worker leaves: a broker that is away must not hold up the jobs in hand."""


async def leave(
    sidecar: Sidecar, heartbeats: Heartbeats, *, engine_id: str, slot: Slot, key: EngineKey, pubsub: str
) -> None:
    """Publish that a worker of this slot leaves, after a last heartbeat that names the jobs that it still has."""
    await asyncio.sleep(_LAST_TAKEN_IN_SECONDS)
    with contextlib.suppress(EnginehouseError):
        await heartbeats.beat()
    event = completion_event(key, engine_id, WORKER_LEFT, slot, None)
    try:
        async with asyncio.timeout(_LEAVE_SECONDS):
            await sidecar.publish(pubsub, COMPLETIONS_TOPIC, event)
    except (EnginehouseError, TimeoutError) as error:
        _log.info("The gateway is not told that the worker leaves", action="leave_untold", error=str(error))
