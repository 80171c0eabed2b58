"""The first final state of a job's record stays, whoever writes after it, over the fake and over Redis."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.contract.worlds import ENGINE, STORE, World

from enginehouse.contracts import names
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.sidecar.base import Conflict, Sidecar, Unavailable
from enginehouse.sidecar.records import JobRecords

TTL = 60


class LosesAnswers:
    """A sidecar whose next writes take effect although their answers are lost."""

    def __init__(self, sidecar: Sidecar, times: int = 1) -> None:
        self._sidecar = sidecar
        self._times = times

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._sidecar, name)
        if name not in ("create", "replace"):
            return call

        async def call_and_lose(*args: Any) -> None:
            await call(*args)
            if self._times > 0:
                self._times -= 1
                raise Unavailable("the answer was lost")

        return call_and_lose


@pytest.fixture
async def sidecar(world: World) -> AsyncIterator[Sidecar]:
    connected = world.sidecar()
    await connected.start(timeout_seconds=20)
    yield connected
    await connected.close()


@pytest.fixture
def job_id() -> str:
    return names.new_job_id()


def final(output: Any) -> JobRecord:
    return JobRecord(status=Status.SUCCEEDED, output=output)


def unless_final(wanted: JobRecord) -> Any:
    return lambda present: None if present and present.status.is_final else wanted


async def test_of_many_results_one_holds_and_all_are_told_the_same(sidecar: Sidecar, job_id: str) -> None:
    records = JobRecords(sidecar, ENGINE)
    changes = (records.change(job_id, TTL, unless_final(final(n)), blind=n % 2 == 0) for n in range(40))
    told = await asyncio.gather(*changes)
    stored = await records.read(job_id)
    assert stored is not None
    assert {record.output for record in told} == {stored.record.output}


async def test_claims_and_results_of_a_crowd_end_in_one_final_state(sidecar: Sidecar, job_id: str) -> None:
    records = JobRecords(sidecar, ENGINE)
    await records.change(job_id, TTL, lambda _: JobRecord(status=Status.RUNNING, attempt=1, worker="one"))
    cancel = JobRecord(status=Status.CANCELED)
    told = await asyncio.gather(
        records.change(job_id, TTL, unless_final(final({"answer": None}))),
        records.change(job_id, TTL, unless_final(cancel)),
    )
    assert told[0] == told[1]
    assert told[0].status.is_final


@pytest.mark.parametrize("blind", [True, False])
async def test_an_answer_lost_while_creating_is_found_out(sidecar: Sidecar, job_id: str, blind: bool) -> None:
    wanted = final({"nested": {"none": None}})
    written = await JobRecords(LosesAnswers(sidecar), ENGINE).change(job_id, TTL, unless_final(wanted), blind=blind)
    assert written == wanted
    stored = await JobRecords(sidecar, ENGINE).read(job_id)
    assert stored is not None
    assert stored.record == wanted


async def test_an_answer_lost_while_replacing_is_found_out(sidecar: Sidecar, job_id: str) -> None:
    records = JobRecords(sidecar, ENGINE)
    await records.change(job_id, TTL, lambda _: JobRecord(status=Status.RUNNING, attempt=1))
    lossy = JobRecords(LosesAnswers(sidecar), ENGINE)
    assert await lossy.change(job_id, TTL, unless_final(final(1))) == final(1)


async def test_a_final_record_is_left_as_it_is(sidecar: Sidecar, job_id: str) -> None:
    records = JobRecords(sidecar, ENGINE)
    await records.change(job_id, TTL, unless_final(final("first")))
    before = await sidecar.read(STORE, job_id)
    assert await records.change(job_id, TTL, unless_final(final("second"))) == final("first")
    assert await sidecar.read(STORE, job_id) == before


async def test_leaving_what_does_not_exist_is_a_conflict(sidecar: Sidecar, job_id: str) -> None:
    with pytest.raises(Conflict, match=job_id):
        await JobRecords(sidecar, ENGINE).change(job_id, TTL, lambda _: None)


async def test_an_unreadable_record_does_not_hide_the_others(sidecar: Sidecar, job_id: str) -> None:
    records = JobRecords(sidecar, ENGINE)
    other = names.new_job_id()
    await sidecar.create(STORE, job_id, b"not json", TTL)
    await records.change(other, TTL, unless_final(final(1)))
    assert set(await records.read_many([job_id, other])) == {other}
