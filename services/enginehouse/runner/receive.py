"""Takes deliveries, and answers each when its job is settled. A second delivery joins the job that is in hand."""

import asyncio

import structlog

from enginehouse.contracts.errors import EnginehouseError, Malformed
from enginehouse.contracts.events import HandedJob
from enginehouse.contracts.moments import now
from enginehouse.runner.admit import FIRST_RUN, Acknowledge, Admission, Judgement, Rewrite, Run, Settle
from enginehouse.runner.attempt import Execution
from enginehouse.runner.execute import NO_JOBS_NOW
from enginehouse.runner.handle import JobHandler
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.runner.outcome import Failed, HandedBack, Outcome, jittered
from enginehouse.runner.read import DeliveryReader
from enginehouse.runner.settle import Settler

_log = structlog.get_logger(__name__)

_STOPPING_DELAY_SECONDS = 2.0


class Receiver:
    """The delivery endpoint of one engine. `deliver` acknowledges with True and asks for another delivery with False."""

    def __init__(
        self,
        reader: DeliveryReader,
        admission: Admission,
        handler: JobHandler,
        settler: Settler,
        metrics: RunnerMetrics,
    ) -> None:
        self._reader = reader
        self._admission = admission
        self._handler = handler
        self._settler = settler
        self._metrics = metrics
        self._in_hand: dict[str, asyncio.Task[bool]] = {}
        self._answers: dict[str, asyncio.Future[bool]] = {}
        """Whether the delivery of each job in hand may be acknowledged: known when the job is settled, or claimed here by a worker that leaves."""
        self._has_claim: set[str] = set()
        self._is_letting_go = False
        self.draining = False
        """True while the worker stops: every delivery goes back to the queue at once."""
        self.stopped = False
        """True while the gateway has stopped the engine: every delivery goes back to the queue at once."""

    @property
    def in_hand(self) -> list[str]:
        """Ids of the jobs delivered and not yet settled."""
        return list(self._in_hand)

    async def wait_until_idle(self) -> None:
        """Wait until no job is in hand."""
        while self._in_hand:
            await asyncio.wait(list(self._in_hand.values()))

    async def deliver(self, body: bytes) -> bool:
        """Take one delivery. Return, when all its jobs are settled, whether the delivery is acknowledged.

        If one of several must come again, all do: those that have ended are known by their records.
        """
        try:
            event = self._reader.read(body)
        except Malformed as error:
            return await self._reader.dead_letter(body, error)
        # No job is canceled with its delivery: it goes on, and another delivery of it may wait for it as well.
        answers = [answer for job in event.jobs if (answer := self._begin(job, body)) is not None]
        if answers:
            await asyncio.wait(answers)
        return all(answer.result() for answer in answers)

    def _begin(self, job: HandedJob, body: bytes) -> "asyncio.Future[bool] | None":
        """Begin to handle a job, or join it if it is in hand; return None if its time is over."""
        if job.expirytime <= now():
            self._metrics.deliveries.labels("expired").inc()
            _log.info(
                "A delivery came after its job's time in the queue and is not run",
                action="delivery_expired",
                job_id=job.id,
            )
            return None
        if job.id in self._in_hand:
            self._metrics.deliveries.labels("joined").inc()
            _log.info("A second delivery joins the job that runs", action="delivery_joined", job_id=job.id)
            return self._answers[job.id]
        self._metrics.deliveries.labels("taken").inc()
        handling = self._in_hand[job.id] = asyncio.create_task(self._handle(job, body))
        answer = self._answers[job.id] = asyncio.get_running_loop().create_future()
        handling.add_done_callback(lambda _: self._forget(job.id))
        return answer

    def note_claimed(self, job_id: str) -> None:
        """Note that the record says that the job runs here: if this worker vanishes, the gateway finds it."""
        if job_id in self._in_hand:
            self._has_claim.add(job_id)
            if self._is_letting_go:
                self._may_acknowledge(job_id)

    def let_go(self) -> None:
        """Acknowledge the deliveries of jobs as soon as they are claimed, and not when they have ended.

        A sidecar does not end a subscription while deliveries of it are in hand. Until then it takes in more, and never
        delivers it.
        """
        self._is_letting_go = True
        for job_id in self._has_claim:
            self._may_acknowledge(job_id)

    def _may_acknowledge(self, job_id: str) -> None:
        if not self._answers[job_id].done():
            self._answers[job_id].set_result(True)

    def _forget(self, job_id: str) -> None:
        handling, answer = self._in_hand.pop(job_id), self._answers.pop(job_id)
        self._has_claim.discard(job_id)
        if not answer.done():
            if handling.cancelled():
                answer.cancel()
            elif error := handling.exception():
                answer.set_exception(error)
            else:
                answer.set_result(handling.result())

    async def _handle(self, event: HandedJob, body: bytes) -> bool:
        try:
            return await self._take(event)
        except Malformed as error:
            return await self._reader.dead_letter(body, error, event.id)
        except EnginehouseError as error:
            _log.warning(
                "A delivery cannot be judged now, so it is asked for again",
                action="deliver_again",
                job_id=event.id,
                error=str(error),
            )
            return False
        except Exception:
            _log.exception(
                "A delivery could not be handled, so it is asked for again", action="deliver_again", job_id=event.id
            )
            return False

    async def _take(self, event: HandedJob) -> bool:
        judgement: Judgement
        if self.draining or self.stopped:
            judgement = self._hand_back(event)
        elif self._admission.is_fresh(event):
            judgement = FIRST_RUN
        else:
            judgement = await self._admission.look(event)
        if isinstance(judgement, Run):
            judgement = await self._handler.run(event, judgement)
        match judgement:
            case Settle(execution, outcome):
                self._count(execution, outcome)
                return await self._settler.settle(execution, outcome)
            case Acknowledge(reason):
                self._metrics.deliveries.labels("skipped").inc()
                _log.info(
                    "A delivery is acknowledged and its job is not run",
                    action="delivery_skipped",
                    job_id=event.id,
                    reason=reason,
                )
                return True
            case Rewrite(ended):
                return await self._settler.rewrite(event, ended)

    def _hand_back(self, event: HandedJob) -> Settle:
        reason = "the worker stops" if self.draining else NO_JOBS_NOW
        execution = self._handler.begin(event, Run(event.attempt))
        return Settle(execution, HandedBack(reason, delay_seconds=jittered(_STOPPING_DELAY_SECONDS)))

    def _count(self, execution: Execution, outcome: Outcome) -> None:
        kind = type(outcome).__name__
        job_id = execution.attempt.job_id
        self._metrics.jobs.labels(_LABELS[kind]).inc()
        if execution.predict_time is not None:
            self._metrics.predict_seconds.observe(execution.predict_time)
        _log.debug("An attempt ended", action="attempt_ended", job_id=job_id, outcome=kind)
        if isinstance(outcome, Failed):
            _log.warning(
                "The engine failed in an attempt",
                action="attempt_failed",
                job_id=job_id,
                attempt=execution.attempt.number,
                code=outcome.code,
                error=outcome.message,
            )


_LABELS = {
    "Succeeded": "succeeded",
    "Rejected": "rejected",
    "Failed": "failed",
    "TimedOut": "timed_out",
    "WorkerLost": "worker_lost",
    "HandedBack": "handed_back",
    "Superseded": "superseded",
}
