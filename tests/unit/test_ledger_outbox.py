"""The outbox: one gateway claims each due notice, each is sent at least once, and no tenant takes all the places."""

import asyncio
import time
from typing import Any

from tests.support.ledger import new_job, opened

from enginehouse.contracts.events import JOB_COMPLETED
from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.outbox import (
    Lease,
    NoticeOutcome,
    completed_notice,
    event_notice,
    start_notice,
    webhooks_of,
)
from enginehouse.gateway.ledger.rows import Channel, NoticeRow, NoticeState


def lease(channel: Channel, limit: int = 100, later: float = 0, seconds: float = 60, **more: Any) -> Lease:
    return Lease(time.time() + later, channel, limit, seconds, **more)


def said(row: NoticeRow) -> tuple[Any, ...]:
    return row.event, row.state, row.attempts, row.last_error


async def webhook(ledger: Ledger, tenant: str = "acme", job_id: str = "j") -> str:
    row = new_job(tenant, id=job_id, status=Status.SUCCEEDED).row
    notice = completed_notice(row, "https://a.example/")
    await ledger.add_notice(notice)
    return notice.id


async def leased(ledger: Ledger, item: Lease) -> list[str]:
    return [row.id for row in await ledger.lease_notices(item)]


async def test_each_channel_gets_its_own_the_longest_due_first(ledger: Ledger) -> None:
    hooks = [await webhook(ledger) for _ in range(3)]
    event = event_notice("acme", "some.event", {}, "", None)
    await ledger.add_notice(event)
    assert await leased(ledger, lease(Channel.EVENT)) == [event.id]
    assert await leased(ledger, lease(Channel.WEBHOOK, limit=2)) == hooks[:2]
    assert await leased(ledger, lease(Channel.WEBHOOK)) == hooks[2:]
    assert await leased(ledger, lease(Channel.WEBHOOK)) == []


async def test_what_was_claimed_and_not_settled_is_due_again_after_its_lease(ledger: Ledger) -> None:
    hook = await webhook(ledger)
    assert await leased(ledger, lease(Channel.WEBHOOK, seconds=30)) == [hook]
    assert await leased(ledger, lease(Channel.WEBHOOK, later=29)) == []
    (row,) = await ledger.lease_notices(lease(Channel.WEBHOOK, later=31))
    assert (row.id, row.attempts) == (hook, 1)


async def test_no_tenant_takes_all_the_places(ledger: Ledger) -> None:
    theirs = [await webhook(ledger, "acme") for _ in range(20)]
    others = [await webhook(ledger, "umbra") for _ in range(2)]
    assert await leased(ledger, lease(Channel.WEBHOOK, limit=10, of_one_tenant=4)) == theirs[:4] + others
    await webhook(ledger, "umbra")
    assert await leased(ledger, lease(Channel.WEBHOOK, of_one_tenant=4, without=frozenset({"umbra"}))) == theirs[4:8]


async def test_a_webhooks_end_stays_with_its_job_and_an_events_does_not(ledger: Ledger) -> None:
    hook, event = await webhook(ledger), event_notice("acme", "some.event", {}, "j", None)
    await ledger.add_notice(event)
    for channel in (Channel.WEBHOOK, Channel.EVENT):
        await leased(ledger, lease(channel))
    await ledger.record_outcome(NoticeOutcome(hook, NoticeState.PENDING, "away", time.time() + 60))
    assert await leased(ledger, lease(Channel.WEBHOOK)) == []
    (row,) = await ledger.read(webhooks_of, "j")
    assert said(row) == (JOB_COMPLETED, NoticeState.PENDING, 1, "away")
    await ledger.record_outcome(NoticeOutcome(hook, NoticeState.FAILED, "gone"))
    await ledger.record_outcome(NoticeOutcome(event.id, NoticeState.DELIVERED))
    (row,) = await ledger.read(webhooks_of, "j")
    assert said(row) == (JOB_COMPLETED, NoticeState.FAILED, 1, "gone")
    assert await leased(ledger, lease(Channel.EVENT, later=3_600)) == []


async def test_two_gateways_never_claim_the_same(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        hooks = [await webhook(one, f"tenant{number % 3}") for number in range(120)]
        took: list[str] = []
        while len(took) < len(hooks):
            rounds = [leased(one, lease(Channel.WEBHOOK, limit=9, of_one_tenant=3)) for _ in range(2)]
            rounds += [leased(other, lease(Channel.WEBHOOK, limit=9, of_one_tenant=3)) for _ in range(2)]
            got = [hook for part in await asyncio.gather(*rounds) for hook in part]
            assert got, "some are left, and nobody gets them"
            took += got
        assert sorted(took) == sorted(hooks)


async def test_an_end_waits_for_the_first_try_of_its_jobs_start_and_no_longer(ledger: Ledger) -> None:
    row = new_job(id="j", status=Status.SUCCEEDED).row
    start = start_notice(row, "https://a.example/")
    await ledger.add_notice(start)
    end, other = await webhook(ledger), await webhook(ledger, job_id="another")
    assert set(await leased(ledger, lease(Channel.WEBHOOK))) == {start.id, other}
    assert await leased(ledger, lease(Channel.WEBHOOK)) == []
    await ledger.record_outcome(NoticeOutcome(start.id, NoticeState.PENDING, "it answered 500", time.time() + 600))
    assert await leased(ledger, lease(Channel.WEBHOOK)) == [end]
