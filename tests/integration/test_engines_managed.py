"""Engines' extra endpoints, broadcasts and secrets, over real sidecars, and what other apps get of them: nothing."""

import http.client
import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from tests.support.break_ins import attempt
from tests.support.dapr import PORTS, DaprdHandle, Started, spawn, start_daprd
from tests.support.stack import StackHandle, running_stack, until

from enginehouse.contracts.names import JOBS_ROUTE, app_id, secrets_component
from enginehouse.registry.deploy import deploy_engine
from enginehouse.registry.secrets import remove_secret, secrets_file, set_secret

_ENGINE, _SECRETIVE = (Path(__file__).resolve().parents[1] / "engines" / name for name in ("extras", "secretive"))
ID = "tests--extras"
APP = app_id(ID, "a")
SECRETIVE = "tests--secretive"
VALUE, CHANGED = "very-secret-value-1", "very-secret-value-2"
CALL = f"/v1/engines/{ID}/call"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    with running_stack(tmp_path_factory.mktemp("extras"), [_ENGINE], tenants=["tests", "umbra"]) as handle:
        yield handle


@dataclass(frozen=True)
class Raw:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    stack: StackHandle, method: str, path: str, body: bytes | None = None, tenant: str = "tests", **headers: str
) -> Raw:
    """Call an extra endpoint, with the path exactly as given."""
    connection = http.client.HTTPConnection(urlsplit(stack.base_url).netloc, timeout=60)
    sent = {"Authorization": f"Bearer {stack.keys[tenant]}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request(method, f"{CALL}/{path}", body, sent)
    answer = connection.getresponse()
    found = Raw(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return found


def test_a_call_reaches_the_engine_as_it_was_sent_without_credentials(stack: StackHandle) -> None:
    answer = call(
        stack,
        "PATCH",
        "echo/a%20b/%C3%A4:c?x=1&y=a+b&z=%2F",
        b"\x00\xffbody",
        Content_Type="text/x-mine",
        Cookie="a=b",
        X_Mine="kept",
        Dapr_App_Id="acme--other--a",
        Connection="X-Once",
        X_Once="dropped",
    )
    assert answer.status == 201
    assert answer.headers["content-type"] == "application/vnd.mine+json"
    assert answer.headers["x-enginehouse-engine"] == ID
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("PATCH", "a b/ä:c", "x=1&y=a+b&z=%2F")
    assert seen["body"] == "\x00\xffbody"
    assert seen["headers"]["content-type"] == "text/x-mine"
    assert seen["headers"]["x-mine"] == "kept"
    allowed = {
        "host",
        "content-length",
        "content-type",
        "x-mine",
        "accept-encoding",
        "user-agent",
        "traceparent",
        "tracestate",
    }
    assert set(seen["headers"]) <= allowed
    assert stack.keys["tests"] not in json.dumps(seen)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_every_method_is_passed_on(stack: StackHandle, method: str) -> None:
    answer = call(stack, method, "echo/x")
    assert answer.headers["x-enginehouse-engine"] == ID
    assert answer.status == (405 if method == "HEAD" else 201)
    assert method == "HEAD" or answer.json()["method"] == method


def test_an_engines_page_does_not_run_on_our_origin(stack: StackHandle) -> None:
    answer = call(stack, "GET", "page")
    assert (answer.status, answer.body) == (200, b"<script>alert(1)</script>")
    assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["etag"] == '"1"'
    assert answer.headers["x-enginehouse-engine"] == ID
    assert not {"set-cookie", "clear-site-data", "x-accel-redirect"} & set(answer.headers)


def test_a_redirect_is_neither_followed_nor_passed_on(stack: StackHandle) -> None:
    answer = call(stack, "GET", "elsewhere")
    assert answer.status == 307
    assert "location" not in answer.headers


def test_an_engines_error_is_its_own_and_not_the_gateways(stack: StackHandle) -> None:
    answer = call(stack, "GET", "broken")
    assert (answer.status, answer.json()["message"]) == (503, "mine")
    assert answer.headers["x-enginehouse-engine"] == ID
    missing = call(stack, "GET", "no-such")
    assert (missing.status, missing.headers["x-enginehouse-engine"]) == (404, ID)


def test_a_large_answer_comes_whole_and_a_larger_one_is_refused(stack: StackHandle) -> None:
    most = 8 * 1024 * 1024
    assert len(call(stack, "GET", f"much?count={most}").body) == most
    refused = call(stack, "GET", f"much?count={most + 1}")
    assert (refused.status, refused.json()["code"]) == (502, "ENGINE_CALL_FAILED")
    assert call(stack, "POST", "echo/x", b"x" * 1024 * 1024).status == 201
    assert call(stack, "POST", "echo/x", b"x" * (1024 * 1024 + 1)).json()["code"] == "INPUT_TOO_LARGE"


def test_only_the_owner_and_operators_may_call(stack: StackHandle) -> None:
    assert call(stack, "GET", "info", tenant="umbra").json()["code"] == "ENGINE_DOES_NOT_EXIST"
    assert call(stack, "GET", "info", tenant="demo").status == 200, "demo has an administrator's key"


def test_a_broadcast_reaches_every_replica(stack: StackHandle) -> None:
    updated = stack.call("POST", "/v1/engines:update?selector=name=extras", {"model": "v7"}, tenant="tests").body
    (engine,) = updated["engines"]
    assert [one["body"] for one in engine["replicas"]] == [{"result": 1}] * 2
    (engine,) = stack.call("GET", "/v1/engines:info?selector=label.team=nlp", tenant="tests").body["engines"]
    assert engine["engine"] == ID
    infos = [one["body"] for one in engine["replicas"]]
    assert len({info["port"] for info in infos}) == 2
    assert [info["updates"] for info in infos] == [[{"model": "v7"}]] * 2
    assert stack.call("GET", "/v1/engines:info", tenant="umbra").body == {"engines": []}


def _copy_of(stack: StackHandle, name: str, log: Path, ports: dict[str, int], **variables: str) -> Started:
    """Start a process like `name` of the stack, with other ports and these variables."""
    process = Path("/proc", str(stack.pid(name)))

    def moved(text: str) -> str:
        return str(ports.get(text, text))

    command = [moved(part) for part in (process / "cmdline").read_text().rstrip("\0").split("\0")]
    found = dict(entry.split("=", 1) for entry in (process / "environ").read_text().rstrip("\0").split("\0"))
    environment = {key: moved(value) for key, value in found.items()} | variables
    return spawn(name, command, log / f"{name}.log", environment, (process / "cwd").resolve())


def _ports_of(stack: StackHandle, name: str) -> list[str]:
    """Return the ports that the arguments of a sidecar name."""
    arguments = Path("/proc", str(stack.pid(name)), "cmdline").read_text().split("\0")
    return [value for flag, value in pairwise(arguments) if flag.endswith("-port")]


@pytest.fixture
def second_worker(stack: StackHandle, tmp_path: Path) -> Iterator[str]:
    """Another runner of the same slot, with a sidecar and a replica of its own, as Kubernetes would have."""
    ports = {port: PORTS.take() for port in _ports_of(stack, f"{APP}.daprd")}
    replica = stack.processes()[f"{APP}.engine-0"]["port"]
    ports[str(replica)] = PORTS.take()
    url = f"http://127.0.0.1:{ports[str(replica)]}"
    runner = {"ENGINEHOUSE_RUNNER_WORKER": "second", "ENGINEHOUSE_RUNNER_ENGINE_URLS": json.dumps([url])}
    started = [
        _copy_of(stack, f"{APP}.engine-0", tmp_path, ports),
        _copy_of(stack, f"{APP}.runner", tmp_path, ports, **runner),
        _copy_of(stack, f"{APP}.daprd", tmp_path, ports),
    ]
    yield url
    for process in started:  # The sidecar last: it stops at once when its runner has.
        process.stop()


def test_a_broadcast_reaches_every_runner_of_an_engine_once(stack: StackHandle, second_worker: str) -> None:
    def asked(method: str, path: str, body: Any = None) -> dict[str, Any]:
        (engine,) = stack.call(method, f"/v1/engines:{path}?selector=name=extras", body, tenant="tests").body["engines"]
        return dict(engine)

    def known() -> bool:
        # That it has answered is too little: chance may lead to it before its first heartbeat.
        workers = stack.call("GET", f"/v1/engines/{ID}", tenant="tests").body["queue"]["workers"]
        return int(workers["idle"]) + int(workers["running"]) == 2

    until(known, "the second worker is known")
    found = until(lambda: (one := asked("GET", "info"))["unanswered"] == [] and one, "its sidecar is up")
    assert len(found["answered"]) == 2
    before = {one["replica"]: len(one["body"]["updates"]) for one in found["replicas"]}
    assert len(before) == 3
    assert second_worker.removeprefix("http://") in before
    for number in range(4):
        updated = asked("POST", "update", {"number": number})
        assert (len(updated["answered"]), updated["unanswered"]) == (2, [])
        assert {one["replica"]: one["body"]["result"] for one in updated["replicas"]} == {
            replica: count + number + 1 for replica, count in before.items()
        }


@pytest.fixture(scope="module")
def stranger(stack: StackHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaprdHandle]:
    """Another app with a sidecar of its own, which finds the runner as the gateway's does."""
    log = tmp_path_factory.mktemp("stranger") / "daprd.log"
    handle = start_daprd("tests--stranger--a", [], log, config=stack.home.run / "configuration-gateway.yaml")
    yield handle
    handle.stop()


def invoke(daprd: DaprdHandle, path: str, **headers: str) -> tuple[int, str]:
    sent = {"dapr-api-token": daprd.api_token, "Content-Type": "application/json"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    request = Request(f"{daprd.url}/invoke/{APP}/method/{path}", b"{}", sent, method="POST")
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["call/one/info", JOBS_ROUTE.strip("/"), "metrics", "healthz"])
def test_no_other_app_can_call_a_runner(stranger: DaprdHandle, path: str) -> None:
    assert invoke(stranger, path)[0] == 403
    assert invoke(stranger, path, Dapr_Caller_App_Id="gateway")[0] == 403


def test_a_delivery_cannot_be_forged_by_the_app_that_may_call(stack: StackHandle, tmp_path: Path) -> None:
    """The gateway's app id opens `/call/` only, and only for what the gateway has proven: what hands over jobs is the topic."""
    gateway = start_daprd("gateway", [], tmp_path / "daprd.log", config=stack.home.run / "configuration-gateway.yaml")
    try:
        assert invoke(gateway, "call/one/update")[0] == 403
        assert invoke(gateway, JOBS_ROUTE.strip("/"))[0] == 404
        assert invoke(gateway, "call/one/../../jobs")[0] == 404
    finally:
        gateway.stop()


def test_an_engine_starts_once_it_has_its_secret_and_restarts_with_another(stack: StackHandle) -> None:
    deploy_engine(stack.home.engines, _SECRETIVE)

    def problem() -> str:
        return str(stack.state()["engines"].get(SECRETIVE, {}).get("problem") or "")

    until(lambda: "enginehouse engines secret set tests--secretive MODEL_TOKEN" in problem(), "it says what to type")

    set_secret(stack.home.path, SECRETIVE, "MODEL_TOKEN", VALUE)
    set_secret(stack.home.path, SECRETIVE, "OF_ANOTHER", "not asked for")
    until(lambda: stack.state()["engines"][SECRETIVE]["state"] == "running", "it starts")
    stack.until_engine(SECRETIVE)
    output = stack.submit(SECRETIVE, 1, tenant="tests")["output"]
    assert output == {"backwards": VALUE[::-1], "files": ["MODEL_TOKEN"], "mode": "0o400"}

    set_secret(stack.home.path, SECRETIVE, "MODEL_TOKEN", CHANGED)
    until(
        lambda: stack.submit(SECRETIVE, 1, tenant="tests")["output"]["backwards"] == CHANGED[::-1],
        "it has the new value",
    )


def test_the_value_is_in_no_other_file(stack: StackHandle) -> None:
    own = {
        secrets_file(stack.home.path, SECRETIVE),
        stack.home.run / "secrets" / app_id(SECRETIVE, "a") / "MODEL_TOKEN",
    }
    found = {
        path
        for path in stack.home.path.rglob("*")
        if path.is_file() and not path.is_symlink() and CHANGED.encode() in path.read_bytes()
    }
    assert found == own
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in found)


@attempt("reads another engine's secrets by its sidecar", layer="a store of secrets for each app")
def test_another_engines_sidecar_cannot_read_it(tmp_path: Path) -> None:
    """Not even with the component's own file and the place of the values."""
    engines = tmp_path / "engines"
    deploy_engine(engines, _SECRETIVE)
    set_secret(tmp_path, SECRETIVE, "MODEL_TOKEN", VALUE)
    component = engines / SECRETIVE / "slots" / "a" / "dapr"
    env = {
        "ENGINEHOUSE_SECRETS_FILE": str(secrets_file(tmp_path, SECRETIVE)),
        "ENGINEHOUSE_REDIS_HOST": "127.0.0.1:1",
    }
    answers = {}
    for app in (app_id(SECRETIVE, "a"), app_id("tests--other", "a")):
        alone = tmp_path / app
        alone.mkdir()
        (alone / "secrets.yaml").write_text((component / "secrets.yaml").read_text())
        daprd = start_daprd(app, [alone], tmp_path / f"{app}.log", env=env)
        request = Request(
            f"{daprd.url}/secrets/{secrets_component(SECRETIVE)}/MODEL_TOKEN",
            headers={"dapr-api-token": daprd.api_token},
        )
        try:
            with urlopen(request, timeout=10) as answer:
                answers[app] = json.loads(answer.read())
        except HTTPError as error:
            with error:
                answers[app] = error.code
        finally:
            daprd.stop()
    assert answers == {app_id(SECRETIVE, "a"): {"MODEL_TOKEN": VALUE}, app_id("tests--other", "a"): 500}


def test_without_its_value_it_stops(stack: StackHandle) -> None:
    remove_secret(stack.home.path, SECRETIVE, "MODEL_TOKEN")
    until(lambda: stack.state()["engines"][SECRETIVE]["state"] == "failed", "it does not run any more")
    assert not (stack.home.run / "secrets" / app_id(SECRETIVE, "a") / "MODEL_TOKEN").exists()
