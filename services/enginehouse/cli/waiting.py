"""Wait for a job in sight of the user: its id at once, then its status and the time, and where it is after Ctrl-C."""

import time

from enginehouse.cli.console import TerminalSteps, err, note
from enginehouse.cli.failures import Interrupted
from enginehouse.cli.units import duration, span
from enginehouse.client import Client, Handle, WaitOver
from enginehouse.contracts.job import Job, Status
from enginehouse.local.steps import Steps

_LOOK_SECONDS = 1.0


def wait_in_sight(client: Client, handle: Handle, timeout_seconds: float | None, as_json: bool) -> Job:
    """Return the job when it has ended. Raise WaitOver after `timeout_seconds`, Interrupted after Ctrl-C."""
    if err.is_terminal or not as_json:
        note(f"Accepted by {handle.engine}: {handle.id}")
    with TerminalSteps(quiet=as_json) as steps:
        try:
            return _wait(client, handle, timeout_seconds, steps)
        except KeyboardInterrupt:
            raise goes_on(handle.id) from None


def goes_on(job_id: str) -> Interrupted:
    """Return the error that tells of a job whose watching was interrupted."""
    return Interrupted(
        f"Interrupted, but the job goes on. 'enginehouse jobs follow {job_id}' follows it again, "
        f"'enginehouse jobs cancel {job_id}' ends it"
    )


def _wait(client: Client, handle: Handle, timeout_seconds: float | None, steps: Steps) -> Job:
    began = time.monotonic()
    while True:
        left = None if timeout_seconds is None else began + timeout_seconds - time.monotonic()
        try:
            job = client.wait(handle.id, _LOOK_SECONDS if left is None else max(0.0, min(left, _LOOK_SECONDS)))
        except WaitOver:
            if left is not None and left <= _LOOK_SECONDS:
                raise
            status = handle.refresh().status
            steps.update("job", f"{status} for {span(time.monotonic() - began)}: {handle.id}")
        else:
            steps.finish(
                "job", f"{job.status} after {duration(time.monotonic() - began)}", job.status is Status.SUCCEEDED
            )
            return job
