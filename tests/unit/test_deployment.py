"""A deploy refuses what cannot run here, and its wait tells the new deployment from the one before."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.support.waiting import until_async

from enginehouse.local.deployment import Deployment, NotWorking, deploy, wait_until_answers
from enginehouse.local.home import Home
from enginehouse.local.ports import PortPool
from enginehouse.registry.bundle import InvalidBundle
from enginehouse.registry.deploy import SlotBusy, deploy_engine, promote_engine
from enginehouse.registry.snapshot import hold, source_folder
from enginehouse.registry.tenants import add_key
from enginehouse.registry.versions import fingerprint, read_versions

_ENGINE = "demo--one"
_RUN = "run: {command: [serve]}\n"


class _Steps:
    """Keeps the text of the step."""

    def __init__(self) -> None:
        self.text = ""

    def update(self, key: str, text: str, done: int = 0, total: int = 0) -> None:
        self.text = text

    def finish(self, key: str, text: str, ok: bool = True) -> None:
        self.text = text


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


def _folder(tmp_path: Path, text: str = "", tenant: str = "demo") -> Path:
    folder = tmp_path / "source"
    folder.mkdir(exist_ok=True)
    (folder / "engine.yaml").write_text(f"tenant: {tenant}\nname: one\n{_RUN}{text}")
    return folder


def _refusal(home: Home, folder: Path) -> str:
    with pytest.raises(InvalidBundle) as refused:
        deploy(home, folder)
    assert not list(home.engines.iterdir())
    return str(refused.value)


def test_an_unknown_tenant_is_refused_with_the_nearest_known_one(home: Home, tmp_path: Path) -> None:
    add_key(home.tenants, "globex")
    said = _refusal(home, _folder(tmp_path, tenant="globx"))
    assert "there is no tenant 'globx' here; did you mean 'globex'? 'enginehouse tenant add globx' makes it" in said
    assert deploy(home, _folder(tmp_path, tenant="globex")).changed


def test_more_memory_than_the_machine_has_is_refused_together_with_the_rest(home: Home, tmp_path: Path) -> None:
    text = "resources: {memory: 900Ti}\nscale: {min: 2, max: 2}\n"
    said = _refusal(home, _folder(tmp_path, text, tenant="umbra")).splitlines()
    assert "there is no tenant 'umbra' here; 'enginehouse" in said[0]
    assert "resources.memory: 900Ti for each of 2 replicas is more than this machine has" in said[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("resources: {cpu: 1}", "resources.cpu is not enforced"),
        ("resources: {gpu: 1}", "resources.gpu is not enforced"),
        ("scale: {min: 0}", "scale.min is taken as 1"),
        (
            "scale: {min: 2, max: 3}",
            "scale.max is not used: here an engine has as many replicas as scale.min says, now 2",
        ),
    ],
)
def test_a_setting_without_effect_here_is_named(home: Home, tmp_path: Path, text: str, said: str) -> None:
    assert deploy(home, _folder(tmp_path)).warnings() == []
    [warning] = deploy(home, _folder(tmp_path, f"{text}\n")).warnings()
    assert warning.startswith(said)


def test_a_pod_for_each_job_is_refused_where_there_are_no_pods(home: Home, tmp_path: Path) -> None:
    assert "mode: job runs in Kubernetes only" in _refusal(home, _folder(tmp_path, "mode: job\n"))


def test_where_engines_run_in_containers_an_image_is_enough_and_all_resources_hold(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    image = f"registry.example/engine@sha256:{'a' * 64}"
    (folder / "engine.yaml").write_text(f"tenant: demo\nname: image\nimage: {image}\nresources: {{cpu: 1, gpu: 1}}\n")
    with pytest.raises(InvalidBundle, match="runs in a container only"):
        deploy(home, folder)
    home.state_file.write_text('{"containers": true}')
    assert deploy(home, folder).warnings() == []


def test_a_second_deploy_of_the_same_folder_changes_nothing(home: Home, tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    assert [deploy(home, folder).changed for _ in range(2)] == [True, False]
    (folder / "engine.py").write_text("new")
    assert deploy(home, folder).changed


def test_a_version_waits_until_the_one_whose_slot_it_takes_has_ended_its_jobs(home: Home, tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        folder = _folder(tmp_path, f"version: {version}\n")
        deploy(home, folder)
    promote_engine(home.engines, _ENGINE)
    bundle = home.engines / _ENGINE
    former = read_versions(bundle).slots["a"]
    before = (bundle / "slots" / "a" / "engine.yaml").read_text()
    told, ends = list[str](), contextlib.ExitStack()
    with ends:
        ends.enter_context(hold(source_folder(bundle, former.source)))
        assert not deploy(home, folder).changed, "what is deployed waits for nothing"
        folder = _folder(tmp_path, "version: v3\n")
        with pytest.raises(SlotBusy, match="still ends its jobs in slot a"):
            deploy_engine(home.engines, folder)

        def show(text: str) -> None:
            told.append(text)
            assert (bundle / "slots" / "a" / "engine.yaml").read_text() == before
            ends.close()

        assert deploy(home, folder, show=show).slot == "a"
    assert told == ["The version of demo--one before the active one still ends its jobs in slot a. Waiting for them."]


class _Api:
    """What GET /v1/engines/demo--one answers; 404 while it is None."""

    view: dict[str, Any] | None = None

    async def show(self, _: web.Request) -> web.Response:
        return web.json_response(self.view, status=200 if self.view else 404)


@pytest.fixture
async def api(home: Home) -> AsyncIterator[_Api]:
    made, app = _Api(), web.Application()
    app.router.add_get(f"/v1/engines/{_ENGINE}", made.show)
    serving = web.AppRunner(app)
    await serving.setup()
    ports = PortPool()
    await web.TCPSite(serving, "127.0.0.1", port := ports.take()).start()
    home.local_json.write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "api_key": "eh_demo_key"}))
    with home.lock():
        yield made
    await serving.cleanup()
    ports.close()


@pytest.fixture
def deployed(home: Home, tmp_path: Path) -> Deployment:
    return deploy(home, _folder(tmp_path))


def _write_state(deployed: Deployment, state: str, *, fresh: bool = True, **fields: Any) -> None:
    entry = {"state": state, "problem": None, "doing": None, **fields}
    entry["deployed"] = fingerprint(deployed.bundle, "a") if fresh else "an earlier one"
    deployed.home.state_file.write_text(json.dumps({"engines": {_ENGINE: entry}, "refused": {}}))


async def test_the_failure_of_the_deployment_before_is_not_taken_for_this_ones(deployed: Deployment, api: _Api) -> None:
    steps = _Steps()
    _write_state(deployed, "failed", fresh=False, problem="SyntaxError")
    waiting = asyncio.create_task(wait_until_answers(deployed, steps, None))
    await until_async(lambda: "waiting to be noticed" in steps.text)
    _write_state(deployed, "stopping", fresh=False)
    await until_async(lambda: "stopping what ran before" in steps.text)
    _write_state(deployed, "starting", doing="making the environment")
    await until_async(lambda: "making the environment" in steps.text)
    _write_state(deployed, "starting", problem="After 10 s, nothing listens")
    await until_async(lambda: "nothing listens" in steps.text)
    _write_state(deployed, "running")
    await until_async(lambda: "the gateway does not know it yet" in steps.text)
    api.view = {"health": "unhealthy", "reason": "None of its workers is up", "card": {}}
    await until_async(lambda: "None of its workers is up" in steps.text)
    api.view = {"health": "healthy", "state": "active", "reason": None, "card": {"slot": "a", "version": "v1"}}
    assert (await asyncio.wait_for(waiting, 10))["state"] == "active"


async def test_an_engine_that_cannot_work_ends_the_wait_with_its_last_words(deployed: Deployment, api: _Api) -> None:
    _write_state(deployed, "failed", problem="It keeps ending. Its last lines:\nSyntaxError")
    with pytest.raises(NotWorking, match=r"demo--one does not work:\nIt keeps ending. Its last lines:\nSyntaxError"):
        await wait_until_answers(deployed, _Steps(), None)


async def test_a_quarantine_ends_the_wait_and_says_what_brings_the_version_up(deployed: Deployment, api: _Api) -> None:
    _write_state(deployed, "quarantined", problem="it mines coins")
    with pytest.raises(NotWorking, match=r"is quarantined, and starts when it is resumed:\nit mines coins"):
        await wait_until_answers(deployed, _Steps(), None)


async def test_a_wait_that_is_over_says_what_it_was_for(deployed: Deployment, api: _Api) -> None:
    _write_state(deployed, "starting", problem="After 10 s, nothing listens on 127.0.0.1:4000")
    with pytest.raises(NotWorking, match=r"does not answer after 0 s.\nAfter 10 s, nothing listens on 127.0.0.1:4000"):
        await wait_until_answers(deployed, _Steps(), 0)


async def test_a_wait_ends_when_nothing_runs_any_more(deployed: Deployment) -> None:
    _write_state(deployed, "starting")
    with pytest.raises(NotWorking, match="Enginehouse was stopped"):
        await wait_until_answers(deployed, _Steps(), None)


async def test_a_bundle_that_is_not_given_to_the_gateway_ends_the_wait(deployed: Deployment, api: _Api) -> None:
    deployed.home.state_file.write_text(json.dumps({"engines": {}, "refused": {_ENGINE: "two objects"}}))
    with pytest.raises(NotWorking, match="two objects"):
        await wait_until_answers(deployed, _Steps(), None)
