"""Try an engine out alone: check its files, start it, ask it, stop it, and report each step."""

import asyncio
import os
import tempfile
import threading
import time
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from enginehouse.authoring.alone import STOP_SECONDS, EngineAlone
from enginehouse.authoring.answers import (
    check_bad_input,
    check_examples,
    check_schema,
    check_unknown_field,
)
from enginehouse.authoring.asking import Asker
from enginehouse.authoring.findings import Over, Report
from enginehouse.authoring.fuzz import fuzz
from enginehouse.authoring.pace import check_batch, check_concurrency, check_time
from enginehouse.authoring.start import wait_until_healthy
from enginehouse.checkers import Checkers
from enginehouse.contracts.engine import Batch, EngineSpec
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.program import SECRETS_DIR_VARIABLE
from enginehouse.local.confinement import private_folders, why_not_confined
from enginehouse.local.deployment import engines_of
from enginehouse.local.engine_secrets import write_secrets
from enginehouse.local.engine_start import EngineStart
from enginehouse.local.environments import Environment, needs_environment, prepare
from enginehouse.local.errors import LocalError
from enginehouse.local.guard import Guard
from enginehouse.local.health import plain_http
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.local.steps import Steps
from enginehouse.registry.admission import mistakes_here
from enginehouse.registry.artifacts import Show
from enginehouse.registry.bundle import ENGINE_FILE, InvalidBundle, read_spec
from enginehouse.registry.content import deployed_files
from enginehouse.registry.deploy import check_files
from enginehouse.registry.snapshot import fetched, only_deployer, snapshot_source, source_folder, take_snapshot
from enginehouse.runner.clients.choose import engine_client
from enginehouse.runner.clients.wire import Limits
from enginehouse.runner.settings import RunnerSettings

_ANSWER_MAX_BYTES: int = RunnerSettings.model_fields["predict_max_bytes"].default
"""Larger answers are refused by every runner, unless its operator allows them."""
_CLOSE_TO_LIMIT = 0.8


@dataclass(frozen=True, slots=True)
class Options:
    """What the author asks for."""

    load_seconds: float
    """Longest time until the engine is healthy."""
    fuzz: bool = False


async def try_engine(
    folder: Path, home: Home | None, steps: Steps, report: Report, options: Options
) -> EngineSpec | None:
    """Report everything that is found. Return the content of engine.yaml, None if it cannot be read."""
    spec = None
    try:
        spec = _check_files(folder, home, report)
        with tempfile.TemporaryDirectory(prefix="enginehouse-test-") as scratch, closing(Guard()) as guard:
            await _try_running(spec, folder, home, Path(scratch), guard, steps, report, options)
    except Over:
        pass
    return spec


def _check_files(folder: Path, home: Home | None, report: Report) -> EngineSpec:
    """Report what `deploy` would refuse."""
    file = folder / ENGINE_FILE
    try:
        spec = read_spec(file)
    except InvalidBundle as error:
        report.failed("files", str(error))
        raise Over from None
    here = engines_of(home).mistakes(spec) if home else mistakes_here(spec, None)
    mistakes = [f"{file}: {mistake}" for mistake in here]
    files, can_run = {}, False
    try:
        files = deployed_files(folder)
        check_files(folder, spec)
        can_run = spec.program is not None
    except InvalidBundle as error:
        mistakes.append(str(error))
    for mistake in mistakes:
        report.failed("files", mistake)
    if not can_run:
        raise Over
    if not mistakes:
        size = sum(path.stat().st_size for path in files.values())
        report.ok("files", f"{spec.id} {spec.version}: {len(files)} files with {size:,} bytes would be deployed")
    return spec


async def _try_running(
    spec: EngineSpec,
    folder: Path,
    home: Home | None,
    scratch: Path,
    guard: Guard,
    steps: Steps,
    report: Report,
    options: Options,
) -> None:
    # From a copy, as a deployed engine runs: it finds the same files, and what it writes stays out of the author's folder.
    source = await _copied(spec, folder, scratch, steps, report)
    environment = await _environment(spec, source, guard, steps, report)
    private = await _private_folders(home, scratch, guard, report)
    start = EngineStart(spec, source, environment, _secrets(spec, scratch), private)
    await start.prepare(guard)
    async with AsyncExitStack() as stack:
        port = stack.enter_context(closing(PortPool())).take()
        alone = EngineAlone(start, folder, scratch, port, guard)
        try:
            await stack.enter_async_context(alone.running())
        except OSError as error:
            assert spec.program
            report.failed("start", f"{spec.program.command[0]} cannot be started: {error.strerror}")
            raise Over from None
        async with AsyncExitStack() as connections:
            limits = Limits(predict_max_bytes=_ANSWER_MAX_BYTES, output_max_bytes=_ANSWER_MAX_BYTES)
            # Without batches, which would gather the single inputs that are sent here.
            single = spec.model_copy(update={"batch": Batch()})
            client = engine_client(single, alone.url, Checkers(), limits, count_jobs=lambda _: None)
            connections.push_async_callback(client.close)
            http = await connections.enter_async_context(plain_http(2))
            await wait_until_healthy(alone, client, http, report, steps, options.load_seconds)
            await _ask(Asker(alone, client, http), report, steps, options)
        # Its connections are closed by now: an engine may wait for those before it ends.
        await _check_end(alone, report)


