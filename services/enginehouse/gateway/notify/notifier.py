"""Tells tenants what became of their jobs: events on finished.<tenant> and webhooks, from the outbox, at least once."""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import structlog
from sqlalchemy import Row

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import finished_topic, requests_component
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import (
    DELIVERED,
    EVENT,
    FAILED,
    PENDING,
    WEBHOOK,
    Claim,
    Told,
    event_notice,
    owner_notice,
)
from enginehouse.gateway.notify.webhooks import GiveUp, Webhooks
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

_AT_ONCE = 200
_IDLE_SECONDS = 2.0
_LEASE_SECONDS = 60.0
_LONGEST_BACKOFF_SECONDS = 3_600.0
_WEBHOOK_ATTEMPTS = 20
"""With the backoff: about half a day."""
_WEBHOOKS_AT_ONCE = 64
_WEBHOOKS_OF_ONE_TENANT = 8
"""A tenant whose receiver hangs holds up its own webhooks, and nobody else's."""


def backoff_seconds(attempts: int) -> float:
    """How long to wait after so many attempts: doubling, with jitter, at most an hour."""
    return min(2.0**attempts, _LONGEST_BACKOFF_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


class Notifier:
    """Empties the outbox."""

    def __init__(self, sidecar: Sidecar, ledger: Ledger, webhooks: Webhooks) -> None:
        self._sidecar = sidecar
        self._webhooks = webhooks
        self._ledger = ledger
        self._events_woken = asyncio.Event()
        self._webhooks_woken = asyncio.Event()
        self._sending: dict[asyncio.Task[None], str] = {}
        """Webhooks on their way, and whose each is."""

    async def tell(self, tenant: str, kind: str, data: dict[str, Any], *, correlation_id: str | None = None) -> None:
        """Put an event for a tenant into the outbox."""
        await self._ledger.add_notice(event_notice(tenant, kind, data, "", correlation_id))
        self.wake()

    async def tell_by_webhook(self, tenant: str, kind: str, data: dict[str, Any], target: str) -> None:
        """Put a webhook for a tenant, of none of its jobs, into the outbox."""
        await self._ledger.add_notice(owner_notice(tenant, kind, data, target))
        self.wake()

    def wake(self) -> None:
        """The outbox has something new."""
        self._events_woken.set()
        self._webhooks_woken.set()

    async def run(self) -> None:
        """Tell what is due, for ever. Events do not wait for webhooks, whose receivers may be slow."""
        try:
            await asyncio.gather(
                self._repeat(self._tell_events, self._events_woken),
                self._repeat(self._begin_webhooks, self._webhooks_woken),
            )
        finally:
            # What is on its way is told again when its lease is over.
            for task in self._sending:
                task.cancel()

    async def _repeat(self, some: Callable[[], Awaitable[bool]], woken: asyncio.Event) -> None:
        """Do `some`, at once again while it says that there is more, else when there is something new."""
        while True:
            woken.clear()
            try:
                more = await some()
            except EnginehouseError as error:
                log.warning(f"The outbox waits: {error}", action="outbox_waits")
                more = False
            except Exception:
                log.exception("The outbox could not be emptied", action="outbox_failed")
                more = False
            if not more:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), _IDLE_SECONDS)

    async def _tell_events(self) -> bool:
        rows = await self._ledger.claim_notices(Claim(time.time(), EVENT, _AT_ONCE, _LEASE_SECONDS))
        of_tenants: dict[str, list[Row[Any]]] = defaultdict(list)
        for row in rows:
            of_tenants[row.tenant].append(row)
        await asyncio.gather(*(self._publish(tenant, notices) for tenant, notices in of_tenants.items()))
        return len(rows) == _AT_ONCE

    async def _begin_webhooks(self) -> bool:
        """Send as many as may be on their way at once; each that ends makes room for another."""
        room = _WEBHOOKS_AT_ONCE - len(self._sending)
        if room <= 0:
            return False
        in_hand = Counter(self._sending.values())
        enough = frozenset(tenant for tenant, number in in_hand.items() if number >= _WEBHOOKS_OF_ONE_TENANT)
        rows = await self._ledger.claim_notices(
            Claim(time.time(), WEBHOOK, room, _LEASE_SECONDS, _WEBHOOKS_OF_ONE_TENANT, enough)
        )
        for row in rows:
            task = asyncio.create_task(self._send(row))
            self._sending[task] = row.tenant
            task.add_done_callback(self._sent)
        return False

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._sending[task]
        self._webhooks_woken.set()

    async def _publish(self, tenant: str, notices: list[Row[Any]]) -> None:
        error = None
        try:
            landed = await self._sidecar.publish_many(
                requests_component(tenant), finished_topic(tenant), [notice.body.encode() for notice in notices]
            )
        except EnginehouseError as caught:
            error = str(caught)
            log.warning(f"{len(notices)} events for {tenant} wait: {error}", action="events_wait", tenant=tenant)
            landed = [False] * len(notices)
        await asyncio.gather(
            *(
                self._ledger.settle_notice(Told(notice.id, DELIVERED) if ok else self._again(notice, error))
                for notice, ok in zip(notices, landed, strict=True)
            )
        )

    @staticmethod
    def _again(notice: Row[Any], error: str | None) -> Told:
        return Told(notice.id, PENDING, error, time.time() + backoff_seconds(notice.attempts))

    async def _send(self, notice: Row[Any]) -> None:
        told = await self._outcome(notice)
        if told.state != DELIVERED:
            log.info(
                f"A webhook of job {notice.job_id} was not delivered: {told.error}",
                action="webhook_undelivered",
                job=notice.job_id,
                attempts=notice.attempts + 1,
            )
        try:
            await self._ledger.settle_notice(told)
        except EnginehouseError as error:
            log.warning(f"What came of a webhook is not noted: {error}", action="outbox_waits", job=notice.job_id)

    async def _outcome(self, notice: Row[Any]) -> Told:
        try:
            await self._webhooks.send(notice)
        except ConnectionError as error:
            if notice.attempts + 1 < _WEBHOOK_ATTEMPTS:
                return self._again(notice, str(error))
            return Told(notice.id, FAILED, str(error))
        except GiveUp as error:
            return Told(notice.id, FAILED, str(error))
        except (httpx2.InvalidURL, ValueError) as error:
            # An address that nothing can be sent to, whatever was thought when it was named.
            return Told(notice.id, FAILED, f"the address cannot be used: {error}")
        return Told(notice.id, DELIVERED)
