"""Wait for a job in sight of the user: its id at once, then its status and the time, and where it is after Ctrl-C."""

import time

from enginehouse.cli.console import TerminalSteps, err, note
from enginehouse.cli.failures import Interrupted
from enginehouse.cli.units import duration, span
from enginehouse.client import Client, Handle, WaitOver
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import Job, Status
from enginehouse.local.steps import Steps

_LOOK_SECONDS = 1.0
_TELL_SECONDS = 3.0
"""A job that waits longer is worth a look at its engine."""


def wait_in_sight(client: Client, handle: Handle, timeout_seconds: float | None, as_json: bool) -> Job:
    """Return the job when it has ended. Raise WaitOver after `timeout_seconds`, Interrupted after Ctrl-C."""
    tells = err.is_terminal or not as_json
    if tells:
        note(f"Accepted by {handle.engine}: {handle.id}")
    with TerminalSteps(quiet=as_json) as steps:
        try:
            return _wait(client, handle, timeout_seconds, steps, tells=tells)
        except KeyboardInterrupt:
            raise goes_on(handle.id) from None


def goes_on(job_id: str) -> Interrupted:
    """Return the error that tells of a job whose watching was interrupted."""
    return Interrupted(
        f"Interrupted, but the job goes on. 'enginehouse jobs follow {job_id}' follows it again, "
        f"'enginehouse jobs cancel {job_id}' ends it"
    )


def _wait(client: Client, handle: Handle, timeout_seconds: float | None, steps: Steps, *, tells: bool) -> Job:
    began = time.monotonic()
    while True:
        left = None if timeout_seconds is None else began + timeout_seconds - time.monotonic()
        try:
            job = client.wait(handle.id, _LOOK_SECONDS if left is None else max(0.0, min(left, _LOOK_SECONDS)))
        except WaitOver:
            if left is not None and left <= _LOOK_SECONDS:
                raise
            job = handle.refresh()
            steps.update("job", f"{job.status} for {span(time.monotonic() - began)}: {handle.id}")
            if tells and job.status is Status.QUEUED and time.monotonic() - began > _TELL_SECONDS:
                tells = not _tell_why(client, job.engine)
        else:
            steps.finish(
                "job", f"{job.status} after {duration(time.monotonic() - began)}", job.status is Status.SUCCEEDED
            )
            return job


def _tell_why(client: Client, engine: str) -> bool:
    """Say once what is wrong with the engine that a job waits for. Return whether anything is."""
    try:
        reason = client.engine(engine).reason
    except EnginehouseError:
        return False  # The job is asked for again, and tells if that fails as well.
    if reason:
        note(f"{engine}: {reason}", "yellow")
        note("The job waits until that is mended; 'enginehouse jobs cancel' ends it.")
    return bool(reason)
