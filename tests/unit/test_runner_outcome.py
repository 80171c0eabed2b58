"""The rules that turn an outcome and the present record into the next record, one by one."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.contracts.events import JobOrder
from enginehouse.contracts.job import FINAL, JobRecord, RetryPolicy, Status
from enginehouse.contracts.moments import now
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.outcome import (
    Failed,
    HandedBack,
    Outcome,
    Rejected,
    Succeeded,
    Superseded,
    TimedOut,
    WorkerLost,
    backoff_seconds,
    decide,
    decide_claim,
    record_for,
)

NOW = now()
ORDER = JobOrder(execution_timeout_seconds=1, retry=RetryPolicy(max_attempts=3), record_ttl_seconds=60)
OUTCOMES: list[Outcome] = [Succeeded(1), Rejected("no"), Failed("x"), TimedOut(1), WorkerLost("w"), HandedBack("y")]


def attempt_of(number: int = 1, **changes: Any) -> Attempt:
    return Attempt(job_id="job", number=number, worker="me", version="v1", order=ORDER, **changes)


def decided(outcome: Outcome, attempt: Attempt, present: JobRecord | None) -> JobRecord | None:
    wanted = record_for(outcome, Execution(attempt), NOW)
    assert wanted is not None
    return decide(outcome, attempt, present, wanted)


@pytest.mark.parametrize("status", sorted(FINAL))
@pytest.mark.parametrize("outcome", OUTCOMES)
def test_final_never_changes(outcome: Outcome, status: Status) -> None:
    present = JobRecord(status=status, attempt=1)
    assert decided(outcome, attempt_of(takes_over=present), present) is None
    assert decide_claim(attempt_of(2), present) is None


def test_superseded_writes_nothing() -> None:
    assert record_for(Superseded("canceled"), Execution(attempt_of()), NOW) is None


@pytest.mark.parametrize("outcome", [Failed("x"), TimedOut(1), HandedBack("y")])
@pytest.mark.parametrize(
    "present",
    [
        JobRecord(status=Status.RUNNING, attempt=2, worker="other"),
        JobRecord(status=Status.RUNNING, attempt=1, worker="other"),
        JobRecord(status=Status.QUEUED, attempt=1),
        JobRecord(status=Status.QUEUED, attempt=2),
    ],
)
def test_a_failure_that_was_overtaken_says_nothing(outcome: Outcome, present: JobRecord) -> None:
    assert decided(outcome, attempt_of(1), present) is None


def test_an_answer_holds_though_it_was_overtaken() -> None:
    record = decided(Succeeded(7), attempt_of(1), JobRecord(status=Status.RUNNING, attempt=2, worker="other"))
    assert record is not None
    assert (record.status, record.output, record.attempt) == (Status.SUCCEEDED, 7, 2)


def test_a_worker_is_lost_only_if_its_claim_is_still_there() -> None:
    lost = JobRecord(status=Status.RUNNING, attempt=3, worker="other", started_at=NOW)
    attempt = attempt_of(3, takes_over=lost)
    assert decided(WorkerLost("other"), attempt, lost) is not None
    again = lost.model_copy(update={"started_at": NOW + timedelta(seconds=1)})
    assert decided(WorkerLost("other"), attempt, again) is None


def test_only_a_later_attempt_is_claimed() -> None:
    queued = JobRecord(status=Status.QUEUED, attempt=2, retry_at=NOW)
    assert decide_claim(attempt_of(2), queued) is None
    assert decide_claim(attempt_of(3), queued) is not None


def test_a_running_record_is_claimed_over_only_if_it_was_judged_lost() -> None:
    running = JobRecord(status=Status.RUNNING, attempt=1, worker="other", started_at=NOW)
    assert decide_claim(attempt_of(2), running) is None
    assert decide_claim(attempt_of(2, takes_over=running), running) is not None


@given(st.integers(0, 3_600_000), st.integers(0, 86_400_000), st.integers(1, 20))
def test_backoff_is_exponential_capped_and_jittered(initial: int, most: int, attempt: int) -> None:
    retry = RetryPolicy(initial_delay_ms=initial, max_delay_ms=most)
    full = min(most, initial * 2 ** (attempt - 1)) / 1000
    assert full / 2 <= backoff_seconds(retry, attempt) <= full
