"""The part of a run with millions of rows in the ledger: submits, single jobs, every listing, and the gateway at rest."""

import asyncio
import fcntl
import os
import signal
import sqlite3
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

from tests.benchmarks.load import LoadFailed
from tests.benchmarks.measure import Run
from tests.benchmarks.processes import CpuMeter
from tests.benchmarks.results import IDLE, LISTINGS, ONE, SUBMIT
from tests.benchmarks.systems import System, enginehouse, submit_batches
from tests.support.dapr import http_ok
from tests.support.filled_ledger import fill
from tests.support.stack import StackHandle, until

from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.job import Status
from enginehouse.local.home import Home

FILLED, EMPTY = "filled ledger", "empty ledger"
QUEUED_SHARE = 10
"""One of so many rows is a job that waits."""
_REST_SECONDS = 5
_PAUSE_SECONDS = 5 * 86_400


ENGINES = [f"{'shared' if n % 10 == 9 else f'tenant-{n % 100:03}'}--engine-{n:04}" for n in range(1_000)]
"""The engines whose jobs `tests.support.filled_ledger` makes."""
_SAMPLED = 200
"""So many jobs that ended last does a gateway look for in the stores, when it starts, to see whether they were restored."""


_TENANT, _ENGINE = ENGINES[0].partition("--")[0], ENGINES[0]
"""The tenant with the most jobs, which lists them, and its engine with the most."""


def fill_ledger(file: Path, rows: int, now: float) -> str:
    """Put jobs that are older than `now` into a ledger. Their engines are paused for days, so that its queue stays as it is.

    Return a cursor after which come the oldest tenth of the jobs of the tenant that lists them.
    """
    with closing(sqlite3.connect(file)) as ledger, ledger:
        ledger.execute("DELETE FROM engines")
    asyncio.run(fill(f"sqlite:///{file}", rows, rows // QUEUED_SHARE, now=now))
    with closing(sqlite3.connect(file)) as ledger, ledger:
        paused = [EngineState.PAUSED, time.time() + _PAUSE_SECONDS]
        ledger.execute(
            "UPDATE engines SET state = ?, reason = 'full queue', probe_at = ? WHERE id NOT LIKE 'tests--%'", paused
        )
        (jobs,) = ledger.execute("SELECT count(*) FROM jobs WHERE tenant = ?", [_TENANT]).fetchone()
        oldest = "SELECT id FROM jobs WHERE tenant = ? ORDER BY id LIMIT 1 OFFSET ?"
        deep: str = ledger.execute(oldest, [_TENANT, jobs // 10]).fetchone()[0]
    return deep


def _fill_meanwhile(stack: StackHandle, rows: int, now: float) -> str:
    """Fill the ledger of a running stack while its gateway is stopped. Its sidecar stays, and knows all engines.

    Return what `fill_ledger` does.
    """
    os.kill(stack.up.pid, signal.SIGSTOP)
    try:
        file, pid = stack.home.data / "ledger.sqlite", stack.kill("gateway")
        until(lambda: _is_free(file), "the gateway has let its ledger go")
        deep = fill_ledger(file, rows, now)
    finally:
        os.kill(stack.up.pid, signal.SIGCONT)
    _until_back(stack, pid)
    return deep


def _until_back(stack: StackHandle, killed: int) -> None:
    stack.until_restarted("gateway", killed)
    until(lambda: http_ok(f"{stack.base_url}/healthz/ready"), "the gateway has opened its ledger", 120)


def _is_free(ledger: Path) -> bool:
    """Return whether no process holds a ledger. A killed one does until the last of its threads has ended."""
    with Path(f"{ledger}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


_DEEP_ENGINE = "shared--engine-0800"
"""A cursor after which a page comes that has none of the first page's engines, whose workers the gateway has just read."""


def listings() -> dict[str, str]:
    """Return the path of every kind of listing of jobs, and of the one of engines, by name."""
    of_all: dict[str, dict[str, str]] = {"all jobs": {}} | {
        f"status {status}": {"status": status.value} for status in Status
    }
    of_one = {f"{name}, one engine": {"engine": _ENGINE, **query} for name, query in of_all.items()}
    jobs = {name: f"/v1/jobs?{urlencode({'limit': 50, **query})}" for name, query in (of_all | of_one).items()}
    return jobs | {"engines": "/v1/engines?limit=20"}


def _milliseconds(stack: StackHandle, path: str) -> float:
    began = time.perf_counter()
    answer = stack.call("GET", path, tenant=_TENANT)
    if answer.status != 200:
        raise LoadFailed(f"GET {path}: {answer}")
    return 1000 * (time.perf_counter() - began)


def _list(run: Run, stack: StackHandle, deep: str) -> None:
    """Read the first page and a deep page of every listing once."""
    for name, path in listings().items():
        cursor = deep if path.startswith("/v1/jobs") else _DEEP_ENGINE
        first, later = (_milliseconds(stack, each) for each in (path, f"{path}&cursor={cursor}"))
        run.results.add(LISTINGS, name, first_page_ms=first, deep_page_ms=later)


def _rest(run: Run, systems: dict[str, System]) -> None:
    """Measure what both gateways use meanwhile, of which nobody asks anything."""
    meters = {name: CpuMeter({"gateway": system.processes["gateway"]}) for name, system in systems.items()}
    time.sleep(_REST_SECONDS)
    for name, meter in meters.items():
        run.results.add(IDLE, name, core_percent=100 * meter.spent()["gateway"] / _REST_SECONDS)


def measure_filled_ledger(run: Run) -> None:
    """Measure two deployments with the same engines; the ledger of one is empty, that of the other is full."""
    began, start = time.time() - 60, partial(enginehouse, more_engines=ENGINES, more_tenants=[_TENANT])
    with ExitStack() as stops:
        systems = run.start({FILLED: start, EMPTY: start}, stops)
        stack, other = systems[FILLED].stack, systems[EMPTY].stack
        assert stack
        assert other
        submit_batches(stack, 1, _SAMPLED)
        run.say(f"filling a ledger with {run.ledger_rows:,} rows, {run.ledger_rows // QUEUED_SHARE:,} of them queued")
        deep = _fill_meanwhile(stack, run.ledger_rows, began)
        # A gateway that has just started reads every engine's card again and again at first: so do both.
        _until_back(other, other.kill("gateway"))
        systems[FILLED].processes["gateway"] = stack.pid("gateway")
        systems[EMPTY].processes["gateway"] = other.pid("gateway")
        for number in run.turns("ledger", systems):
            run.load(ONE, systems, number)
            run.load(SUBMIT, systems, number)
            _list(run, stack, deep)
            _rest(run, systems)
        _check_queue(stack.home, run.ledger_rows // QUEUED_SHARE)
    for measure in ("first_page_ms", "deep_page_ms"):
        found = [run.results.median(LISTINGS, name, measure) for name in listings()]
        run.results.add(LISTINGS, "the slowest", **{measure: max(number for number in found if number is not None)})


def _check_queue(home: Home, queued: int) -> None:
    """Raise LoadFailed if the gateway has done anything with the jobs that wait: the ledger was not at rest then."""
    with closing(sqlite3.connect(home.data / "ledger.sqlite")) as ledger:
        (found,) = ledger.execute("SELECT count(*) FROM jobs WHERE status = 'queued'").fetchone()
    if found != queued:
        raise LoadFailed(f"{queued} jobs were queued in the full ledger, and {found} are at the end")
