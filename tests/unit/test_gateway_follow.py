"""A follower gets a job's events in order although they arrive in any, and waits only a short time for a missing one."""

import time
from types import SimpleNamespace
from typing import Any

from enginehouse.contracts.events import progress_sequence
from enginehouse.contracts.job import Status
from enginehouse.gateway.jobs import follow
from enginehouse.gateway.jobs.follow import FollowEvent, _Follower


def told(*places: tuple[int, int]) -> Any:
    return [
        SimpleNamespace(sequence=progress_sequence(attempt, number), kind="log", value=f"{number}")
        for attempt, number in places
    ]


def row(status: Status = Status.RUNNING, attempts: int = 1, finished_at: float | None = None) -> Any:
    return SimpleNamespace(status=status, attempts=attempts, worker="w", finished_at=finished_at)


def kinds(sent: list[FollowEvent]) -> list[str]:
    return [event.kind for event in sent]


def test_the_start_comes_first_also_where_the_ledger_does_not_know_of_it_yet() -> None:
    follower = _Follower("j", 0)
    assert kinds(follower.take(row(Status.QUEUED, 0), told((1, 1), (1, 2)))) == ["start", "log", "log"]
    assert follower.take(row(), []) == []


def test_what_comes_after_a_gap_is_held_until_the_gap_is_filled() -> None:
    follower = _Follower("j", 0)
    assert kinds(follower.take(row(), told((1, 1), (1, 3)))) == ["start", "log"]
    assert follower.expects_more(row(), told((1, 3)))
    assert kinds(follower.take(row(), told((1, 2), (1, 3)))) == ["log", "log"]
    assert not follower.expects_more(row(), [])


def test_a_gap_that_stays_is_passed_over() -> None:
    follower = _Follower("j", progress_sequence(1, 1), held_since=time.monotonic() - 2 * follow._LATE_SECONDS)
    assert not follower.expects_more(row(), told((1, 3)))
    assert kinds(follower.take(row(), told((1, 3)))) == ["log"]


def test_a_second_attempt_starts_anew() -> None:
    follower = _Follower("j", progress_sequence(1, 2))
    assert kinds(follower.take(row(attempts=2), told((2, 1)))) == ["start", "log"]


def test_the_end_waits_a_moment_for_the_last_of_what_was_told_and_only_then() -> None:
    just, long_ago = time.time(), time.time() - 60
    told_before, told_nothing = _Follower("j", progress_sequence(1, 2)), _Follower("j", progress_sequence(1, 0))
    assert told_before.expects_more(row(Status.SUCCEEDED, finished_at=just), [])
    assert not told_before.expects_more(row(Status.SUCCEEDED, finished_at=long_ago), [])
    assert not told_nothing.expects_more(row(Status.SUCCEEDED, finished_at=just), [])
