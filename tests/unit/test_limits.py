"""The limits of one tenant: a rate with a burst, and jobs in flight, also when many requests come at once."""

import contextlib

import pytest

from enginehouse.contracts.errors import RateLimited
from enginehouse.contracts.tenant import Limits as TenantLimits
from enginehouse.contracts.tenant import Tenant
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.gateway.tenants.tenants import Caller


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def caller(name: str = "acme", **allowed: float) -> Caller:
    return Caller(Tenant(name=name, limits=TenantLimits.model_validate(allowed)), None)


def admitted(made: Limits, who: Caller, times: int) -> int:
    """How many of so many submits, one after the other, are let in."""
    count = 0
    for _ in range(times):
        with contextlib.suppress(RateLimited), made.admitting(who):
            count += 1
    return count


def test_a_burst_of_two_seconds_and_then_the_rate(clock: Clock) -> None:
    made, who = Limits(clock), caller(submits_per_second=10)
    assert admitted(made, who, 100) == 20
    clock.now += 0.5
    assert admitted(made, who, 100) == 5
    clock.now += 1_000
    assert admitted(made, who, 100) == 20


def test_it_says_when_to_come_back(clock: Clock) -> None:
    made, who = Limits(clock), caller(submits_per_second=0.25)
    assert admitted(made, who, 1) == 1
    with pytest.raises(RateLimited, match=r"0\.25 jobs a second") as refused, made.admitting(who):
        pass
    assert refused.value.retry_after_seconds == pytest.approx(4)
    assert refused.value.retryable
    clock.now += 4
    assert admitted(made, who, 2) == 1


def test_one_tenants_limit_is_not_anothers(clock: Clock) -> None:
    made = Limits(clock)
    assert admitted(made, caller(submits_per_second=1), 10) == 2
    assert admitted(made, caller("umbra", submits_per_second=1), 10) == 2


def test_jobs_that_have_not_ended_are_counted(clock: Clock) -> None:
    made, who = Limits(clock), caller(jobs_in_flight=2)
    for _ in range(2):
        with made.admitting(who):
            made.accepted("acme")
    assert admitted(made, who, 1) == 0
    made.ended("acme")
    assert admitted(made, who, 1) == 1


def test_those_that_are_just_being_accepted_count_too(clock: Clock) -> None:
    made, who = Limits(clock), caller(jobs_in_flight=2)
    with made.admitting(who), made.admitting(who):
        assert admitted(made, who, 1) == 0
    assert admitted(made, who, 1) == 1


def test_a_submit_that_was_refused_takes_no_place(clock: Clock) -> None:
    made, who = Limits(clock), caller(jobs_in_flight=1)
    with pytest.raises(ValueError, match="refused"), made.admitting(who):
        raise ValueError("refused")
    assert admitted(made, who, 1) == 1


def test_an_end_that_was_counted_twice_gives_no_extra_place(clock: Clock) -> None:
    made, who = Limits(clock), caller(jobs_in_flight=1)
    made.ended("acme")
    with made.admitting(who):
        made.accepted("acme")
    assert admitted(made, who, 1) == 0
