"""The rules that tell which handed-over jobs are handed over again: those that no worker has and none will get."""

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from tests.support.ledger import accepted, mirror, row_of

from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.job import JobRecord, Status
from enginehouse.contracts.moments import now
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.recovery.lost_jobs import LOST_AFTER_SECONDS, OVERTAKEN_SECONDS, is_lost, still_runs


def _beat(worker: str = "w1", in_hand: tuple[str, ...] = (), idle: float | None = None, **changes: Any) -> Heartbeat:
    beat = Heartbeat(
        worker=worker,
        slot="a",
        version="v1",
        concurrency=4,
        in_hand=list(in_hand),
        idle_since=None if idle is None else now() - timedelta(seconds=idle),
        healthy=True,
        subscribed=True,
        at=now(),
    )
    return beat.model_copy(update=changes)


def _lost(handed_over_ago: float, workers: list[Heartbeat], progress_ago: float = 1e6, losses: int = 0) -> bool:
    moment = time.time()
    row: Any = SimpleNamespace(id="j", losses=losses, handed_over_at=moment - handed_over_ago)
    return is_lost(row, workers, moment - progress_ago, moment)


def test_waiting_alone_is_no_sign_of_loss() -> None:
    assert not _lost(3_600, [])
    assert not _lost(3_600, [_beat(in_hand=("other",))])
    assert not _lost(3_600, [_beat(in_hand=("j",), idle=3_600)], progress_ago=0)


def test_what_an_idle_worker_does_not_get_is_lost() -> None:
    long = LOST_AFTER_SECONDS + 1
    assert _lost(long, [_beat(idle=long)])
    assert not _lost(long, [_beat(idle=1)])
    assert not _lost(1, [_beat(idle=long)])
    assert not _lost(long, [_beat(idle=long, healthy=False)])
    assert not _lost(long, [_beat(idle=long, subscribed=False)])


def test_what_is_lost_again_is_given_more_time_so_that_it_is_not_given_up() -> None:
    idle = [_beat(idle=3_600)]
    assert _lost(LOST_AFTER_SECONDS * 2 + 1, idle, losses=1)
    assert not _lost(LOST_AFTER_SECONDS * 2 - 1, idle, losses=1)
    assert _lost(LOST_AFTER_SECONDS * 16 + 1, idle, losses=18)
    assert not _lost(LOST_AFTER_SECONDS * 16 - 1, idle, losses=18)


def test_what_was_overtaken_by_far_is_lost() -> None:
    busy = [_beat(in_hand=("other",))]
    assert _lost(OVERTAKEN_SECONDS + 2, busy, progress_ago=1)
    assert not _lost(OVERTAKEN_SECONDS - 2, busy, progress_ago=1)


def test_a_running_job_is_where_its_claim_says_only_if_that_worker_still_runs() -> None:
    claim = JobRecord(status=Status.RUNNING, attempt=1, worker="w1", started_at=now() - timedelta(seconds=9))
    assert still_runs(claim, "j", [_beat("w2"), _beat("w1", in_hand=("j",))])
    assert not still_runs(claim, "j", [_beat("w2", in_hand=("j",))])
    assert not still_runs(claim, "j", [_beat("w1")])
    just_taken = claim.model_copy(update={"started_at": now() + timedelta(seconds=1)})
    assert still_runs(just_taken, "j", [_beat("w1")])


async def test_what_begins_tells_when_it_was_handed_over(ledger: Ledger) -> None:
    job_id = await accepted(ledger)
    handed_over_at = (await row_of(ledger, job_id)).handed_over_at
    begun = await mirror(ledger, job_id, Status.RUNNING)
    assert begun.handed_over_at == handed_over_at is not None
    ended = await mirror(ledger, job_id, Status.SUCCEEDED)
    assert (ended.handed_over_at, ended.row.handed_over_at) == (handed_over_at, None)
