"""Lists, reads, redrives and discards dead letters for their owners."""

import re
import struct
from dataclasses import dataclass

from enginehouse.contracts.errors import Forbidden, NotFound, RequestError
from enginehouse.gateway.handover.job_event import event_to_show
from enginehouse.gateway.intake.submission import AcceptedJob
from enginehouse.gateway.jobs.jobs import Jobs
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import DeadLetterRow
from enginehouse.gateway.tenants.tenants import Caller

CURSOR_PATTERN = r"[0-9a-f]{16}-[0-9a-f-]{1,64}"


class DeadLetterDoesNotExist(NotFound):
    """No such dead letter."""

    code = "DEAD_LETTER_DOES_NOT_EXIST"
    advice = "GET /v1/dead-letters lists them."


def _cursor(row: DeadLetterRow) -> str:
    """Name a row's place in the list, by its time and id: ids of deliveries that were no job are not in order of time.

    The time is written as bits, so that it is read back exactly.
    """
    return f"{struct.pack('>d', row.created_at).hex()}-{row.id}"


def check_cursor(cursor: str) -> str:
    """Return a cursor that `_cursor` may have made; raise ValueError if it cannot have."""
    if not re.fullmatch(CURSOR_PATTERN, cursor):
        raise ValueError("it must be the `next_cursor` of the page before, unchanged")
    return cursor


def _after(cursor: str) -> tuple[float, str]:
    moment, _, letter_id = cursor.partition("-")
    return struct.unpack(">d", bytes.fromhex(moment))[0], letter_id


@dataclass(frozen=True, slots=True)
class DeadLetterPage:
    """Dead letters, newest first, without their events."""

    letters: list[DeadLetterRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Serves the dead letters of a caller. Administrators also see those that nobody could parse."""

    ledger: Ledger
    jobs: Jobs

    async def list(self, caller: Caller, *, unparsable: bool, cursor: str | None, limit: int) -> DeadLetterPage:
        """List the caller's dead letters, or the unparsable ones. `cursor` matches CURSOR_PATTERN."""
        if unparsable and not caller.is_admin:
            raise Forbidden("Only administrators may see deliveries that nobody could parse")
        after = _after(cursor) if cursor else None
        rows = await self.ledger.read(read.list_dead_letters, None if unparsable else caller.name, after, limit)
        return DeadLetterPage(rows, _cursor(rows[-1]) if len(rows) == limit else None)

    async def read(self, caller: Caller, letter_id: str) -> DeadLetterRow:
        """Return one dead letter with its event: the job's last hand-over, or the delivery that became no job."""
        row = await self._owned(caller, letter_id)
        job = await self.ledger.read(read.job, row.job_id) if row.job_id else None
        if job is None:
            return row
        event = event_to_show(job._replace(attempts=max(job.attempts - 1, 0)))
        return row._replace(event=event.decode())

    async def redrive(
        self, caller: Caller, letter_id: str, *, traceparent: str | None, idempotency_key: str | None
    ) -> AcceptedJob:
        """Submit the job of a dead letter again, once."""
        row = await self._owned(caller, letter_id)
        if row.job_id is None:
            raise RequestError(
                "This dead letter was never a job: nobody could parse it. Correct it and publish it again"
            )
        return await self.jobs.retry(
            caller, row.job_id, traceparent=traceparent, idempotency_key=idempotency_key, redrives=row.id
        )

    async def discard(self, caller: Caller, letter_id: str) -> None:
        """Delete a dead letter; its job keeps its state."""
        row = await self._owned(caller, letter_id)
        await self.ledger.discard_dead_letter(row.id)

    async def _owned(self, caller: Caller, letter_id: str) -> DeadLetterRow:
        row = await self.ledger.read(read.dead_letter, letter_id)
        if row is None or (row.tenant != caller.name and not (row.tenant is None and caller.is_admin)):
            raise DeadLetterDoesNotExist(f"No dead letter {letter_id} of {caller.name}")
        return row
