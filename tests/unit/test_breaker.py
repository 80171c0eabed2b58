"""The breaker decides when an engine is paused and for how long, when it goes on, and when it is quarantined."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginehouse.gateway.engines import breaker
from enginehouse.gateway.engines.breaker import Breaker, Phase, Verdict


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(
    made: Breaker,
    times: int,
    phase: Phase = Phase.OPEN,
    code: str = "PREDICT_ERROR",
    *,
    tenant: str = "acme",
    first: int = 0,
) -> Verdict | None:
    """Let that many jobs fail, whose ids begin with number `first`; return the last verdict."""
    verdict = None
    for number in range(first, first + times):
        verdict = made.failed(f"{tenant}-{phase.name}-{number}", tenant, code, phase)
    return verdict


def test_too_few_failures_say_nothing() -> None:
    assert fail(Breaker(), breaker.TRIP_AFTER - 1) is None


def test_jobs_that_fail_in_a_row_are_a_pause_that_says_why() -> None:
    made = Breaker()
    made.succeeded(Phase.OPEN)
    verdict = fail(made, breaker.TRIP_AFTER)
    assert verdict is not None
    assert (verdict.quarantine, verdict.pause_seconds) == (False, breaker.FIRST_PAUSE_SECONDS)
    assert verdict.reason == "10 jobs in a row failed; the last: PREDICT_ERROR"


def test_inputs_that_fail_while_others_succeed_pause_nothing() -> None:
    made = Breaker()
    for round_number in range(50):
        assert fail(made, breaker.TRIP_AFTER - 1, first=100 * round_number) is None
        made.succeeded(Phase.OPEN)


def test_jobs_are_counted_and_not_their_attempts() -> None:
    made = Breaker()
    for _ in range(50):
        for job in range(breaker.TRIP_AFTER - 1):
            assert made.failed(str(job), "acme", "PREDICT_ERROR", Phase.OPEN) is None
    assert made.failed("another", "acme", "PREDICT_ERROR", Phase.OPEN) is not None


def test_failures_are_forgotten_after_a_while(clock: Clock) -> None:
    made = Breaker(clock=clock)
    fail(made, breaker.TRIP_AFTER - 1)
    clock.now += breaker.OBSERVED_SECONDS + 1
    assert fail(made, breaker.TRIP_AFTER - 1, first=100) is None


def test_what_began_before_a_pause_neither_prolongs_nor_ends_it() -> None:
    made = Breaker()
    assert fail(made, breaker.TRIP_AFTER) is not None
    assert fail(made, 50, Phase.PAUSED) is None
    assert made.succeeded(Phase.PAUSED) is False
    assert len(made.failed_jobs) == 0


def test_each_failed_probe_pauses_twice_as_long_up_to_a_limit_and_then_it_is_quarantined() -> None:
    made = Breaker()
    fail(made, breaker.TRIP_AFTER)
    pauses = []
    for number in range(breaker.QUARANTINE_AFTER_PROBES - 1):
        verdict = fail(made, 1, Phase.PROBING, first=number)
        assert verdict is not None
        assert not verdict.quarantine
        assert verdict.reason.endswith("; the last: PREDICT_ERROR")
        pauses.append(verdict.pause_seconds)
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    verdict = fail(made, 1, Phase.PROBING, "WORKER_LOST", first=100)
    assert verdict == Verdict(True, 0, "8 probes in a row failed; the last: WORKER_LOST")


def test_a_job_that_is_the_probe_again_and_again_quarantines_nothing() -> None:
    made = Breaker()
    fail(made, breaker.TRIP_AFTER)
    for _ in range(5 * breaker.QUARANTINE_AFTER_PROBES):
        verdict = made.failed("the same", "acme", "PREDICT_ERROR", Phase.PROBING)
        assert verdict is not None
        assert not verdict.quarantine


@pytest.mark.parametrize("phase", [Phase.PROBING, Phase.PROBED])
def test_a_probe_that_works_ends_the_pause_and_the_next_begins_anew(phase: Phase) -> None:
    made = Breaker()
    fail(made, breaker.TRIP_AFTER)
    fail(made, 3, Phase.PROBING)
    assert made.succeeded(phase) is True
    assert fail(made, breaker.TRIP_AFTER - 1, first=100) is None
    verdict = fail(made, 1, first=200)
    assert verdict is not None
    assert verdict.pause_seconds == breaker.FIRST_PAUSE_SECONDS


def test_probes_that_fail_together_make_the_pause_longer_once() -> None:
    made = Breaker()
    fail(made, breaker.TRIP_AFTER)
    assert fail(made, 1, Phase.PROBING) is not None
    assert fail(made, 1, Phase.PROBED) is None
    assert made.failed_probes == 1


@pytest.mark.parametrize("code", sorted(breaker.NONSENSE))
def test_nonsense_in_a_row_is_quarantined_whenever_it_was_asked_for(code: str) -> None:
    made = Breaker()
    assert fail(made, breaker.TRIP_AFTER, Phase.OPEN, code) is not None
    left = breaker.QUARANTINE_AFTER_NONSENSE - breaker.TRIP_AFTER
    assert fail(made, left - 1, Phase.PAUSED, code) is None
    verdict = fail(made, 1, Phase.PAUSED, code, first=100)
    assert verdict is not None
    assert verdict.quarantine
    assert verdict.reason == f"the answers to 20 jobs in a row made no sense; the last: {code}"


def test_an_answer_that_makes_sense_ends_the_row() -> None:
    made = Breaker()
    fail(made, breaker.QUARANTINE_AFTER_NONSENSE - 1, Phase.PAUSED, "MALFORMED_ANSWER")
    made.succeeded(Phase.PAUSED)
    assert fail(made, 1, Phase.PAUSED, "MALFORMED_ANSWER", first=100) is None


def test_a_shared_engine_that_fails_for_two_tenants_is_paused_and_the_reason_counts_them() -> None:
    made = Breaker(shared=True)
    assert fail(made, 1_000, tenant="acme") is None
    assert fail(made, 4, tenant="umbra") is None
    verdict = fail(made, 1, tenant="umbra", first=100)
    assert verdict is not None
    assert verdict.reason == "10 jobs of 2 tenants in a row failed; the last: PREDICT_ERROR"


def test_a_shared_engine_that_fails_for_many_tenants_is_paused_at_the_same_number_of_jobs() -> None:
    made = Breaker(shared=True)
    verdicts = [fail(made, 1, tenant=f"tenant-{number}") for number in range(breaker.TRIP_AFTER)]
    assert verdicts[:-1] == [None] * (breaker.TRIP_AFTER - 1)
    assert verdicts[-1] is not None


PHASES = st.sampled_from(Phase)
CODES = st.sampled_from(["PREDICT_ERROR", "MALFORMED_ANSWER", "OUTPUT_TOO_LARGE", "PREDICT_TIMEOUT", "WORKER_LOST"])
JOBS = st.integers(0, 60).map(str)
ENDS = st.tuples(st.sampled_from(["fails", "succeeds"]), JOBS, CODES)


@given(st.lists(ENDS, max_size=300))
def test_one_tenant_alone_never_stops_a_shared_engine_that_gets_its_jobs(ends: list[tuple[str, str, str]]) -> None:
    made = Breaker(shared=True)
    for how, job, code in ends:
        if how == "succeeds":
            made.succeeded(Phase.OPEN)
        else:
            assert made.failed(job, "acme", code, Phase.OPEN) is None


@given(st.lists(st.tuples(JOBS, CODES, PHASES), max_size=300))
def test_one_tenant_alone_never_quarantines_a_shared_engine(ends: list[tuple[str, str, Phase]]) -> None:
    made = Breaker(shared=True)
    verdicts = [made.failed(job, "acme", code, phase) for job, code, phase in ends]
    assert not any(verdict and verdict.quarantine for verdict in verdicts)


@given(st.booleans(), st.lists(st.tuples(st.integers(1, breaker.TRIP_AFTER - 1), CODES), max_size=300))
def test_few_bad_inputs_never_stop_an_engine_however_often_they_are_tried(
    shared: bool, ends: list[tuple[int, str]]
) -> None:
    made = Breaker(shared=shared)
    assert not any(made.failed(str(job), f"tenant-{job % 3}", code, Phase.OPEN) for job, code in ends)


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 5), CODES), min_size=60, max_size=60))
def test_an_engine_that_fails_for_everybody_is_paused_by_sixty_jobs_of_any_tenants(
    shared: bool, ends: list[tuple[int, str]]
) -> None:
    made = Breaker(shared=shared)
    made.succeeded(Phase.OPEN)
    by_tenant = [sum(1 for owner, _ in ends if owner == tenant) for tenant in range(6)]
    verdicts = [
        made.failed(str(number), f"tenant-{tenant}", code, Phase.OPEN) for number, (tenant, code) in enumerate(ends)
    ]
    countable = sum(min(count, breaker.TRIP_AFTER // 2) for count in by_tenant) if shared else len(ends)
    assert any(verdicts) == (countable >= breaker.TRIP_AFTER)