async def _copied(spec: EngineSpec, folder: Path, scratch: Path, steps: Steps, report: Report) -> Path:
    """Copy what would be deployed, and fetch its files."""
    interrupted = threading.Event()

    def show(text: str) -> None:
        if interrupted.is_set():
            raise Over
        steps.update("fetch", text)

    copying = asyncio.create_task(asyncio.to_thread(_copy, spec, folder, scratch, show))
    try:
        return await asyncio.shield(copying)
    except asyncio.CancelledError:
        # The thread must have ended before its folder is removed.
        interrupted.set()
        await asyncio.gather(copying, return_exceptions=True)
        raise
    except EnginehouseError as error:
        report.failed("files", str(error))
        raise Over from None


def _copy(spec: EngineSpec, folder: Path, scratch: Path, show: Show) -> Path:
    engines = scratch / "engines"
    with fetched(engines, spec.id, spec.fetch, show) as brought, only_deployer(engines):
        content = take_snapshot(engines, spec.id, folder, brought)
    return source_folder(engines / spec.id, snapshot_source(spec.id, content))


async def _environment(
    spec: EngineSpec, source: Path, guard: Guard, steps: Steps, report: Report
) -> Environment | None:
    began = time.monotonic()
    try:
        environment = await prepare(spec, source, guard, steps)
    except LocalError as error:
        report.failed("environment", error.detail.replace(" and deploy it again", ""))
        raise Over from None
    except EnginehouseError as error:
        report.failed("environment", str(error))
        raise Over from None
    if needs_environment(spec):
        report.ok("environment", f"Its packages are installed, after {time.monotonic() - began:.1f} s")
    return environment


async def _private_folders(home: Home | None, scratch: Path, guard: Guard, report: Report) -> list[Path] | None:
    """Report as whom the engine runs. Return the folders that it must not look into, None where it runs as our user."""
    if why := await why_not_confined(guard):
        report.note(
            "process",
            f"It runs as your own user, with a scrubbed environment and limits: {why}. Where root starts "
            "'enginehouse up', and in containers, it also sees its own files only, and its folder is read-only",
        )
        return None
    report.ok(
        "process", "It runs as a user of its own that sees its own files only, as where root starts 'enginehouse up'"
    )
    return private_folders(scratch, *([home.path] if home else []))


def _secrets(spec: EngineSpec, scratch: Path) -> Path | None:
    """Return a folder with the engine's secrets, copied from the author's own, if the environment names that."""
    own, folder = os.environ.get(SECRETS_DIR_VARIABLE), scratch / "secrets"
    if not own or not spec.secrets:
        return None
    write_secrets(folder, {name: path.read_text() for name in spec.secrets if (path := Path(own, name)).is_file()})
    return folder


async def _ask(asker: Asker, report: Report, steps: Steps, options: Options) -> None:
    described = await check_schema(asker, report, asker.alone.spec)
    if examples := await check_examples(asker, report, described):
        examples = await check_time(asker, report, examples)
        await check_unknown_field(asker, report, described, examples[0])
        await check_concurrency(asker, report, examples[0])
        await check_batch(asker, report, described, examples[0])
    await check_bad_input(asker, report, described)
    if options.fuzz:
        await fuzz(asker, report, steps, described)


async def _check_end(alone: EngineAlone, report: Report) -> None:
    limit = alone.spec.resources.memory_bytes
    said = f"{alone.peak_bytes / 2**20:.0f} MiB at most, of the {limit / 2**20:.0f} MiB that resources.memory allows"
    if alone.peak_bytes > limit:
        report.failed("memory", f"{said}: a container would be ended for that")
    elif alone.peak_bytes > _CLOSE_TO_LIMIT * limit:
        report.note("memory", f"{said}: larger inputs may need more")
    else:
        report.ok("memory", said)
    took = await alone.stop()
    if took is None:
        report.failed("stop", f"It does not end within {STOP_SECONDS:g} s of SIGTERM, and would be killed in its work")
    else:
        report.ok("stop", f"It ended {took:.1f} s after SIGTERM")
