"""Tells tenants what became of their jobs: events on finished.<tenant>, from the ledger's outbox, at least once."""

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

import structlog
from sqlalchemy import Row

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import finished_topic, requests_component
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import Postpone, due_notices, event_notice
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

_AT_ONCE = 200
_IDLE_SECONDS = 5.0
_LONGEST_BACKOFF_SECONDS = 300.0


def backoff_seconds(attempts: int) -> float:
    """How long to wait after so many attempts: doubling, with jitter, at most five minutes."""
    return min(2.0**attempts, _LONGEST_BACKOFF_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


class Notifier:
    """Empties the outbox."""

    def __init__(self, sidecar: Sidecar, ledger: Ledger) -> None:
        self._sidecar = sidecar
        self._ledger = ledger
        self._woken = asyncio.Event()

    async def tell(self, tenant: str, kind: str, data: dict[str, Any], *, correlation_id: str | None = None) -> None:
        """Put an event for a tenant into the outbox."""
        await self._ledger.add_notice(event_notice(tenant, kind, data, "", correlation_id))
        self.wake()

    def wake(self) -> None:
        """The outbox has something new."""
        self._woken.set()

    async def run(self) -> None:
        """Tell what is due, for ever."""
        while True:
            self._woken.clear()
            try:
                told = await self._round()
            except EnginehouseError as error:
                log.warning(f"The outbox waits: {error}", action="outbox_waits")
                told = 0
            if told < _AT_ONCE:
                try:
                    await asyncio.wait_for(self._woken.wait(), _IDLE_SECONDS)
                except TimeoutError:
                    continue

    async def _round(self) -> int:
        rows = await self._ledger.read(due_notices, time.time(), _AT_ONCE)
        by_tenant: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in rows:
            by_tenant[row.tenant].append(row)
        await asyncio.gather(*(self._publish(tenant, notices) for tenant, notices in by_tenant.items()))
        return len(rows)

    async def _publish(self, tenant: str, notices: list[Row[Any]]) -> None:
        try:
            landed = await self._sidecar.publish_many(
                requests_component(tenant), finished_topic(tenant), [notice.body.encode() for notice in notices]
            )
        except EnginehouseError as error:
            log.warning(f"{len(notices)} events for {tenant} wait: {error}", action="events_wait", tenant=tenant)
            landed = [False] * len(notices)
        done = tuple(notice.id for notice, ok in zip(notices, landed, strict=True) if ok)
        if done:
            await self._ledger.forget_notices(done)
        for notice, ok in zip(notices, landed, strict=True):
            if not ok:
                due_at = time.time() + backoff_seconds(notice.attempts)
                await self._ledger.postpone_notice(Postpone(notice.id, due_at))
