"""The same idempotency key and request is the same job, however often and through however many gateways it comes."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import func, select
from tests.support.ledger import new_job, opened
from tests.support.proofs import PROOF_KEY

from enginehouse.contracts.errors import AlreadyRedriven, IdempotencyKeyReused
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.accept import NewJob
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import DeadLetterRow
from enginehouse.gateway.ledger.schema import idempotency_keys, jobs
from enginehouse.gateway.outcome.dead_letters import read_letter


async def count(ledger: Ledger) -> int:
    rows: int = await ledger.read(lambda connection: connection.execute(select(func.count(jobs.c.id))).scalar_one())
    return rows


async def test_the_same_request_again_is_the_same_job(ledger: Ledger) -> None:
    first = await ledger.insert(new_job(key="k1"))
    again = await ledger.insert(new_job(key="k1"))
    assert (again.job_id, again.existing, again.handed_over) == (first.job_id, True, False)
    assert not first.existing
    assert await count(ledger) == 1


async def test_another_request_under_the_same_key_is_refused(ledger: Ledger) -> None:
    await ledger.insert(new_job(key="k1"))
    with pytest.raises(IdempotencyKeyReused):
        await ledger.insert(new_job(key="k1", request="another"))
    assert await count(ledger) == 1


async def test_a_key_is_its_tenants_own(ledger: Ledger) -> None:
    ids = {(await ledger.insert(new_job(tenant, key="k1"))).job_id for tenant in ("acme", "umbra")}
    assert len(ids) == 2


async def test_many_at_once_make_one_job(ledger: Ledger) -> None:
    results = await asyncio.gather(*(ledger.insert(new_job(key="k1")) for _ in range(100)))
    assert len({result.job_id for result in results}) == 1
    assert sum(not result.existing for result in results) == 1
    assert await count(ledger) == 1


async def test_many_at_once_with_different_requests_make_one_job_and_refusals(ledger: Ledger) -> None:
    results = await asyncio.gather(
        *(ledger.insert(new_job(key="k1", request=str(i % 2))) for i in range(20)), return_exceptions=True
    )
    assert sum(isinstance(result, IdempotencyKeyReused) for result in results) == 10
    assert await count(ledger) == 1


async def test_a_key_past_its_time_may_be_used_again(ledger: Ledger) -> None:
    old = new_job(key="k1")
    await ledger.insert(old)
    await ledger.database.transact(
        lambda connection: connection.execute(idempotency_keys.update().values(expires_at=1)), durable=False
    )
    new = await ledger.insert(new_job(key="k1", request="another"))
    assert (new.existing, new.job_id == old.row.id) == (False, False)
    assert (await ledger.insert(new_job(key="k1", request="another"))).job_id == new.job_id


def dead_letter(letter_id: str) -> DeadLetterRow:
    return read_letter(b"{", ProofKeys(PROOF_KEY)).row._replace(id=letter_id, tenant="acme", reason="X")


def redriving(letter_id: str) -> NewJob:
    return replace(new_job(), redrives=letter_id)


async def test_a_dead_letter_becomes_one_job_however_many_redrive_it_at_once(ledger: Ledger) -> None:
    await ledger.keep_dead_letter(dead_letter("a"))
    results = await asyncio.gather(*(ledger.insert(redriving("a")) for _ in range(20)), return_exceptions=True)
    (made,) = [result for result in results if not isinstance(result, BaseException)]
    refusals = [str(result) for result in results if isinstance(result, AlreadyRedriven)]
    assert len(refusals) == 19
    assert all(made.job_id in refusal for refusal in refusals)
    letter = await ledger.read(read.dead_letter, "a")
    assert letter is not None
    assert letter.redriven_as == made.job_id
    assert await count(ledger) == 1


async def test_through_two_gateways_a_dead_letter_becomes_one_job(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        for name in "abcde":
            await one.keep_dead_letter(dead_letter(name))
            calls = (ledger.insert(redriving(name)) for ledger in (one, other, one))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert sum(isinstance(result, AlreadyRedriven) for result in results) == 2
        assert await count(one) == 5


async def test_through_two_gateways_at_once_it_is_still_one_job(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        for round_ in range(20):
            results = await asyncio.gather(
                *(ledger.insert(new_job(key=f"k{round_}")) for ledger in (one, other) for _ in range(1 + round_ % 3))
            )
            assert len({result.job_id for result in results}) == 1
            assert sum(not result.existing for result in results) == 1
        assert await count(one) == 20
