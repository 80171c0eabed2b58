"""Runs one admitted job: takes a place at a replica, fetches a large input, runs the attempt, stores a large output."""

import structlog

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.events import HandedJob, JobObjects
from enginehouse.contracts.moments import now
from enginehouse.contracts.proofs import EngineKey
from enginehouse.runner.admit import Admission, Ending, Run, Settle
from enginehouse.runner.attempt import Attempt, Execution
from enginehouse.runner.containers import EngineContainers
from enginehouse.runner.execute import Executor
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.runner.objects import ObjectAccess
from enginehouse.runner.outcome import Failed, HandedBack
from enginehouse.runner.pace import Pace
from enginehouse.runner.progress import ProgressPublisher
from enginehouse.runner.replicas import Place
from enginehouse.runner.tenants import Asker
from enginehouse.sidecar.base import Sidecar

_log = structlog.get_logger(__name__)


class JobHandler:
    """Runs the jobs that were admitted."""

    def __init__(
        self,
        sidecar: Sidecar,
        admission: Admission,
        executor: Executor,
        objects: ObjectAccess,
        metrics: RunnerMetrics,
        containers: EngineContainers,
        pace: Pace,
        *,
        spec: EngineSpec,
        worker: str,
        key: EngineKey,
        pubsub: str,
    ) -> None:
        self._sidecar = sidecar
        self._admission = admission
        self._executor = executor
        self._objects = objects
        self._metrics = metrics
        self._containers = containers
        self._look_again_seconds = pace.look_again_seconds
        self._engine_id, self._version = spec.id, spec.version
        self._worker = worker
        self._key = key
        self._pubsub = pubsub

    def begin(self, event: HandedJob, run: Run) -> Execution:
        """Return a new attempt at the job, which starts now."""
        attempt = Attempt(
            job_id=event.id,
            number=run.number,
            worker=self._worker,
            version=self._version,
            image=self._containers.image,
            order=event.data,
            started_at=now(),
            takes_over=run.takes_over,
            traceparent=event.traceparent,
        )
        return Execution(attempt, record_seen=run.record_seen)

    async def run(self, event: HandedJob, run: Run) -> Ending:
        """Run the job once a replica has a place for it, and return how its delivery ends.

        A job that waited is judged again first: it may have been canceled meanwhile, and is then not run.
        """
        async with self._executor.place(Asker(event.tenantid, event.data.weight)) as place:
            if place.replica is not None and place.waited_seconds > self._look_again_seconds:
                judgement = await self._admission.look_again(event)
                if not isinstance(judgement, Run):
                    return judgement
                run = judgement
            execution = self.begin(event, run)
            self._metrics.running.inc()
            try:
                return await self._attempt(event, execution, place)
            except EnginehouseError:
                raise
            except Exception:
                _log.exception("An attempt failed inside the runner", action="attempt_broke", job_id=event.id)
                return Settle(execution, Failed("the runner could not carry out this attempt"))
            finally:
                self._metrics.running.dec()

    async def _attempt(self, event: HandedJob, execution: Execution, place: Place) -> Ending:
        progress = ProgressPublisher(self._sidecar, self._engine_id, self._key, self._pubsub, execution)
        execution.on_line = progress.add_line
        objects = event.data.objects
        if (
            objects is not None
            and (ending := await self._prepare(event, execution, objects=objects, place=place)) is not None
        ):
            return ending
        outcome = await self._executor.run(execution, place)
        execution.on_line = None  # Break the circle of references, so that no garbage collection is needed for it.
        if objects is not None:
            outcome = await self._objects.store_output(execution.attempt, objects, outcome)
        await progress.flush()
        return Settle(execution, outcome)

    async def _prepare(
        self, event: HandedJob, execution: Execution, *, objects: JobObjects, place: Place
    ) -> Ending | None:
        """Fetch the job's large input, if it has one. Return None if the job is to be run, or how its delivery ends."""
        if self._objects.must_be_renewed(execution.attempt, objects):
            return Settle(execution, HandedBack("the URLs of its objects are too old"))
        if objects.output_url is not None:
            execution.output_max_bytes = self._objects.output_max_bytes(objects)
        if objects.input_url is None or place.replica is None:
            return None
        fetched = await self._objects.fetch_input(objects, event.tenantid)
        if not isinstance(fetched, bytes):
            return Settle(execution, fetched)
        judgement = await self._admission.look_again(event)
        if not isinstance(judgement, Run):
            return judgement
        execution.become(judgement.number, judgement.takes_over)
        execution.record_seen = judgement.record_seen
        execution.input_json = fetched
        return None
