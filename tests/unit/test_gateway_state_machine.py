"""Jobs change by the table of transitions, end once, and none is lost, in any order of events and with any failures.

Hypothesis plays clients, runners, broker and store around a real gateway: deliveries come late, twice or never, workers
die, and the store and the broker fail before or after they have done what they were asked.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import select
from tests.support.gateway import ECHO, Clock, GatewayWorld, gateway_world
from tests.support.scripted_runner import ScriptedRunner

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.errors import Conflict, EnginehouseError, Unavailable
from enginehouse.contracts.events import HandedJob, JobEvent
from enginehouse.contracts.job import JobRecord, Status, may_change
from enginehouse.contracts.moments import now
from enginehouse.gateway.engines import breaker
from enginehouse.gateway.ledger.schema import jobs
from enginehouse.gateway.pace import Pace
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.sidecar.records import JobRecords

STORE = names.results_component(ECHO)
TOPIC = names.job_topic(ECHO)
BACK = st.integers(0, 5)
"""How far back in what was published last; 0 is the last."""
HOW = st.sampled_from(["succeed", "fail", "retry", "claim"])


class RememberingStore(dict[str, Any]):
    """A store of the fake Dapr that remembers the statuses which each job's record goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: dict[str, list[Status]] = defaultdict(list)

    def __setitem__(self, key: str, entry: Any) -> None:
        if names.is_job_id(key):
            self.statuses[key].append(JobRecord.model_validate_json(entry.value).status)
        super().__setitem__(key, entry)


