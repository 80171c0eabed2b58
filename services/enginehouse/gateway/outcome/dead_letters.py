"""Takes the dead-letter topic's deliveries: ends the jobs that they name, and keeps what names none.

A runner dead-letters what it cannot read; a sidecar dead-letters the event itself if it cannot even deliver it.
"""

import hashlib
import time
from typing import Any, NamedTuple

import pydantic_core
import structlog

from enginehouse.contracts.base import WireModel
from enginehouse.contracts.errors import EnginehouseError, InvalidName
from enginehouse.contracts.events import DEAD_LETTERED, JOB_REQUESTED, DeadLetter, dead_letter_is_proven, proven_job
from enginehouse.contracts.names import EngineId, engine_of
from enginehouse.contracts.proofs import ProofKeys
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


class _Said(WireModel):
    """What an event on the topic says of itself. Nothing proves it."""

    id: str
    type: str
    engineid: str
    proof: Any = None
    data: Any = None


class Letter(NamedTuple):
    """A delivery of the topic."""

    row: DeadLetterRow
    engine_id: str | None = None
    job_id: str | None = None
    """The job of that engine which it ends; None if it shows no proof that this job was handed over to this engine."""


def read_letter(body: bytes, keys: ProofKeys) -> Letter:
    """Read a delivery. It belongs to operators: whoever holds an engine's sidecar could name another tenant's engine."""
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
        said = _Said.model_validate(event)
        engine, key = str(EngineId.parse(said.engineid)), keys.of(said.engineid)
        if said.type == JOB_REQUESTED:
            return Letter(row, engine, proven_job(event, key))
        letter = DeadLetter.model_validate(said.data)
    except (ValueError, InvalidName):
        return Letter(row)
    if said.type != DEAD_LETTERED or not dead_letter_is_proven(said.proof, key, said.id, letter.job_id):
        return Letter(row)
    row = row._replace(
        engine=engine,
        reason=storable(letter.reason)[:40],
        attempts=letter.attempts,
        error=letter.error,
        event=_kept(letter.event),
    )
    return Letter(row, engine, letter.job_id)


def receiver(ledger: Ledger, records: Records, keys: ProofKeys) -> Deliver:
    """Make the function that takes the dead-letter topic's deliveries."""

    async def ends_its_job(letter: Letter) -> bool:
        """End the job that a letter proves; return False if it proves no job of its engine by the ledger.

        Otherwise the job would be handed over again and again, and come back each time.
        """
        if letter.job_id is None:
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
        letter = read_letter(body, keys)
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
