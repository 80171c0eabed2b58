"""Delivers the notices in the outbox, each at least once: events on finished.<tenant>, and webhooks."""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import httpx2
import structlog

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.names import finished_topic, requests_component
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import Lease, NoticeOutcome, event_notice, owner_notice
from enginehouse.gateway.ledger.rows import Channel, NoticeRow, NoticeState
from enginehouse.gateway.notify.webhooks import GiveUp, Webhooks
from enginehouse.sidecar.base import Sidecar

log = structlog.get_logger()

_AT_ONCE = 200
_LEASE_SECONDS = 60.0
_LONGEST_BACKOFF_SECONDS = 3_600.0
_WEBHOOK_ATTEMPTS = 20
"""With the backoff, the attempts take about half a day."""
_WEBHOOKS_AT_ONCE = 64
_WEBHOOKS_OF_ONE_TENANT = 8
"""Limits each tenant, so that a receiver that hangs holds up its own tenant's webhooks only."""


def backoff_seconds(attempts: int) -> float:
    """Return how long to wait after so many attempts: doubling, with jitter, at most an hour."""
    return min(2.0**attempts, _LONGEST_BACKOFF_SECONDS) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter


class Notifier:
    """Puts notices into the outbox, and delivers those that are due."""

    def __init__(
        self,
        sidecar: Sidecar,
        ledger: Ledger,
        webhooks: Webhooks,
        *,
        idle_seconds: float,
        backoff: Callable[[int], float] = backoff_seconds,
    ) -> None:
        """Look at the outbox at least every `idle_seconds`; wait `backoff(attempts)` seconds after a failure."""
        self._sidecar = sidecar
        self._webhooks = webhooks
        self._ledger = ledger
        self._idle_seconds = idle_seconds
        self._backoff = backoff
        self._events_woken = asyncio.Event()
        self._webhooks_woken = asyncio.Event()
        self._sending: Counter[str] = Counter()
        """Number of each tenant's webhooks that are on their way."""

    async def send_event(
        self, tenant: str, kind: str, data: dict[str, Any], *, job_id: str = "", correlation_id: str | None = None
    ) -> None:
        """Put an event into the outbox, for a tenant's topic; `job_id` is empty if it is not about a job."""
        await self._ledger.add_notice(event_notice(tenant, kind, data, job_id, correlation_id))
        self.wake()

    async def send_webhook(self, tenant: str, kind: str, data: dict[str, Any], target: str) -> None:
        """Put a webhook that is not about a job into the outbox, for a tenant's address `target`."""
        await self._ledger.add_notice(owner_notice(tenant, kind, data, target))
        self.wake()

    def wake(self) -> None:
        """Make the notifier look at the outbox now, because it has a new notice."""
        self._events_woken.set()
        self._webhooks_woken.set()

    async def run(self) -> None:
        """Deliver due notices, for ever. Events do not wait for webhooks, whose receivers may be slow."""
        sending = Background()
        try:
            await asyncio.gather(
                self._repeat(self._publish_due, self._events_woken),
                self._repeat(lambda: self._begin_webhooks(sending), self._webhooks_woken),
            )
        finally:
            # Webhooks that are cut off here are sent again when their lease is over.
            await sending.close()

    async def _repeat(self, step: Callable[[], Awaitable[bool]], woken: asyncio.Event) -> None:
        """Run `step` for ever: at once if it says that there is more, otherwise when `woken` is set or time is up."""
        while True:
            woken.clear()
            try:
                more = await step()
            except EnginehouseError as error:
                log.warning(f"Notices stay in the outbox for now: {error}", action="outbox_waits")
                more = False
            except Exception:
                log.exception("The outbox could not be emptied", action="outbox_failed")
                more = False
            if not more:
                # Not asyncio.wait_for, which may swallow a cancellation in Python 3.11.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_seconds):
                        await woken.wait()

    async def _publish_due(self) -> bool:
        rows = await self._ledger.lease_notices(Lease(time.time(), Channel.EVENT, _AT_ONCE, _LEASE_SECONDS))
        by_tenant: dict[str, list[NoticeRow]] = defaultdict(list)
        for row in rows:
            by_tenant[row.tenant].append(row)
        await asyncio.gather(*(self._publish(tenant, notices) for tenant, notices in by_tenant.items()))
        return len(rows) == _AT_ONCE

    async def _publish(self, tenant: str, notices: list[NoticeRow]) -> None:
        error = None
        try:
            landed = await self._sidecar.publish_many(
                requests_component(tenant), finished_topic(tenant), [notice.body.encode() for notice in notices]
            )
        except EnginehouseError as caught:
            error = str(caught)
            log.warning(f"{len(notices)} events for {tenant} wait: {error}", action="events_wait", tenant=tenant)
            landed = [False] * len(notices)
        outcomes = [
            NoticeOutcome(notice.id, NoticeState.DELIVERED) if ok else self._try_again(notice, error)
            for notice, ok in zip(notices, landed, strict=True)
        ]
        await asyncio.gather(*(self._ledger.record_outcome(outcome) for outcome in outcomes))

    async def _begin_webhooks(self, sending: Background) -> bool:
        """Start as many webhooks as may be on their way at once. Return False: one that ends starts the next look."""
        room = _WEBHOOKS_AT_ONCE - self._sending.total()
        if room <= 0:
            return False
        enough = frozenset(tenant for tenant, number in self._sending.items() if number >= _WEBHOOKS_OF_ONE_TENANT)
        rows = await self._ledger.lease_notices(
            Lease(time.time(), Channel.WEBHOOK, room, _LEASE_SECONDS, _WEBHOOKS_OF_ONE_TENANT, enough)
        )
        for row in rows:
            self._sending[row.tenant] += 1
            sending.start(self._send(row)).add_done_callback(partial(self._sent, row.tenant))
        return False

    def _sent(self, tenant: str, _: "asyncio.Task[None]") -> None:
        self._sending -= Counter({tenant: 1})
        self._webhooks_woken.set()

    def _try_again(self, notice: NoticeRow, error: str | None) -> NoticeOutcome:
        return NoticeOutcome(notice.id, NoticeState.PENDING, error, time.time() + self._backoff(notice.attempts))

    async def _send(self, notice: NoticeRow) -> None:
        outcome = await self._outcome(notice)
        if outcome.state is not NoticeState.DELIVERED:
            log.info(
                f"A webhook to {notice.tenant} was not delivered: {outcome.error}",
                action="webhook_undelivered",
                job_id=notice.job_id,
                tenant=notice.tenant,
                attempts=notice.attempts + 1,
            )
        try:
            await self._ledger.record_outcome(outcome)
        except EnginehouseError as error:
            log.warning(
                f"The outcome of a webhook to {notice.tenant} could not be recorded: {error}",
                action="outbox_waits",
                job_id=notice.job_id,
                tenant=notice.tenant,
            )

    async def _outcome(self, notice: NoticeRow) -> NoticeOutcome:
        try:
            await self._webhooks.send(notice)
        except ConnectionError as error:
            if notice.attempts + 1 < _WEBHOOK_ATTEMPTS:
                return self._try_again(notice, str(error))
            return NoticeOutcome(notice.id, NoticeState.FAILED, str(error))
        except GiveUp as error:
            return NoticeOutcome(notice.id, NoticeState.FAILED, str(error))
        except (httpx2.InvalidURL, ValueError) as error:
            # The address passed the check when it was named, but nothing can be sent to it.
            return NoticeOutcome(notice.id, NoticeState.FAILED, f"the address cannot be used: {error}")
        return NoticeOutcome(notice.id, NoticeState.DELIVERED)
