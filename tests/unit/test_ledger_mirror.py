"""Records reach the ledger by the table of transitions, in whatever order they are read."""

import asyncio
import time
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import select
from tests.support.ledger import ENGINE, accepted, mirror, new_job, opened, row_of
from tests.support.proofs import PROOF_KEY

from enginehouse.contracts.job import FINAL, TRANSITIONS, JobError, JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import new_job_id, trial_of
from enginehouse.contracts.proofs import ProofKeys
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.mirror import Mirror
from enginehouse.gateway.ledger.read import QueueCounts
from enginehouse.gateway.ledger.schema import dead_letters
from enginehouse.gateway.ledger.windows import Requeue
from enginehouse.gateway.outcome.dead_letters import read_letter

Step = tuple[Status, int]
"""What a record says: a status and how many attempts have begun."""


async def brought_to(ledger: Ledger, status: Status) -> str:
    """A job that stands there, after one attempt."""
    job_id = await accepted(ledger)
    if status is not Status.QUEUED:
        await mirror(ledger, job_id, status)
    return job_id


async def test_names_in_a_record_are_cut_and_cleaned_to_fit_their_columns(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    wild = "x\x00" * 1_000
    await mirror(ledger, job_id, Status.SUCCEEDED, output=1, image=wild, version=wild, worker=wild)
    row = await row_of(ledger, job_id)
    assert [(str(name)[:2], len(str(name))) for name in (row.image, row.version, row.worker)] == [
        ("x\ufffd", 300),
        ("x\ufffd", 32),
        ("x\ufffd", 64),
    ]


def _attempt_after(before: Status, after: Status) -> int:
    """A job that runs ends, or is to be tried again, in the attempt that runs; whatever else begins is a new one."""
    return 1 if before is Status.QUEUED or after is not Status.RUNNING else 2


@pytest.mark.parametrize("transition", sorted(TRANSITIONS), ids=lambda t: f"{t.before}-{t.event}-{t.after}")
async def test_every_row_of_the_table(ledger: Ledger, transition: Any) -> None:
    job_id = await brought_to(ledger, transition.before)
    error = JobError(code="WHY", message="because") if transition.after in FINAL - {Status.SUCCEEDED} else None
    output = {"a": 1} if transition.after is Status.SUCCEEDED else None
    retry_at = now() + timedelta(seconds=5) if transition.event == "retry" else None
    attempt = _attempt_after(transition.before, transition.after)
    mirrored = await mirror(
        ledger,
        job_id,
        transition.after,
        attempt,
        error=error,
        output=output,
        retry_at=retry_at,
        predict_time=0.5,
        image="sha256:abc",
    )
    row = await row_of(ledger, job_id)
    assert mirrored.changed
    assert mirrored.row == row
    assert (row.status, row.attempts, row.image) == (transition.after, attempt, "sha256:abc")
    assert (row.error is None) == (error is None)
    assert row.output == ('{"a":1}' if output else None)
    if transition.after in FINAL:
        assert row.handed_over_at is None
        assert row.finished_at == pytest.approx(time.time(), abs=5)
        assert row.result_expires_at == (row.finished_at or 0) + 600
    if retry_at:
        assert (row.status_reason, row.handed_over_at) == ("retry_scheduled", None)
        assert row.available_at == pytest.approx(retry_at.timestamp())
    if transition.after is Status.RUNNING:
        assert row.handed_over_at is not None
        assert row.started_at == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("final", sorted(FINAL))
async def test_a_final_state_never_changes(ledger: Ledger, final: Status) -> None:
    job_id = await brought_to(ledger, final)
    before = await row_of(ledger, job_id)
    for later in Status:
        mirrored = await mirror(ledger, job_id, later, attempt=3, output="something else")
        assert not mirrored.changed
    assert await row_of(ledger, job_id) == before


async def test_the_same_record_twice_changes_nothing(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    record = JobRecord(status=Status.RUNNING, attempt=1, worker="w", started_at=now())
    first = await ledger.mirror(Mirror(job_id, record, time.time(), ENGINE))
    again = await ledger.mirror(Mirror(job_id, record, time.time(), ENGINE))
    assert first is not None
    assert again is not None
    assert (first.changed, again.changed) == (True, False)
    assert first.row == again.row


HISTORY: list[Step] = [(Status.RUNNING, 1), (Status.QUEUED, 1), (Status.RUNNING, 2), (Status.SUCCEEDED, 2)]
"""What the record of a job that was tried twice said, one after the other."""


def _where(row: Any) -> Step:
    return Status(row.status), row.attempts


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("together", [False, True])
async def test_records_read_late_undo_nothing(ledger: Ledger, order: tuple[int, ...], together: bool) -> None:
    job_id = await accepted(ledger)
    steps = [mirror(ledger, job_id, *HISTORY[index]) for index in order]
    if together:
        await asyncio.gather(*steps)
    else:
        for step in steps:
            await step
    # Which of them came last does not matter: the second attempt has begun, and nothing takes that back.
    assert _where(await row_of(ledger, job_id)) == (Status.RUNNING, 2)
    await asyncio.gather(*(mirror(ledger, job_id, *step) for step in (HISTORY[3], *HISTORY[:3])))
    assert _where(await row_of(ledger, job_id)) == HISTORY[3]


@pytest.mark.parametrize("first", [False, True])
async def test_an_end_and_a_late_record_committed_together_leave_the_end(ledger: Ledger, first: bool) -> None:
    job_id = await accepted(ledger)
    steps = [(Status.SUCCEEDED, 1), (Status.RUNNING, 1)]
    mirrored = await asyncio.gather(*(mirror(ledger, job_id, *step) for step in (steps if first else steps[::-1])))
    assert _where(await row_of(ledger, job_id)) == (Status.SUCCEEDED, 1)
    assert sorted(item.changed for item in mirrored) == [False, True], "what follows an end is done once"


async def test_an_end_that_a_hint_and_the_sweep_have_read_is_followed_once(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, Status.RUNNING)
    mirrored = await asyncio.gather(*(mirror(ledger, job_id, Status.SUCCEEDED) for _ in range(3)))
    assert [item.changed for item in mirrored] == [True, False, False]
    assert {item.row.status for item in mirrored} == {Status.SUCCEEDED}


async def test_an_old_record_does_not_make_a_job_that_was_taken_back_run_again(ledger: Ledger) -> None:
    job_id = await brought_to(ledger, Status.RUNNING)
    await ledger.requeue(Requeue((job_id,), None, time.time()))
    assert not (await mirror(ledger, job_id, Status.RUNNING)).changed
    assert (await row_of(ledger, job_id)).status == Status.QUEUED


async def test_a_record_of_another_engine_changes_nothing_also_beside_the_true_one(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    forged = JobRecord(status=Status.SUCCEEDED, attempt=1, output="forged")
    true = JobRecord(status=Status.FAILED, attempt=1)
    results = await asyncio.gather(
        *(
            ledger.mirror(Mirror(job_id, record, time.time(), engine))
            for record, engine in ((forged, "umbra--other"), (true, ENGINE), (forged, "umbra--other"))
        )
    )
    assert [bool(result) for result in results] == [False, True, False]
    assert (await row_of(ledger, job_id)).status == Status.FAILED


async def test_a_record_of_a_trials_job_is_one_of_its_engine(ledger: Ledger) -> None:
    job_id = await accepted(ledger, engine=trial_of(ENGINE))
    assert (await mirror(ledger, job_id, Status.SUCCEEDED)).changed


async def test_a_job_that_the_ledger_does_not_have_is_no_error(ledger: Ledger) -> None:
    assert await ledger.mirror(Mirror(new_job_id(), JobRecord(status=Status.SUCCEEDED), time.time(), ENGINE)) is None


async def test_queue_time_counts_to_the_last_attempt_and_survives_an_end_that_does_not_say(ledger: Ledger) -> None:
    job_id = await brought_to(ledger, Status.RUNNING)
    started_at = (await row_of(ledger, job_id)).started_at
    await mirror(ledger, job_id, Status.CANCELED)
    assert (await row_of(ledger, job_id)).started_at == started_at


async def test_an_output_that_is_null_is_an_output(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, Status.SUCCEEDED, output=None)
    assert (await row_of(ledger, job_id)).output == "null"


@pytest.mark.parametrize("output", ["\u0000", "\U0001f600", {"\u0000": "\x01"}])
async def test_any_output_can_be_kept(ledger: Ledger, output: Any) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, Status.SUCCEEDED, output=output)
    assert (await row_of(ledger, job_id)).status == Status.SUCCEEDED


async def test_an_error_with_a_null_byte_in_it_can_be_kept(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    error = JobError(code="PREDICT_ERROR", message="a\x00b")
    await mirror(ledger, job_id, Status.FAILED, error=error, dead_lettered=True)
    assert (await row_of(ledger, job_id)).status == Status.FAILED


async def test_a_dead_lettered_job_has_its_letter_with_the_reason_once(ledger: Ledger) -> None:
    job_id = await brought_to(ledger, Status.RUNNING)
    error = JobError(code="PREDICT_ERROR", message="it broke", retryable=True)
    for _ in range(2):
        await mirror(ledger, job_id, Status.FAILED, 3, error=error, dead_lettered=True)
    letters = await ledger.read(lambda connection: connection.execute(select(dead_letters)).all())
    assert [(x.id, x.job_id, x.tenant, x.engine, x.reason, x.attempts) for x in letters] == [
        (job_id, job_id, "acme", ENGINE, "PREDICT_ERROR", 3)
    ]
    assert JobError.model_validate_json(letters[0].error) == error


async def test_a_job_that_failed_for_its_input_leaves_no_letter(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    await mirror(ledger, job_id, Status.FAILED, error=JobError(code="INVALID_INPUT", message="no"))
    assert await ledger.read(lambda connection: connection.execute(select(dead_letters)).all()) == []


async def test_a_delivery_that_could_not_be_read_is_kept_once(ledger: Ledger) -> None:
    letter = read_letter(b"{", ProofKeys(PROOF_KEY)).row
    await asyncio.gather(*(ledger.keep_dead_letter(letter) for _ in range(3)))
    found = await ledger.read(read.dead_letter, letter.id)
    assert found is not None
    assert (found.reason, found.tenant, found.event) == ("UNPARSABLE", None, "{")


async def test_an_engines_counts_are_of_what_waits_runs_and_has_ended(ledger: Ledger) -> None:
    await ledger.save_engine(ENGINE, None)
    for status in (Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELED):
        await brought_to(ledger, status)
    await brought_to(ledger, Status.RUNNING)
    await brought_to(ledger, Status.QUEUED)
    await ledger.insert(new_job(window=0))
    await accepted(ledger, engine="acme--other")
    counts = (await ledger.read(read.queue_counts, [ENGINE]))[ENGINE]
    assert counts == QueueCounts(queued=2, running=1, succeeded=2, failed=2)


async def test_two_gateways_that_mirror_the_same_end_count_it_once(postgres_url: str) -> None:
    async with opened(postgres_url) as one, opened(postgres_url) as other:
        await one.save_engine(ENGINE, None)
        ids = [await accepted(one) for _ in range(10)]
        ended = await asyncio.gather(
            *(mirror(ledger, job_id, Status.SUCCEEDED) for job_id in ids for ledger in (one, other))
        )
        assert sum(mirrored.changed for mirrored in ended) == 10
        assert (await one.read(read.queue_counts, [ENGINE]))[ENGINE].succeeded == 10
