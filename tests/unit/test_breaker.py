"""The breaker decides when an engine is paused and for how long, when it goes on, and when it is quarantined."""

import pytest

from enginehouse.gateway.engines import breaker
from enginehouse.gateway.engines.breaker import Breaker, Phase, Verdict


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def fail(made: Breaker, times: int, phase: Phase = Phase.OPEN, code: str = "PREDICT_ERROR") -> Verdict | None:
    verdict = None
    for _ in range(times):
        verdict = made.failed(code, phase)
    return verdict


def test_too_few_failures_say_nothing() -> None:
    assert fail(Breaker(), breaker.TRIP_AFTER - 1) is None


def test_half_of_the_attempts_failing_is_a_pause_that_says_why() -> None:
    made = Breaker()
    for _ in range(5):
        made.succeeded(Phase.OPEN)
    verdict = fail(made, 5)
    assert verdict is not None
    assert (verdict.quarantine, verdict.pause_seconds) == (False, breaker.FIRST_PAUSE_SECONDS)
    assert verdict.reason == "5 of the last 10 attempts failed; the last: PREDICT_ERROR"


def test_less_than_half_is_none() -> None:
    made = Breaker()
    for _ in range(11):
        made.succeeded(Phase.OPEN)
    assert fail(made, 10) is None
    assert fail(made, 1) is not None


def test_failures_are_forgotten_after_a_while(clock: Clock) -> None:
    made = Breaker(clock=clock)
    fail(made, breaker.TRIP_AFTER - 1)
    clock.now += breaker.OBSERVED_SECONDS + 1
    assert fail(made, breaker.TRIP_AFTER - 1) is None


def test_outcomes_are_bounded_however_many_there_are(clock: Clock) -> None:
    made = Breaker(clock=clock)
    for _ in range(breaker.OUTCOMES_KEPT * 3):
        made.succeeded(Phase.OPEN)
    assert len(made.outcomes) == breaker.OUTCOMES_KEPT
    clock.now += breaker.OBSERVED_SECONDS + 1
    made.succeeded(Phase.OPEN)
    assert len(made.outcomes) == 1


def test_what_was_handed_over_before_a_pause_neither_prolongs_nor_ends_it() -> None:
    made = Breaker()
    assert fail(made, breaker.TRIP_AFTER) is not None
    assert fail(made, 50, Phase.PAUSED) is None
    assert made.succeeded(Phase.PAUSED) is False
    assert made.outcomes == type(made.outcomes)()


def test_each_failed_probe_pauses_twice_as_long_up_to_a_limit_and_then_it_is_quarantined() -> None:
    made = Breaker()
    fail(made, breaker.TRIP_AFTER)
    pauses = []
    for _ in range(breaker.QUARANTINE_AFTER_PROBES - 1):
        verdict = made.failed("PREDICT_ERROR", Phase.PROBING)
        assert verdict is not None
        assert not verdict.quarantine
        assert verdict.reason.endswith("in a row failed; the last: PREDICT_ERROR")
        pauses.append(verdict.pause_seconds)
    assert pauses == [10, 20, 40, 80, 160, 300, 300]
    verdict = made.failed("WORKER_LOST", Phase.PROBING)
    assert verdict == Verdict(True, 0, "8 probes in a row failed; the last: WORKER_LOST")


def test_a_probe_that_works_ends_the_pause_and_the_next_begins_anew() -> None:
    made = Breaker()
    fail(made, breaker.TRIP_AFTER)
    fail(made, 3, Phase.PROBING)
    assert made.succeeded(Phase.PROBING) is True
    verdict = fail(made, breaker.TRIP_AFTER - 1)
    assert verdict is not None
    assert verdict.pause_seconds == breaker.FIRST_PAUSE_SECONDS


@pytest.mark.parametrize("code", sorted(breaker.NONSENSE))
def test_nonsense_in_a_row_is_quarantined_whenever_it_was_asked_for(code: str) -> None:
    made = Breaker()
    assert fail(made, breaker.TRIP_AFTER, Phase.OPEN, code) is not None
    left = breaker.QUARANTINE_AFTER_NONSENSE - breaker.TRIP_AFTER
    assert fail(made, left - 1, Phase.PAUSED, code) is None
    verdict = made.failed(code, Phase.PAUSED)
    assert verdict is not None
    assert verdict.quarantine
    assert verdict.reason == f"20 answers in a row made no sense; the last: {code}"


def test_an_answer_that_makes_sense_ends_the_row() -> None:
    made = Breaker()
    fail(made, breaker.QUARANTINE_AFTER_NONSENSE - 1, Phase.PAUSED, "MALFORMED_ANSWER")
    made.succeeded(Phase.PAUSED)
    assert fail(made, 1, Phase.PAUSED, "MALFORMED_ANSWER") is None