class Gateway(RuleBasedStateMachine):
    """One gateway with one engine, of which every delivery is in our hands."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.patch.setattr(breaker, "TRIP_AFTER", 1_000_000)
        self.folder = tempfile.TemporaryDirectory()
        self.dapr = FakeDapr()
        store = RememberingStore()
        self.writes = store.statuses
        self.dapr.stores[STORE] = store
        self.manager = gateway_world(
            Path(self.folder.name),
            dapr=self.dapr,
            engines=[ECHO],
            pace=Pace(clock=self.clock, broker_retry_seconds=0.01),
        )
        self.world: GatewayWorld = self.run(self.manager.__aenter__())
        self.dapr.handlers.clear()
        self.workers = 0
        self.runner: ScriptedRunner
        self.new_worker()
        self.seen: dict[str, Status] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Let `work` be done."""
        return self.loop.run(work)

    def new_worker(self) -> None:
        """From now on another worker does the work; the one before is gone."""
        self.workers += 1
        self.runner = ScriptedRunner(FakeDapr(), ECHO, f"worker-{self.workers}")
        self.runner.sidecar = FakeSidecar(self.dapr, "engine")
        self.runner.records = JobRecords(self.runner.sidecar, ECHO)

    async def quiet(self) -> None:
        """Until the gateway has nothing in hand."""
        await self.world.idle()

    def published(self, topic: str) -> list[bytes]:
        """Everything that was published there so far."""
        return self.dapr.published[topic]

    def published_lately(self, topic: str, back: int) -> bytes | None:
        """One of the last that were published there; None if there was none.

        No rule has it as its precondition: Hypothesis makes the same choices again, and finds another set of rules then if
        what is on its way comes sooner or later.
        """
        published = self.published(topic)
        return published[-1 - back % len(published)] if published else None

    @initialize(count=st.integers(1, 3))
    def some_jobs(self, count: int) -> None:
        self.submit(2, count)

    @rule(attempts=st.integers(1, 3), number=st.integers(1, 3))
    def submit(self, attempts: int, number: int) -> None:
        """Several at once may share an event."""

        async def work() -> list[Any]:
            body = {"input": 1, "retry": {"max_attempts": attempts, "initial_delay_ms": 0}}
            client = self.world.client()
            answers = await asyncio.gather(*(client.post("/v1/engines/echo/jobs", json=body) for _ in range(number)))
            await self.quiet()
            return answers

        for answer in self.run(work()):
            # The broker may be away and the store too: a job is accepted all the same.
            assert answer.status_code == 202
            self.seen[answer.json()["id"]] = Status.QUEUED

    @rule(back=BACK, how=HOW, told=st.booleans(), part=st.integers(1, 3))
    def deliver(self, back: int, how: str, told: bool, part: int) -> None:
        """One of the last deliveries, perhaps for the second time; the hint that tells of it may get lost.

        The worker may die when only a part of its jobs are done.
        """
        body = self.published_lately(TOPIC, back)
        if body is None:
            return
        before = len(self.published(names.COMPLETIONS_TOPIC))
        self.run(self.worked(body, how, part))
        if told:
            for body in self.published(names.COMPLETIONS_TOPIC)[before:]:
                self.run(self.world.gateway.hints.deliver(body))
            self.run(self.quiet())

    async def worked(self, body: bytes, how: str, part: int) -> None:
        """What a runner does with a delivery, perhaps an old one, perhaps for the second time."""
        for job in read_event(JobEvent, body).jobs[:part]:
            await self.worked_on(job, how)

    async def worked_on(self, event: HandedJob, how: str) -> None:
        """What a runner does with one of its jobs."""
        try:
            present = await self.runner.records.read(event.id)
            if present and (present.record.status.is_final or present.record.attempt > event.attempt):
                return
            if how == "claim":
                if present is None or present.record.attempt < event.attempt:
                    await self.runner.claim(event)
            elif how == "retry" and event.attempt < event.data.retry.max_attempts:
                await self.runner.end(event, Status.QUEUED, retry_at=now())
            elif how in ("fail", "retry"):
                await self.runner.end(event, Status.FAILED)
            else:
                await self.runner.end(event, output=event.attempt)
        except EnginehouseError:
            return  # It will be delivered again, or was not: both happen.

    @rule(back=BACK)
    def hint(self, back: int) -> None:
        """A completion comes late, or twice."""
        body = self.published_lately(names.COMPLETIONS_TOPIC, back)
        if body is not None:
            self.run(self.world.gateway.hints.deliver(body))
            self.run(self.quiet())

    @rule(back=BACK)
    def cancel(self, back: int) -> None:
        job_id = list(self.seen)[-1 - back % len(self.seen)]
        answer = self.run(self.world.client().post(f"/v1/jobs/{job_id}/cancel"))
        assert answer.status_code in (202, 409, 503)

    @rule(
        method=st.sampled_from(["create", "replace", "read", "read_many", "publish", "publish_many"]),
        late=st.booleans(),
        times=st.integers(1, 2),
        conflict=st.booleans(),
    )
    def fail(self, method: str, late: bool, times: int, conflict: bool) -> None:
        writes = method in ("create", "replace")
        error = Conflict("made to conflict") if conflict and writes else Unavailable("made to fail")
        self.dapr.fail(method, error, times=times, after_doing=(late and writes) or (late and method == "publish"))

    @rule(seconds=st.sampled_from([1, 10, 100]), idle=st.booleans(), dies=st.booleans())
    def sweep(self, seconds: float, idle: bool, dies: bool) -> None:
        if dies:
            self.new_worker()
        self.run(self.swept(seconds, idle))

    async def swept(self, seconds: float, idle: bool) -> None:
        """Time passes, and is looked at."""
        self.clock.ahead += seconds
        older = jobs.update().where(jobs.c.handed_over_at.is_not(None))
        older = older.values(handed_over_at=jobs.c.handed_over_at - seconds)
        await self.world.gateway.ledger.database.transact(lambda connection: connection.execute(older), durable=False)
        await self.beat(idle)
        await self.world.sweep()
        await self.quiet()

    async def beat(self, idle: bool) -> None:
        """The worker there is says that it lives."""
        await self.runner.beat(in_hand=[] if idle else list(self.seen), idle_for=1_000 if idle else None)

    def rows(self) -> dict[str, Any]:
        """The jobs as the ledger has them."""
        found = self.run(
            self.world.gateway.ledger.read(lambda connection: connection.execute(select(jobs)).mappings().all())
        )
        return {row["id"]: row for row in found}

    @invariant()
    def records_change_by_the_table_and_end_once(self) -> None:
        for job_id, statuses in self.writes.items():
            steps = zip([Status.QUEUED, *statuses], statuses, strict=False)
            assert all(may_change(before, after) for before, after in steps), (job_id, statuses)
            assert sum(status.is_final for status in statuses) <= 1

    @invariant()
    def the_ledger_has_every_job_and_takes_no_end_back(self) -> None:
        rows = self.rows()
        assert rows.keys() == self.seen.keys()
        for job_id, row in rows.items():
            status, before = Status(row["status"]), self.seen[job_id]
            if before.is_final:
                assert status is before
            if status.is_final:
                record = self.world.record(job_id)
                assert record is not None
                assert record.status is status
                assert row["handed_over_at"] is None
            self.seen[job_id] = status

    def teardown(self) -> None:
        """Everything works again: every job that was accepted ends."""
        try:
            self.dapr.failures.clear()
            self.new_worker()
            self.run(self.drained())
            assert all(status.is_final for status in self.seen.values()), self.seen
            for job_id in self.seen:
                assert sum(status.is_final for status in self.writes[job_id]) == 1
        finally:
            self.run(self.manager.__aexit__(None, None, None))
            self.loop.close()
            self.patch.undo()
            self.folder.cleanup()

    async def drained(self) -> None:
        """Sweep, and run what is handed over, until nothing is left."""
        for _ in range(30):
            for job_id in self.seen:
                self.seen[job_id] = Status((await self.world.job(job_id))["status"])
            if all(status.is_final for status in self.seen.values()):
                return
            before = len(self.published(TOPIC))
            await self.swept(100, idle=True)
            for body in self.published(TOPIC)[before:]:
                await self.worked(body, "succeed", 3)


Gateway.TestCase.settings = settings(max_examples=25, stateful_step_count=30, suppress_health_check=list(HealthCheck))
TestGateway = Gateway.TestCase
