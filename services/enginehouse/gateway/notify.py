"""Tells tenants what became of their jobs: events on finished.<tenant> and webhooks, from the outbox, at least once."""

import asyncio
import random
import time
from collections import defaultdict
from typing import Any

import httpx2
import structlog
from sqlalchemy import Row

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import finished_topic, requests_component
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import DELIVERED, FAILED, PENDING, Claim, Told, event_notice
from enginehouse.gateway.webhooks import GiveUp, Webhooks
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

_AT_ONCE = 200
_IDLE_SECONDS = 2.0
_LEASE_SECONDS = 60.0
_LONGEST_BACKOFF_SECONDS = 3_600.0
_WEBHOOK_ATTEMPTS = 20
"""With the backoff: about half a day."""
_WEBHOOKS_AT_ONCE = 32


def backoff_seconds(attempts: int) -> float:
    """How long to wait after so many attempts: doubling, with jitter, at most an hour."""
    return min(2.0**attempts, _LONGEST_BACKOFF_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


class Notifier:
    """Empties the outbox."""

    def __init__(self, sidecar: Sidecar, ledger: Ledger, webhooks: Webhooks) -> None:
        self._sidecar = sidecar
        self._webhooks = webhooks
        self._sending = asyncio.Semaphore(_WEBHOOKS_AT_ONCE)
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
            except Exception:
                log.exception("The outbox could not be emptied", action="outbox_failed")
                told = 0
            if told < _AT_ONCE:
                try:
                    await asyncio.wait_for(self._woken.wait(), _IDLE_SECONDS)
                except TimeoutError:
                    continue

    async def _round(self) -> int:
        rows = await self._ledger.claim_notices(Claim(time.time(), _AT_ONCE, _LEASE_SECONDS))
        events: dict[str, list[Row[Any]]] = defaultdict(list)
        webhooks = []
        for row in rows:
            if row.channel == "event":
                events[row.tenant].append(row)
            else:
                webhooks.append(row)
        await asyncio.gather(
            *(self._publish(tenant, notices) for tenant, notices in events.items()),
            *(self._send(notice) for notice in webhooks),
        )
        return len(rows)

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
        async with self._sending:
            try:
                await self._webhooks.send(notice)
                told = Told(notice.id, DELIVERED)
            except GiveUp as error:
                told = Told(notice.id, FAILED, str(error))
            except (httpx2.InvalidURL, ValueError) as error:
                # An address that nothing can be sent to, whatever was thought when it was named.
                told = Told(notice.id, FAILED, f"the address cannot be used: {error}")
            except ConnectionError as error:
                last = notice.attempts + 1 >= _WEBHOOK_ATTEMPTS
                told = Told(notice.id, FAILED, str(error)) if last else self._again(notice, str(error))
        if told.state != DELIVERED:
            log.info(
                f"A webhook of job {notice.job_id} was not delivered: {told.error}",
                action="webhook_undelivered",
                job=notice.job_id,
                attempts=notice.attempts + 1,
            )
        await self._ledger.settle_notice(told)
