"""Takes the dead-letter topic's deliveries and keeps them, with the reason why they could not become a job."""

import hashlib
import time

import pydantic_core
import structlog

from enginehouse.contracts.errors import EnginehouseError, InvalidName, Malformed
from enginehouse.contracts.events import DEAD_LETTERED, DeadLetter
from enginehouse.contracts.names import EngineId
from enginehouse.contracts.text import storable, without_signatures
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import DeadLetterRow
from enginehouse.sidecar.delivery import Deliver, raw_payload

log = structlog.get_logger()

_EVENT_MAX_CHARACTERS = 64 * 1024
UNPARSABLE = "UNPARSABLE"


def _kept(event: str) -> str:
    """Return an event's text as it is kept: whoever reads a dead letter gets no right to a job's objects."""
    return without_signatures(storable(event[:_EVENT_MAX_CHARACTERS]))


def letter_row(body: bytes) -> DeadLetterRow:
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
        if event["type"] != DEAD_LETTERED:
            return row
        letter = DeadLetter.model_validate(event["data"])
        engine = EngineId.parse(event["engineid"])
    except (ValueError, KeyError, TypeError, InvalidName, Malformed):
        return row
    return row._replace(
        tenant=engine.tenant,
        engine=str(engine),
        reason=storable(letter.reason)[:40],
        attempts=letter.attempts,
        error=letter.error,
        event=_kept(letter.event),
    )


def receiver(ledger: Ledger) -> Deliver:
    """Make the function that takes the dead-letter topic's deliveries."""

    async def deliver(body: bytes) -> bool:
        row = letter_row(body)
        try:
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
