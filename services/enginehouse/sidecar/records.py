"""Read and change the job records of one engine. Every write is first-write, so the first final state stays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from enginehouse.contracts.errors import Conflict, Malformed, Unavailable
from enginehouse.contracts.job import JobRecord, may_change
from enginehouse.contracts.names import results_component
from enginehouse.sidecar.base import Sidecar, StateItem

log = structlog.get_logger()

_TRIES = 5


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record with its version. A change must name the version."""

    record: JobRecord
    etag: str


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Something that cannot be read in the place of a record, with its version."""

    etag: str
    record: None = None


def _parse(item: StateItem) -> StoredRecord:
    try:
        return StoredRecord(JobRecord.model_validate_json(item.value), item.etag)
    except ValidationError as error:
        raise Malformed(f"job record: {error.error_count()} fields are wrong") from None


def record_text(record: JobRecord) -> str:
    """Return a record as it is stored."""
    return record.model_dump_json(exclude_none=True, exclude_defaults=True)


class JobRecords:
    """Job records of one engine, for its runner and for the gateway."""

    def __init__(self, sidecar: Sidecar, engine_id: str) -> None:
        self._sidecar = sidecar
        self._store = results_component(engine_id)

    async def read(self, job_id: str) -> StoredRecord | None:
        """Return the record, or None if there is none."""
        item = await self._sidecar.read(self._store, job_id)
        return _parse(item) if item else None

    async def _present(self, job_id: str, over_unreadable: bool) -> StoredRecord | _Unreadable | None:
        item = await self._sidecar.read(self._store, job_id)
        try:
            return _parse(item) if item else None
        except Malformed as error:
            if item is None or not over_unreadable:
                raise
            log.warning(
                f"The unreadable record of job {job_id} in {self._store} is overwritten: {error}",
                action="record_unreadable",
                job_id=job_id,
            )
            return _Unreadable(item.etag)

    async def read_many(self, job_ids: Sequence[str]) -> dict[str, StoredRecord]:
        """Return the records that exist and can be read, in one round trip."""
        found = {}
        for job_id, item in (await self._sidecar.read_many(self._store, job_ids)).items():
            try:
                found[job_id] = _parse(item)
            except Malformed:
                continue
        return found

    async def change(
        self,
        job_id: str,
        ttl_seconds: int,
        decide: Callable[[JobRecord | None], JobRecord | None],
        *,
        blind: bool = False,
        over_unreadable: bool = False,
    ) -> JobRecord:
        """Set the record to `decide(present)`, and return the record that holds in the end.

        If `decide` returns None, the record stays as it is. After a conflict or a doubt the record is read again and
        `decide` is called again. `blind` first tries to create the record without reading it: one round trip for a job
        that nobody has touched, which is almost every job. An unreadable record raises Malformed; with
        `over_unreadable` it counts as missing and is overwritten.
        """
        stored = None if blind else await self._present(job_id, over_unreadable)
        for _ in range(_TRIES):
            wanted = decide(stored.record if stored else None)
            if wanted is None:
                if stored is None or stored.record is None:
                    raise Conflict(f"job {job_id}: there is no record that could stay as it is")
                return stored.record
            value = record_text(wanted).encode()
            try:
                if stored is None:
                    await self._sidecar.create(self._store, job_id, value, ttl_seconds)
                else:
                    await self._sidecar.replace(self._store, job_id, value, stored.etag, ttl_seconds)
            except (Conflict, Unavailable) as error:
                stored = await self._present(job_id, over_unreadable)
                if stored is not None and stored.record == wanted:
                    return wanted  # This is our own write, whose answer was lost.
                if isinstance(error, Unavailable) and stored is None:
                    raise
                continue
            return wanted
        raise Unavailable(f"job {job_id}: the record changed {_TRIES} times while it was being written")

    async def restore(
        self, job_id: str, ttl_seconds: int, ended: JobRecord, *, over_unreadable: bool = False
    ) -> JobRecord:
        """Write the end of a job again after the store was restored from a backup. Return the record that holds."""

        def decide(present: JobRecord | None) -> JobRecord | None:
            return ended if present is None or may_change(present.status, ended.status) else None

        return await self.change(job_id, ttl_seconds, decide, over_unreadable=over_unreadable)
