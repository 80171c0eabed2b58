"""Takes deliveries: decides whether a job is run, joined, acknowledged unrun, or dead-lettered as unreadable."""

import asyncio
import hashlib
from datetime import timedelta

import structlog

from enginehouse.contracts.cloud_event import read_event
from enginehouse.contracts.errors import EnginehouseError, Malformed
from enginehouse.contracts.events import JOB_REQUESTED, DeadLetter, JobEvent, dead_letter_event
from enginehouse.contracts.job import JobError
from enginehouse.contracts.moments import now
from enginehouse.contracts.names import DEAD_LETTERS_TOPIC, is_job_id, jobs_component
from enginehouse.runner.admit import Admission, Exhausted, Skip, lost_attempt
from enginehouse.runner.execute import NO_MORE, Executor
from enginehouse.runner.metrics import RunnerMetrics
from enginehouse.runner.objects import ObjectAccess
from enginehouse.runner.outcome import Attempt, Failed, HandedBack, Outcome, jittered
from enginehouse.runner.progress import Progress
from enginehouse.runner.replicas import Replica
from enginehouse.runner.settle import Settler
from enginehouse.sidecar.base import Sidecar
from enginehouse.sidecar.records import JobRecords

_log = structlog.get_logger(__name__)

FRESH = timedelta(seconds=0.5)
"""A first attempt published this recently runs without its record being read first.

An older one may have been canceled while it waited, or be a second delivery (brokers wait a minute or more for that) of a
job that another worker runs: reading first is what lets a job longer than the broker's clock run once.
"""
_WAITED_SECONDS = 0.02
"""A job that waited longer for a slot has its record read again; one that got it at once is spared the round trip."""
_EVENT_TEXT_MAX = 64 * 1024
_STOPPING_DELAY_SECONDS = 2.0


