"""The real gateway, dispatcher and runner together, over a broker and a store that fail, conflict and answer late."""

import asyncio
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import invariant
from tests.support.gateway import ECHO
from tests.support.runner import runner_settings
from tests.support.waiting import until_async
from tests.unit.test_gateway_state_machine import STORE, Gateway

from enginehouse.contracts import names
from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.events import JobEvent
from enginehouse.contracts.job import Status
from enginehouse.runner.app import Runner
from enginehouse.runner.clients.base import EngineClient, Health, Prediction, Reply
from enginehouse.runner.outcome import Failed, Rejected, Succeeded
from enginehouse.runner.pace import Pace
from enginehouse.runner.schema import Description
from enginehouse.sidecar.fake import FakeSidecar

# Hypothesis makes a failing example smaller before it reports it, which takes minutes.
pytestmark = pytest.mark.timeout(600)


class Engine:
    """An engine that treats each job as `how` says, and numbers its answers."""

    address = "127.0.0.1:1"
    warning: str | None = None

    def __init__(self, world: "Whole") -> None:
        self._world = world
        self.how = "succeed"
        self.hanging: set[str] = set()

    async def predict(self, prediction: Prediction) -> Reply:
        """Run a job once."""
        self._world.begun(prediction.job_id)
        if self.how == "claim":
            self.hanging.add(prediction.job_id)
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging.discard(prediction.job_id)
        if self.how == "fail":
            return Rejected("not this one")
        if self.how == "retry":
            return Failed("not this time")
        return Succeeded(self._world.answer(prediction.job_id))

    async def cancel(self, job_id: str) -> bool:
        """Stop at once."""
        return True

    async def health(self) -> Health:
        """Be healthy always."""
        return Health(True)

    async def describe(self) -> Description:
        """Return no description."""
        return Description()

    async def close(self) -> None:
        """Do nothing: there are no connections."""


class MortalSidecar(FakeSidecar):
    """The sidecar of a runner that can be killed: after that, no call of it ever ends."""

    killed = False

    async def _enter(self, method: str, component: str | None = None, *on: str) -> Exception | None:
        if self.killed:
            await asyncio.Event().wait()
        return await super()._enter(method, component, *on)


class Whole(Gateway):
    """The gateway's state machine, with a real runner instead of the scripted one."""

    def __init__(self) -> None:
        self.engine: Engine
        self.mortal: MortalSidecar
        self.real: Runner | None = None
        self.deliveries: set[asyncio.Task[bool]] = set()
        self.answers: dict[str, set[int]] = defaultdict(set)
        self.late: list[str] = []
        super().__init__()

    def new_worker(self) -> None:
        """Kill the worker and start another one."""
        super().new_worker()
        if self.real:
            self.mortal.killed = True
            self.run(self.real.objects.close())
            # The heartbeat of the killed worker runs out.
            self.dapr.stores[STORE].pop(names.worker_key(f"worker-{self.workers - 1}"), None)
        self.run(self.start_runner())

    async def start_runner(self) -> None:
        """Start another runner with a healthy engine."""
        self.engine = Engine(self)
        engine: EngineClient = self.engine
        self.mortal = MortalSidecar(self.dapr, names.app_id(ECHO, "a"))
        its_settings = runner_settings(
            Path(self.folder.name), "http://127.0.0.1:1", worker=f"worker-{self.workers}", claim_after_seconds=0.001
        )
        self.real = Runner(
            its_settings,
            # More than the jobs of an example: one that waits for a place would wait for those that hang.
            EngineSpec(tenant="acme", name="echo", concurrency=256),
            self.mortal,
            Pace(settle_retry_first_seconds=0),
            make_client=lambda _: engine,
        )
        for replica in self.real.pool.replicas:
            self.real.pool.set_health(replica, True)

    def begun(self, job_id: str) -> None:
        """Note that a run begins at the engine."""
        record = self.world.record(job_id)
        if record and record.status in (Status.SUCCEEDED, Status.FAILED):
            self.late.append(job_id)

    def answer(self, job_id: str) -> int:
        """Return an answer that no other run gives."""
        number = sum(map(len, self.answers.values()))
        self.answers[job_id].add(number)
        return number

    async def worked(self, body: bytes, how: str, part: int) -> None:
        """Deliver jobs, and wait until the delivery is answered, or the runs of all its jobs that have not ended hang."""
        assert self.real
        receiver, engine = self.real.receiver, self.engine
        ids = {job.id for job in read_event(JobEvent, body).jobs}
        engine.how = how
        delivery = asyncio.create_task(receiver.deliver(body))
        self.deliveries.add(delivery)
        # The first may have ended long ago, while others hang since an earlier delivery.
        await until_async(
            lambda: delivery.done() or ((left := ids.intersection(receiver.in_hand)) and left <= engine.hanging)
        )

    async def beat(self, idle: bool) -> None:
        """Write a heartbeat with the jobs that the runner really has, whatever the machine asks for."""
        assert self.real
        in_hand = self.real.receiver.in_hand
        await self.runner.beat(in_hand=in_hand, idle_for=None if in_hand else 1_000)

    def teardown(self) -> None:
        """Close the connections that a killed runner leaves, which only the end of its process would close."""
        super().teardown()
        assert self.real
        asyncio.run(self.real.objects.close())

    @invariant()
    def a_result_is_what_a_run_gave_and_nothing_runs_after_an_answer(self) -> None:
        for job_id in self.seen:
            record = self.world.record(job_id)
            if record and record.status is Status.SUCCEEDED:
                assert record.output in self.answers[job_id]
        assert not self.late


Whole.TestCase.settings = settings(max_examples=25, stateful_step_count=30, suppress_health_check=list(HealthCheck))
TestWhole = Whole.TestCase
