"""A bundle that its owner breaks stops no other engine; the problem is reported and can be repaired."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.stack import StackHandle, running_stack, until
from typer.testing import CliRunner

from enginehouse.audit.read import Query, read_page
from enginehouse.cli.app import app

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
_SOUND, _SPOILT = "tests--echo", "tests--spoilt"

Break = Callable[[Path], None]


def _with_password(path: Path, **password: str) -> None:
    content = yaml.safe_load(path.read_text())
    fields = content["spec"]["metadata"]
    fields[:] = [field for field in fields if field["name"] != "redisPassword"]
    fields.append({"name": "redisPassword", **password})
    path.write_text(yaml.safe_dump(content))


def _wrong_password(path: Path) -> None:
    _with_password(path, value="not the password")


def _missing_secret(path: Path) -> None:
    _with_password(path, envRef="NOBODY_SET_THIS")


def _duplicate(path: Path) -> None:
    shutil.copy(path, path.with_name(f"again-{path.name}"))


def _half_written(path: Path) -> None:
    text = path.read_text()
    path.write_text(text[: text.index("metadata", text.index("spec:")) + len("meta")])


_JOBS, _RESULTS, _GATEWAYS = "slots/a/dapr/jobs.yaml", "slots/a/dapr/results.yaml", "gateway/results.yaml"
_BREAKS: list[tuple[Break, str]] = [
    # To the engine's sidecar both of its files are alike: each is broken in two ways.
    (_wrong_password, _JOBS),
    (_missing_secret, _RESULTS),
    (_duplicate, _JOBS),
    (_half_written, _RESULTS),
    *((spoil, _GATEWAYS) for spoil in (_wrong_password, _missing_secret, _duplicate, _half_written)),
]
_SAYS: dict[Break, str] = {
    _wrong_password: "WRONGPASS",
    _missing_secret: "NOAUTH",
    _duplicate: "duplicate definition",
    _half_written: "not YAML",
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    folder = tmp_path_factory.mktemp("broken")
    spoilt = folder / "spoilt"
    shutil.copytree(_ENGINES / "echo", spoilt)
    spec = yaml.safe_load((spoilt / "engine.yaml").read_text())
    (spoilt / "engine.yaml").write_text(yaml.safe_dump({**spec, "name": "spoilt"}))
    with running_stack(folder / "home", [_ENGINES / "echo", spoilt]) as handle:
        yield handle


@contextmanager
def _jobs_go_on(stack: StackHandle) -> Iterator[None]:
    """Send a steady stream of jobs to the sound engine during the block. Each must end at once."""
    stop, ended, strange = threading.Event(), [0], list[Any]()

    def submit() -> None:
        while not stop.wait(0.05):
            try:
                job = stack.submit(_SOUND, ended[0], tenant="tests", wait=10)
            except (OSError, AssertionError) as error:
                strange.append(error)
                continue
            ended[0] += 1
            if job["status"] != "succeeded":
                strange.append(job)

    thread = threading.Thread(target=submit, name="jobs of the sound engine")
    thread.start()
    try:
        until(lambda: ended[0] >= 5, "jobs go on before")
        yield
        seen = ended[0]
        until(lambda: ended[0] >= seen + 5, "jobs go on after")
    finally:
        stop.set()
        thread.join()
    assert not strange, strange[:3]


def _said(stack: StackHandle) -> str:
    """Return everything an operator reads about the broken engine: in `enginehouse status`, in the API, in a log."""
    state = stack.state()
    shown = stack.call("GET", f"/v1/engines/{_SPOILT}", tenant="tests").body
    said = f"{state['engines'][_SPOILT]['problem']} {state['refused'].get(_SPOILT)} {shown.get('reason')}"
    if "gateway's sidecar could not load" in said:
        return said + stack.log("gateway.daprd")
    return said


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("spoil", "file"), _BREAKS)
def test_a_broken_file_stops_nobody_else_says_why_and_can_be_mended(
    stack: StackHandle, file: str, spoil: Break, tmp_path: Path
) -> None:
    unharmed = ["gateway", "gateway.daprd", f"{_SOUND}--a.runner", f"{_SOUND}--a.daprd"]
    before = {name: stack.pid(name) for name in unharmed}
    bundle = stack.home.engines / _SPOILT
    shutil.copytree(bundle, tmp_path / "sound")
    said = "two objects" if spoil is _duplicate and file.startswith("gateway") else _SAYS[spoil]
    with _jobs_go_on(stack):
        spoil(bundle / file)
        until(lambda: said in _said(stack), f"it is told of: {said}", 40)
        # These jobs were accepted meanwhile, and are kept.
        waiting = stack.submit(_SPOILT, {"kept": file}, tenant="tests", wait=0)
        for path in bundle.rglob("again-*"):
            path.unlink()
        shutil.copy(tmp_path / "sound" / file, bundle / file)
        ended = stack.call("GET", f"/v1/jobs/{waiting['id']}?wait=60", tenant="tests").body
        assert (ended["status"], ended.get("output")) == ("succeeded", {"kept": file}), ended
    until(lambda: stack.state()["engines"][_SPOILT]["state"] == "running", "it is mended", 60)
    assert stack.state()["engines"][_SPOILT]["problem"] is None
    assert not stack.state()["refused"]
    assert {name: stack.pid(name) for name in unharmed} == before


@pytest.mark.timeout(180)
def test_what_the_policy_allows_no_longer_stops_soon_and_comes_back(stack: StackHandle) -> None:
    unharmed = {name: stack.pid(name) for name in ("gateway", f"{_SOUND}--a.runner", f"{_SOUND}--a.engine-0")}
    policy, running = stack.home.supply / "policy.yaml", f"{_SPOILT}--a.engine-0"
    engine = stack.pid(running)
    try:
        with _jobs_go_on(stack):
            policy.write_text(f"builds: [{_SOUND}]\n")
            until(lambda: "runs code of its uploaded folder" in _said(stack), "it is told of the policy", 40)
            assert running not in stack.processes()
            assert not Path(f"/proc/{engine}").exists()
            waiting = stack.submit(_SPOILT, "kept", tenant="tests", wait=0)
            # A policy with a mistake stops nothing, and starts nothing.
            policy.write_text("build: [tests--*]\n")
            until(lambda: "has a mistake" in _said(stack), "it is told of the mistake", 40)
            shown = CliRunner().invoke(app, ["status", "--home", str(stack.home.path)])
            assert (shown.exit_code, "build: is not a known key" in shown.output) == (1, True), shown.output
            policy.write_text("builds: [tests--*]\n")
            ended = stack.call("GET", f"/v1/jobs/{waiting['id']}?wait=60", tenant="tests").body
            assert (ended["status"], ended.get("output")) == ("succeeded", "kept"), ended
        assert {name: stack.pid(name) for name in unharmed} == unharmed
        starts, expected = Query(engine=_SPOILT, action="start of an engine"), ["ok", *["NOT_ALLOWED_TO_RUN"] * 2]
        until(
            lambda: [one.entry.outcome for one in read_page(stack.home.audit, starts, None, 10).entries] == expected,
            "the three decisions are recorded",
            20,
        )
    finally:
        policy.unlink(missing_ok=True)