class Receiver:
    """The delivery endpoint of one engine. `deliver` acknowledges with True and asks for another delivery with False."""

    def __init__(
        self,
        sidecar: Sidecar,
        records: JobRecords,
        admission: Admission,
        executor: Executor,
        settler: Settler,
        objects: ObjectAccess,
        metrics: RunnerMetrics,
        *,
        predict_max_bytes: int,
        engine_id: str,
        worker: str,
        version: str,
    ) -> None:
        self._sidecar = sidecar
        self._records = records
        self._admission = admission
        self._executor = executor
        self._settler = settler
        self._objects = objects
        self._metrics = metrics
        self._predict_max_bytes = predict_max_bytes
        self._engine_id = engine_id
        self._worker = worker
        self._version = version
        self._began_at = now()
        self._in_hand: dict[str, asyncio.Task[bool]] = {}
        self.draining = False
        """Set to take nothing more: what is delivered goes back to the queue at once."""
        self.stopped = False
        """The same, for as long as the gateway has stopped the engine."""

    @property
    def in_hand(self) -> list[str]:
        """Ids of the jobs delivered and not yet settled."""
        return list(self._in_hand)

    async def settled(self) -> None:
        """Wait until nothing is in hand."""
        while self._in_hand:
            await asyncio.wait(list(self._in_hand.values()))

    async def deliver(self, body: bytes) -> bool:
        """Take one delivery, and answer when its job is settled."""
        try:
            event = self._read(body)
        except Malformed as error:
            return await self._dead_letter(body, error)
        if event.expirytime <= now():
            self._metrics.deliveries.labels("expired").inc()
            _log.info("A delivery came after its time and is not run", action="delivery_expired", job_id=event.id)
            return True
        handling = self._in_hand.get(event.id)
        if handling is None:
            self._metrics.deliveries.labels("taken").inc()
            handling = asyncio.create_task(self._handle(event, body))
            self._in_hand[event.id] = handling
            handling.add_done_callback(lambda _: self._in_hand.pop(event.id, None))
        else:
            self._metrics.deliveries.labels("joined").inc()
            _log.info("A second delivery joins the job that runs", action="delivery_joined", job_id=event.id)
        return await asyncio.shield(handling)

    def _read(self, body: bytes) -> JobEvent:
        event = read_event(JobEvent, body)
        if event.type != JOB_REQUESTED:
            raise Malformed(f"type: {event.type[:100]!r} is not {JOB_REQUESTED}")
        if event.engineid != self._engine_id:
            raise Malformed(f"engineid: {event.engineid[:100]!r} is not this engine, {self._engine_id}")
        if not is_job_id(event.id):
            raise Malformed(f"id: {event.id[:100]!r} is not a job id")
        return event

    async def _dead_letter(self, body: bytes, error: Malformed) -> bool:
        _log.warning("What was delivered is no job of this engine", action="dead_lettered", error=str(error))
        letter = DeadLetter(
            reason="UNPARSABLE",
            error=JobError(code=error.code, message=str(error)),
            event=body[:_EVENT_TEXT_MAX].decode("utf-8", "replace"),
        )
        # The same bytes get the same id, so that a second delivery is recognised as the same dead letter.
        event = dead_letter_event(self._engine_id, hashlib.sha256(body).hexdigest()[:32], letter)
        try:
            await self._sidecar.publish(jobs_component(self._engine_id), DEAD_LETTERS_TOPIC, event)
        except EnginehouseError as failure:
            _log.warning("A dead letter could not be published yet", action="dead_letter_failed", error=str(failure))
            return False
        self._metrics.deliveries.labels("unparsable").inc()
        return True

    async def _handle(self, event: JobEvent, body: bytes) -> bool:
        try:
            return await self._take(event)
        except Malformed as error:
            return await self._dead_letter(body, error)
        except EnginehouseError as error:
            _log.warning("A delivery cannot be judged yet", action="deliver_again", job_id=event.id, error=str(error))
            return False
        except Exception:
            _log.exception("A delivery could not be handled", action="deliver_again", job_id=event.id)
            return False

    async def _take(self, event: JobEvent) -> bool:
        attempt = self._attempt(event)
        if self.draining or self.stopped:
            reason = "the worker stops" if self.draining else NO_MORE
            return await self._finish(attempt, HandedBack(reason, jittered(_STOPPING_DELAY_SECONDS)))
        if not self._is_fresh(event) and (done := await self._admit(event, attempt)) is not None:
            return done
        waiting_since = asyncio.get_running_loop().time()
        replica = await self._executor.wait_for_slot()
        waited = asyncio.get_running_loop().time() - waiting_since
        if replica is not None and waited > _WAITED_SECONDS:
            done = await self._look_again(event, attempt, replica)
            if done is not None:
                return done
        attempt.started_at = now()
        self._metrics.running.inc()
        try:
            progress = Progress(self._sidecar, self._engine_id, attempt)
            attempt.tell = progress.line
            outcome = await self._run(event, attempt, replica)
            await progress.flush()
        except EnginehouseError:
            raise
        except Exception:
            _log.exception("An attempt broke inside the runner", action="attempt_broke", job_id=event.id)
            outcome = Failed("the runner could not carry out this attempt")
        finally:
            self._metrics.running.dec()
        return outcome if isinstance(outcome, bool) else await self._finish(attempt, outcome)

    async def _run(self, event: JobEvent, attempt: Attempt, replica: Replica | None) -> Outcome | bool:
        """One attempt, its large input fetched before and its large output stored after.

        Or the answer to the delivery, if the job is not to be run any more once its input is here.
        """
        objects = attempt.order.objects
        if objects is None:
            return await self._executor.run(attempt, replica)
        if objects.output_url is not None:
            attempt.output_max_bytes = min(self._predict_max_bytes, objects.max_bytes)
        if objects.input_url is not None and replica is not None:
            try:
                fetched = await self._objects.fetch(objects)
            except BaseException:
                self._executor.release(replica)
                raise
            if not isinstance(fetched, bytes):
                self._executor.release(replica)
                return fetched
            done = await self._look_again(event, attempt, replica)
            if done is not None:
                return done
            attempt.input_json = fetched
        return await self._objects.keep(objects, await self._executor.run(attempt, replica))

    def _attempt(self, event: JobEvent) -> Attempt:
        return Attempt(
            job_id=event.id,
            number=event.attempt,
            worker=self._worker,
            version=self._version,
            order=event.data,
            traceparent=event.traceparent,
        )

    async def _look_again(self, event: JobEvent, attempt: Attempt, replica: Replica) -> bool | None:
        """Judge a job after some time: it may be canceled, or past its own. As `_admit`; the slot is kept only to run."""
        done: bool | None = True
        try:
            if event.expirytime > now():
                done = await self._admit(event, attempt)
        finally:
            if done is not None:
                self._executor.release(replica)
        return done

    async def _admit(self, event: JobEvent, attempt: Attempt) -> bool | None:
        """Read the record and judge. None: `attempt` is to be run; else the answer to the delivery."""
        stored = await self._records.read(event.id)
        attempt.record_seen = stored is not None
        known = self._settler.settled.get(event.id)
        if known is not None and not (stored and stored.record.status.is_final):
            return await self._settler.restore(event, known)
        verdict = await self._admission.judge(
            event.id, event.attempt, event.data.retry.max_attempts, stored.record if stored else None
        )
        if isinstance(verdict, Skip):
            self._metrics.deliveries.labels("skipped").inc()
            _log.info("A delivery is not run", action="delivery_skipped", job_id=event.id, reason=verdict.reason)
            return True
        if isinstance(verdict, Exhausted):
            lost, outcome = lost_attempt(event, verdict.record)
            return await self._finish(lost, outcome)
        attempt.number, attempt.takes_over = verdict.number, verdict.takes_over
        return None

    async def _finish(self, attempt: Attempt, outcome: Outcome) -> bool:
        kind = type(outcome).__name__
        self._metrics.jobs.labels(_LABELS[kind]).inc()
        if attempt.predict_time is not None:
            self._metrics.predict_seconds.observe(attempt.predict_time)
        _log.debug("An attempt ended", action="attempt_ended", job_id=attempt.job_id, outcome=kind)
        if isinstance(outcome, Failed):
            _log.warning(
                "The engine failed",
                action="attempt_failed",
                job_id=attempt.job_id,
                attempt=attempt.number,
                code=outcome.code,
                error=outcome.message,
            )
        return await self._settler.settle(attempt, outcome)

    def _is_fresh(self, event: JobEvent) -> bool:
        """Whether this can only be the first delivery of a first attempt."""
        return (
            event.attempt == 1
            and event.handover == 1
            and event.time is not None
            and abs(now() - event.time) < FRESH
            # Published before we began: a worker before us may have run it.
            and event.time > self._began_at
            and event.id not in self._settler.settled
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
