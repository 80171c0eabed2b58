"""Takes the dead-letter topic's deliveries: ends the jobs that they name, and keeps what names none.

A runner dead-letters what it cannot read; a sidecar dead-letters the event itself if it cannot even deliver it.
"""

import hashlib
import time
from typing import NamedTuple

import pydantic_core
import structlog

from enginehouse.contracts.errors import EnginehouseError, InvalidName, Malformed
from enginehouse.contracts.events import DEAD_LETTERED, JOB_REQUESTED, DeadLetter
from enginehouse.contracts.names import EngineId, engine_of, is_job_id
from enginehouse.contracts.text import storable, without_signatures
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import DeadLetterRow
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.records import Records
from enginehouse.sidecar.delivery import Deliver, raw_payload

log = structlog.get_logger()

_EVENT_MAX_CHARACTERS = 64 * 1024
UNPARSABLE = "UNPARSABLE"


def _kept(event: str) -> str:
    """Return an event's text as it is kept: whoever reads a dead letter gets no right to a job's objects."""
    return without_signatures(storable(event[:_EVENT_MAX_CHARACTERS]))


def _cause(row: DeadLetterRow) -> str:
    return row.error.message if row.error else "its engine's sidecar could not deliver it"


class Letter(NamedTuple):
    """A delivery of the topic."""

    row: DeadLetterRow
    engine_id: str | None = None
    job_id: str | None = None
    """The job that it names, of the engine that it names. Nothing proves them yet."""


def read_letter(body: bytes) -> Letter:
    """Read a delivery. A runner's dead letter belongs to the tenant; one that cannot be parsed belongs to operators."""
    raw = raw_payload(body)
    row = DeadLetterRow(
        id=hashlib.sha256(raw).hexdigest(),
        tenant=None,
        engine=None,
        job_id=None,
        reason=UNPARSABLE,
        attempts=0,
        error=None,
        event=_kept(raw.decode("utf-8", "replace")),
        created_at=time.time(),
        redriven_as=None,
    )
    try:
        event = pydantic_core.from_json(raw)
        engine = EngineId.parse(event["engineid"])
        if event["type"] == JOB_REQUESTED:
            return Letter(row, str(engine), storable(str(event["id"])))
        if event["type"] != DEAD_LETTERED:
            return Letter(row)
        letter = DeadLetter.model_validate(event["data"])
    except (ValueError, KeyError, TypeError, InvalidName, Malformed):
        return Letter(row)
    row = row._replace(
        tenant=engine.tenant,
        engine=str(engine),
        reason=storable(letter.reason)[:40],
        attempts=letter.attempts,
        error=letter.error,
        event=_kept(letter.event),
    )
    return Letter(row, str(engine), letter.job_id)


def receiver(ledger: Ledger, records: Records) -> Deliver:
    """Make the function that takes the dead-letter topic's deliveries."""

    async def ends_its_job(letter: Letter) -> bool:
        """End the job that a letter names; return False if it names no job of its engine by the ledger.

        Otherwise the job would be handed over again and again, and come back each time.
        """
        if letter.job_id is None or not is_job_id(letter.job_id):
            return False
        job = await ledger.read(read.job, letter.job_id)
        if job is None or engine_of(job.engine) != letter.engine_id:
            return False
        if not job.status.is_final:
            await records.decide(job, decisions.unparsable(_cause(letter.row)))
        log.warning(
            f"A delivery of a job came back unreadable: {_cause(letter.row)}",
            action="job_unparsable",
            engine_id=job.engine,
            tenant=job.tenant,
            job_id=job.id,
        )
        return True

    async def deliver(body: bytes) -> bool:
        letter = read_letter(body)
        row = letter.row
        try:
            if await ends_its_job(letter):
                return True  # The job itself is a dead letter now, of its own tenant.
            await ledger.keep_dead_letter(row)
        except EnginehouseError as error:
            log.warning(
                f"A dead letter cannot be kept now and will be delivered again: {error}", action="dead_letter_waits"
            )
            return False
        log.warning(
            f"A delivery was dead-lettered: {row.reason}",
            action="dead_lettered",
            engine_id=row.engine,
            tenant=row.tenant,
            dead_letter=row.id,
        )
        return True

    return deliver
