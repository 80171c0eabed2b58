"""Options, which can be large, are read only where they are needed."""

import time

from tests.support.ledger import ENGINE, OPTIONS, accepted, mirror, row_of

from enginehouse.contracts.job import Status
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import OPTIONS_LEFT_OUT


async def test_queries_of_many_jobs_leave_the_options_out(ledger: Ledger) -> None:
    waiting = await accepted(ledger, queue_deadline=time.time() - 1)
    ended = await accepted(ledger)
    await mirror(ledger, ended, Status.SUCCEEDED)
    rows = [
        *await ledger.read(read.past_queue_deadline, time.time(), 10),
        *await ledger.read(read.waiting, ENGINE, 10),
        *await ledger.read(read.unfinished_of, [ENGINE], 10),
        *await ledger.read(read.past_result, time.time() + 10_000, 10),
    ]
    assert [row.id for row in rows] == [waiting, waiting, waiting, ended]
    assert all(row.options is OPTIONS_LEFT_OUT for row in rows)


async def test_one_job_and_jobs_that_may_be_handed_over_again_have_their_options(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    (handed_over,) = await ledger.read(read.handed_over, [ENGINE], time.time() + 10)
    assert (await row_of(ledger, job_id)).options == handed_over.options == OPTIONS
