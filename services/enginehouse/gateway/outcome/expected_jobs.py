"""Remembers the engine of each unfinished job of this gateway, so that most hints need no query."""

from collections.abc import Sequence

from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger


class ExpectedJobs:
    """Maps jobs to engines as the ledger names them: an event could name a wrong engine on purpose."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._engine_of: dict[str, str] = {}

    def expect(self, job_id: str, engine_id: str) -> None:
        """Remember a job's engine until the job ends."""
        self._engine_of[job_id] = engine_id

    def forget(self, job_id: str) -> None:
        """Forget a job that ended or was not accepted."""
        self._engine_of.pop(job_id, None)

    async def engines_of(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return the engine of each known job. Ask the ledger, in one query, for those that are not remembered."""
        known = {job_id: self._engine_of[job_id] for job_id in job_ids if job_id in self._engine_of}
        unknown = [job_id for job_id in job_ids if job_id not in known]
        return known | await self._ledger.read(read.engines_of, unknown) if unknown else known
