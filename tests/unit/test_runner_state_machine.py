"""One job ends once, by the table of transitions, whatever two workers, the gateway and a failing store do to it."""

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.support.proofs import key_of
from tests.support.runner import ENGINE, STORE

from enginehouse.contracts import names
from enginehouse.contracts.engine import Heartbeat
from enginehouse.contracts.errors import Conflict, EnginehouseError, Unavailable
from enginehouse.contracts.events import JobOrder
from enginehouse.contracts.job import JobRecord, RetryPolicy, Status, may_change
from enginehouse.contracts.moments import now
from enginehouse.runner.admit import Acknowledge, Admission, Run, Settle
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.claims import Claims
from enginehouse.runner.outcome import (
    Failed,
    HandedBack,
    Outcome,
    Rejected,
    Succeeded,
    Superseded,
    TimedOut,
)
from enginehouse.runner.pace import Pace
from enginehouse.runner.recent_ends import RecentEnds
from enginehouse.runner.settle import Settler
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.sidecar.records import JobRecords

MAX_ATTEMPTS = 3
WORKERS = ("one", "two")
PACE = Pace(settle_retry_first_seconds=0)
ORDER = JobOrder(
    input=1, execution_timeout_seconds=1, retry=RetryPolicy(max_attempts=MAX_ATTEMPTS), record_ttl_seconds=600
)
outcomes: st.SearchStrategy[Outcome] = st.one_of(
    st.builds(Succeeded, st.integers()),
    st.just(Rejected("bad")),
    st.builds(Failed, st.just("broke"), retryable=st.booleans()),
    st.just(TimedOut(1)),
    st.just(HandedBack("stops")),
    st.just(Superseded("lost")),
)


class OneJob(RuleBasedStateMachine):
    """One job, with the runner's own parts. Only times and the order of events are made up."""

    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.dapr = FakeDapr()
        self.sidecar = FakeSidecar(self.dapr)
        self.records = JobRecords(self.sidecar, ENGINE)
        self.job_id = names.new_job_id()
        self.last: JobRecord | None = None
        self.produced: set[Any] = set()
        self.living: set[str] = set()

    def teardown(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def admission(self, worker: str) -> Admission:
        return Admission(self.sidecar, self.records, RecentEnds(PACE), PACE, engine_id=ENGINE, worker=worker)

    def settler(self) -> Settler:
        return Settler(
            self.sidecar, self.records, RecentEnds(PACE), PACE, ENGINE, key_of(ENGINE), names.jobs_component(ENGINE)
        )

    @rule(worker=st.sampled_from(WORKERS), has_job=st.booleans())
    def beats(self, worker: str, has_job: bool) -> None:
        beat = Heartbeat(
            worker=worker,
            slot="a",
            version="v1",
            concurrency=1,
            in_hand=[self.job_id] if has_job else [],
            healthy=True,
            subscribed=True,
            at=now(),
        )
        self.do(self.sidecar.put(STORE, names.worker_key(worker), beat.model_dump_json().encode()))

    @rule(worker=st.sampled_from(WORKERS))
    def vanishes(self, worker: str) -> None:
        self.do(self.sidecar.delete(STORE, names.worker_key(worker)))

    @rule(
        method=st.sampled_from(["create", "replace", "read", "publish"]),
        kind=st.sampled_from([Conflict, Unavailable]),
        late=st.booleans(),
        times=st.integers(1, 3),
    )
    def store_fails(self, method: str, kind: type[EnginehouseError], late: bool, times: int) -> None:
        if kind is Conflict and method in ("read", "publish"):
            kind = Unavailable
        self.dapr.fail(method, kind("made to fail"), times=times, after_doing=late and kind is Unavailable)

    @rule(
        target=attempts,
        worker=st.sampled_from(WORKERS),
        offset=st.integers(-1, 1),
        blind=st.booleans(),
    )
    def delivered(self, worker: str, offset: int, blind: bool) -> Execution | None:
        """Deliver any attempt: the next one, an old one again, or one too early."""
        number = max(1, (self.last.attempt if self.last else 0) + offset)
        attempt = Attempt(job_id=self.job_id, number=number, worker=worker, version="v1", order=ORDER)
        if blind and number == 1:
            return Execution(attempt)
        admitted: Execution | None = self.do(self.admit(attempt))
        return admitted

    async def admit(self, attempt: Attempt) -> Execution | None:
        try:
            stored = await self.records.read(self.job_id)
            judgement = await self.admission(attempt.worker).judge(
                job_id=self.job_id, number=attempt.number, order=ORDER, record=stored.record if stored else None
            )
        except Unavailable:
            return None
        match judgement:
            case Settle(execution, outcome):
                await self.settler().settle(execution, outcome)
                return None
            case Acknowledge():
                return None
            case Run(number, takes_over, record_seen):
                execution = Execution(attempt, record_seen)
                execution.become(number, takes_over)
                return execution

    @rule(execution=attempts)
    def claims(self, execution: Execution | None) -> None:
        if execution is None:
            return
        claims = Claims(self.records, self.admission(execution.attempt.worker), lambda _: None)
        try:
            refused = self.do(claims.claim(execution))
        except EnginehouseError:
            return
        held = self.record()
        assert refused is not None or execution.attempt.owns(held)

    @rule(execution=consumes(attempts), outcome=outcomes)
    def settles(self, execution: Execution | None, outcome: Outcome) -> None:
        if execution is None:
            return
        if isinstance(outcome, Succeeded):
            self.produced.add(outcome.output)
        assert self.do(self.settler().settle(execution, outcome))
        held = self.record()
        if isinstance(outcome, Succeeded | Rejected):
            assert held is not None
            assert held.status.is_final

    @rule()
    def canceled(self) -> None:
        def decide(present: JobRecord | None) -> JobRecord | None:
            before = present.status if present else Status.QUEUED
            return JobRecord(status=Status.CANCELED) if may_change(before, Status.CANCELED) else None

        try:
            self.do(self.records.change(self.job_id, 600, decide))
        except EnginehouseError:
            return

    def record(self) -> JobRecord | None:
        entry = self.dapr.stores[STORE].get(self.job_id)
        return JobRecord.model_validate_json(entry.value) if entry else None

    @invariant()
    def only_what_the_table_allows(self) -> None:
        held = self.record()
        if held == self.last:
            return
        before = self.last.status if self.last else Status.QUEUED
        assert held is not None, "a record is never lost"
        # One rule may write twice (a claim over a vanished worker's), so only the first and last record are compared.
        assert may_change(before, held.status), (self.last, held)
        assert held.attempt <= MAX_ATTEMPTS
        if held.status is Status.SUCCEEDED:
            assert held.output in self.produced
        if held.status is Status.RUNNING and self.last is not None:
            assert held.attempt > self.last.attempt, "no attempt is begun twice"
        if held.status is Status.QUEUED:
            assert held.retry_at is not None
        self.last = held


OneJob.TestCase.settings = settings(max_examples=150, stateful_step_count=25)
TestOneJob = OneJob.TestCase
