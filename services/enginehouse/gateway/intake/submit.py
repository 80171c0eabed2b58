"""Accepts jobs. A job whose id is returned here reaches a final state, whichever part crashes."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from enginehouse.audit.calls import note_accepted
from enginehouse.checkers import Checkers
from enginehouse.contracts.engine import EngineCard
from enginehouse.contracts.errors import InputTooLarge, QueueFull, RequestError
from enginehouse.contracts.json_text import wire_json
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import DEFAULT_CARD, KnownEngine
from enginehouse.gateway.handover.dispatch import Dispatcher
from enginehouse.gateway.intake.submission import AcceptedJob, Submission, idempotency_of, row_of
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.accept import IdempotencyKey, NewJob
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow
from enginehouse.gateway.notify.webhooks import Webhooks
from enginehouse.gateway.objects import Objects, input_key, is_jobs_own
from enginehouse.gateway.outcome.expected_jobs import ExpectedJobs
from enginehouse.gateway.tenants.limits import Limits
from enginehouse.gateway.tenants.stored_bytes import StoredBytes

_QUEUE_FULL_RETRY_SECONDS = 5


class Submitter:
    """Turns submissions into accepted jobs."""

    def __init__(
        self,
        ledger: Ledger,
        catalogue: Catalogue,
        dispatcher: Dispatcher,
        expected: ExpectedJobs,
        checkers: Checkers,
        *,
        limits: Limits,
        webhooks: Webhooks,
        objects: Objects | None,
        stored: StoredBytes,
        inline_max_bytes: int,
    ) -> None:
        """Move inputs larger than `inline_max_bytes` to the object store; without one, refuse them."""
        self._ledger = ledger
        self._catalogue = catalogue
        self._dispatcher = dispatcher
        self._expected = expected
        self._checkers = checkers
        self._limits = limits
        self._webhooks = webhooks
        self._objects = objects
        self._stored = stored
        self._inline_max_bytes = inline_max_bytes
        self._arriving: Counter[str] = Counter()
        """Number of each engine's jobs that are being accepted at this moment."""
        self._arriving_of: Counter[tuple[str, str]] = Counter()
        """The same, by engine and tenant."""

    async def submit(self, submission: Submission) -> AcceptedJob:
        """Check and accept one job.

        Raise RequestError, naming the fault, or QueueFull or RateLimited with the time to wait.
        """
        with self._limits.admitting(submission.caller):
            if submission.request.webhook:
                self._webhooks.check(submission.caller.name, submission.request.webhook)
            engine = self._catalogue.resolve(
                submission.engine, submission.caller.name, is_admin=submission.caller.is_admin
            )
            card = engine.card or DEFAULT_CARD
            input_json = await self._checked_input(submission, engine)
            with self._place_in_queue(engine, card, submission.caller.name):
                row = row_of(submission, engine.id, card, input_json)
                accepted = await self._accept(submission, row, idempotency_of(submission, input_json), input_json)
                note_accepted(accepted.id, accepted.engine)
                return accepted

    @contextmanager
    def _place_in_queue(self, engine: KnownEngine, card: EngineCard, tenant: str) -> Iterator[None]:
        """Count a job while it is being accepted. Raise QueueFull if too many jobs wait or are about to wait."""
        about_to_wait = max(self._arriving[engine.id] - self._dispatcher.window(engine.id), 0)
        free = card.max_queued_jobs - self._dispatcher.backlog.of(engine.id) - about_to_wait
        if free <= 0:
            raise _queue_full(f"{engine.id} has {card.max_queued_jobs} jobs waiting, its limit")
        if engine.is_shared and tenant != engine.tenant:
            about_to_wait = min(self._arriving_of[engine.id, tenant], about_to_wait)
            self._check_share(engine, tenant, about_to_wait=about_to_wait, free=free)
        self._arriving[engine.id] += 1
        self._arriving_of[engine.id, tenant] += 1
        try:
            yield
        finally:
            self._arriving[engine.id] -= 1
            self._arriving_of[engine.id, tenant] -= 1
            if not self._arriving_of[engine.id, tenant]:
                del self._arriving_of[engine.id, tenant]

    def _check_share(self, engine: KnownEngine, tenant: str, *, about_to_wait: int, free: int) -> None:
        """Raise QueueFull if a tenant has its share of a shared engine's queue.

        A tenant may have as many jobs waiting as places are free (the dynamic threshold of Choudhury and Hahne, 1998):
        alone it gets half of the queue, n greedy tenants get 1/(n+1) each, and a newcomer always finds room.
        """
        waiting = self._dispatcher.backlog.of_tenant(engine.id, tenant) + about_to_wait
        if waiting >= free:
            raise _queue_full(
                f"{waiting} jobs of {tenant} wait for {engine.id}, its own share: no tenant may have more jobs in the "
                f"queue of a shared engine than places are free there, now {free}"
            )

    async def _accept(
        self, submission: Submission, row: JobRow, idempotency: IdempotencyKey | None, input_json: bytes | None
    ) -> AcceptedJob:
        if row.input_ref or (input_json is not None and len(input_json) > self._inline_max_bytes):
            row = await self._with_own_object(row, input_json)
        self._expected.expect(row.id, row.engine)
        window = self._dispatcher.window(row.engine)
        try:
            inserted = await self._ledger.insert(NewJob(row, window, idempotency, submission.redrives))
        except BaseException as error:
            self._expected.forget(row.id)
            if isinstance(error, RequestError):
                await self._delete_own_object(submission, row)
            raise
        if inserted.existing:
            self._expected.forget(row.id)
            await self._delete_own_object(submission, row)
            existing = await self._ledger.read(read.job, inserted.job_id)
            return AcceptedJob(inserted.job_id, existing.engine if existing else row.engine, existing=True)
        self._limits.accepted(submission.caller.name)
        if inserted.handed_over:
            self._dispatcher.send(row)
        else:
            self._dispatcher.note_waiting(row)
            self._dispatcher.wake(row.engine)
        return AcceptedJob(row.id, row.engine, existing=False)

    async def _with_own_object(self, row: JobRow, input_json: bytes | None) -> JobRow:
        """Give the job an object of its own, if its input is large or is the object of another job."""
        own = input_key(row.tenant, row.id)
        if input_json is not None:
            assert self._objects is not None
            with self._stored.writing(own, len(input_json)):
                await self._objects.put(own, input_json)
            return row._replace(input=None, input_ref=own)
        if self._objects and row.input_ref and is_jobs_own(row.input_ref):
            # The job is a retry, and the old job's object will be deleted with the old job.
            with self._stored.writing(own, await self._objects.size(row.input_ref) or 0):
                await self._objects.copy(row.input_ref, own)
            return row._replace(input_ref=own)
        return row

    async def _delete_own_object(self, submission: Submission, row: JobRow) -> None:
        """Delete the object of a job that was not accepted."""
        if self._objects and row.input_ref and row.input_ref != submission.request.input_ref:
            await self._objects.delete([row.input_ref])

    async def _checked_input(self, submission: Submission, engine: KnownEngine) -> bytes | None:
        """Return the input as JSON; None for an upload, whose content only the engine checks."""
        request = submission.request
        if request.input_ref is not None:
            await self._check_reference(submission, request.input_ref, self._input_max_bytes(engine))
            return None
        input_json = submission.input_json
        if input_json is None:
            input_json = wire_json("input", request.input)
        limit = self._input_max_bytes(engine)
        if len(input_json) > limit:
            raise InputTooLarge(f"input has {len(input_json)} bytes as JSON; {limit} are allowed at {engine.id}")
        if engine.schema is None:
            return input_json
        caller = submission.caller.name
        if submission.input_json is None:
            await engine.schema.check(request.input, len(input_json), checkers=self._checkers, caller=caller)
        else:
            await engine.schema.check_text(input_json, checkers=self._checkers, caller=caller)
        return input_json

    def _input_max_bytes(self, engine: KnownEngine) -> int:
        if self._objects is None:
            return self._inline_max_bytes
        return self._objects.max_bytes_at(engine.id)

    async def _check_reference(self, submission: Submission, input_ref: str, limit: int) -> None:
        if submission.request.input is not None or submission.input_json is not None:
            raise RequestError("A job has an input or an input_ref, not both")
        if self._objects is None:
            raise RequestError("input_ref: this gateway has no object store; send the input inline")
        if submission.retry_of and is_jobs_own(input_ref):
            return
        # A cloud's store takes uploads without the gateway, which sees their size here first.
        self._stored.note_upload(input_ref, await self._objects.check_upload(submission.caller.name, input_ref, limit))


def _queue_full(detail: str) -> QueueFull:
    return QueueFull(detail, retry_after_seconds=_QUEUE_FULL_RETRY_SECONDS)
