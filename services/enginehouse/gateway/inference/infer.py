"""Runs an infer request as a job, and waits for its end. A caller that goes away cancels its job.

Whoever asks synchronously is told the job's id only with the answer: without one, nobody would ever read the result, and the
engine would work for nobody. With an idempotency key the caller can come back for it, so then the job goes on.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from enginehouse.background import Background
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobErrorCode, JobRequest, Status
from enginehouse.gateway.engines.known_engine import DEFAULT_CARD, KnownEngine
from enginehouse.gateway.inference.metadata import known_outputs
from enginehouse.gateway.inference.requests import Ended, Infer, Model, check_outputs
from enginehouse.gateway.intake.bodies import Bodies
from enginehouse.gateway.intake.submission import AcceptedJob, Submission
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.objects import Objects
from enginehouse.gateway.tenants.limits import BytesInHand
from enginehouse.gateway.tenants.loop_time import LoopTime
from enginehouse.gateway.tenants.tenants import Caller

MAX_SECONDS = 60.0
"""Longest wait for a job's end, as for other calls that wait."""
T = TypeVar("T")


class InferFailed(EnginehouseError):
    """The job of an infer request has no result."""

    def __init__(self, job_id: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.job_id = job_id
        self.reason = reason
        """A JobErrorCode, or NOT_ENDED."""


NOT_ENDED = "NOT_ENDED"


class Inference:
    """Answers infer requests."""

    def __init__(
        self, jobs: Jobs, bodies: Bodies, bytes_in_hand: BytesInHand, loop_time: LoopTime, objects: Objects | None
    ) -> None:
        self._jobs = jobs
        self._loop_time = loop_time
        self._bodies = bodies
        self._bytes_in_hand = bytes_in_hand
        self._objects = objects
        self._background = Background()

    async def close(self) -> None:
        """Give the cancels under way a moment to finish."""
        await self._background.close(finish_seconds=1)

    async def read(
        self, caller: Caller, engine: KnownEngine, read: Callable[..., Infer], body: bytes, *more: Any
    ) -> Infer:
        """Return the request in a body: `read(body, *more, model)`. A large body is read in a process of its own.

        Raise InvalidInput for an output that the engine's card does not know, before the engine works for it.
        """
        card = engine.card or DEFAULT_CARD
        model = Model(engine.id, card.speaks_tensors, {} if card.speaks_tensors else card.input_schema)
        infer: Infer = await self._bodies.read(caller.name, read, body, *more, model)
        if infer.outputs and (known := known_outputs(card)):
            check_outputs(infer.outputs, known)
        return infer

    async def run(
        self,
        caller: Caller,
        engine: KnownEngine,
        infer: Infer,
        *,
        seconds: float,
        idempotency_key: str | None,
        traceparent: str | None,
    ) -> JobRow:
        """Accept the request as a job, and return its row once it has succeeded.

        Raise what a submit raises, and InferFailed if the job ends otherwise, or not in `seconds`. When this is canceled, so
        is the job.
        """
        request = JobRequest(input=infer.input, parameters=infer.parameters)
        submission = Submission(
            caller, engine.id, request, idempotency_key, traceparent=traceparent, input_json=infer.input_json
        )
        accepted: asyncio.Future[AcceptedJob] = asyncio.get_running_loop().create_future()
        ending = self._jobs.submit_and_end(submission, seconds, accepted.set_result)
        # A task of its own, so that a caller that goes away in the middle of a submit leaves no job that nobody knows.
        job = asyncio.create_task(self._loop_time.share(caller.name, ending))
        try:
            row = await asyncio.shield(job)
        except asyncio.CancelledError:
            self._background.start(self._abandon(caller, job, accepted, keep=idempotency_key is not None))
            raise
        if not row.status.is_final:
            kept = idempotency_key is not None
            if not kept:
                await self._cancel(caller, row.id)
            what = "goes on" if kept else "is canceled; submit long jobs to /v1"
            raise InferFailed(row.id, NOT_ENDED, f"Job {row.id} did not end in {seconds:.3g} s, and {what}")
        return _succeeded(row)

    async def _abandon(
        self, caller: Caller, job: "asyncio.Task[JobRow]", accepted: "asyncio.Future[AcceptedJob]", *, keep: bool
    ) -> None:
        """Cancel the job of a caller that went away. It may still be on its way into the ledger."""
        waiting: list[asyncio.Future[Any]] = [job, accepted]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if accepted.done() and not keep:
            await self._cancel(caller, accepted.result().id)
        job.cancel()
        with contextlib.suppress(EnginehouseError, asyncio.CancelledError):
            await job

    async def _cancel(self, caller: Caller, job_id: str) -> None:
        with contextlib.suppress(EnginehouseError):
            await self._jobs.cancel(caller, job_id)

    async def write(
        self, caller: Caller, name: str, row: JobRow, infer: Infer, write: Callable[[bytes, Model, Ended], T]
    ) -> T:
        """Return `write(output, model, ended)` of a job that succeeded. A large output is written in another process.

        Whatever is raised names the job: its result is there, and can be read under /v1.
        """
        try:
            return await self._write(caller, name, row, infer, write)
        except EnginehouseError as error:
            error.args = (f"Job {row.id} succeeded, but its answer could not be written: {error}",)
            raise

    async def _write(
        self, caller: Caller, name: str, row: JobRow, infer: Infer, write: Callable[[bytes, Model, Ended], T]
    ) -> T:
        engine = self._jobs.catalogue.get(row.engine)
        card = (engine.card if engine else None) or DEFAULT_CARD
        model = Model(name, card.speaks_tensors, {} if card.speaks_tensors else card.output_schema)
        ended = Ended(row.id, row.version, infer.id, infer.outputs, infer.binary)
        if row.output_ref is None or self._objects is None:
            return await self._bodies.read(caller.name, write, (row.output or "null").encode(), model, ended)
        with self._bytes_in_hand.holding(caller.name) as hold:
            hold(await self._objects.size(row.output_ref) or 0)
            output = b"".join([chunk async for chunk in await self._objects.get(row.output_ref)])
            return await self._bodies.read(caller.name, write, output, model, ended)


def _succeeded(row: JobRow) -> JobRow:
    """Return the row of a job that succeeded; raise InferFailed, with the job's own error, for another one."""
    if row.status is Status.SUCCEEDED:
        return row
    error = row.error
    code = error.code if error else JobErrorCode.PREDICT_ERROR
    raise InferFailed(row.id, code, error.message if error else f"Job {row.id} is {row.status}")
