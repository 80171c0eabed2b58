"""Passes on the jobs that were sent to a version on trial when it is promoted, and ends them when it is gone."""

import structlog

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import Status
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.engines.trials import is_promoted
from enginehouse.gateway.ledger import read
from enginehouse.gateway.ledger.ledger import Ledger
from enginehouse.gateway.ledger.rows import JobRow, by_engine
from enginehouse.gateway.outcome import decisions
from enginehouse.gateway.outcome.expected_jobs import ExpectedJobs
from enginehouse.gateway.outcome.records import Records
from enginehouse.gateway.recovery.lost_jobs import LostJobs

log = structlog.get_logger()

_AT_ONCE = 500


class EndedTrials:
    """Settles the unfinished jobs of trials that have ended."""

    def __init__(
        self, ledger: Ledger, catalogue: Catalogue, expected: ExpectedJobs, records: Records, lost_jobs: LostJobs
    ) -> None:
        self._ledger = ledger
        self._catalogue = catalogue
        self._expected = expected
        self._records = records
        self._lost_jobs = lost_jobs

    async def settle_jobs(self) -> None:
        """Address the jobs of promoted versions to their engines, and cancel those of versions that are gone."""
        ended = {trial.id: (trial, engine) for trial, engine in self._catalogue.ended_trials()}
        rows = await self._ledger.read(read.unfinished_of, list(ended), _AT_ONCE) if ended else []
        for trial_id, unfinished in by_engine(rows).items():
            trial, engine = ended[trial_id]
            if is_promoted(trial, engine):
                await self._pass_on(trial, engine)
            else:
                await self._cancel(unfinished)

    async def _pass_on(self, trial: KnownEngine, engine: KnownEngine) -> None:
        """Let jobs go on to the version that they were sent to: same workers, same records, but the engine's topic."""
        job_ids = await self._ledger.address_anew(trial.id, engine.id)
        for job_id in job_ids:
            self._expected.forget(job_id)
        log.info(
            f"{len(job_ids)} jobs of the promoted version go on as jobs of {engine.id}",
            action="trial_promoted",
            engine_id=engine.id,
        )
        # Its sidecar has left the topic of the trial, and some of them may be there.
        await self._lost_jobs.worker_left(engine.id)

    async def _cancel(self, unfinished: list[JobRow]) -> None:
        """Cancel the jobs that wait. One that runs ends at its worker, or waits again when the worker has vanished."""
        for row in unfinished:
            if row.status is Status.RUNNING:
                continue
            try:
                await self._records.decide(row, decisions.trial_ended)
            except EnginehouseError as error:
                log.warning(
                    f"Job {row.id} of the ended trial {row.engine} cannot be canceled now: {error}",
                    action="trial_waits",
                    job_id=row.id,
                    engine_id=row.engine,
                )
