"""A whole stack of real processes: jobs pass, engines come and go, and every killed process comes back."""

import json
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml
from redis import Redis
from redis.exceptions import ConnectionError as Disconnected
from tests.support.auditor import running_auditor
from tests.support.commands import run_command
from tests.support.stack import StackHandle, running_stack, start_stack, until

from enginehouse.broker import redis
from enginehouse.local.tenant_systems import redis_of

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
_ECHO = "tests--echo"
_ECHO_PROCESSES = [f"{_ECHO}--a.{part}" for part in ("engine-0", "runner", "daprd")]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    env = {"ENGINEHOUSE_GATEWAY_AUDIT_SHIPPED": "true"}
    with running_stack(tmp_path_factory.mktemp("home"), [_ENGINES / "echo"], env=env) as handle:
        yield handle


def _engine(folder: Path, name: str, source: Path = _ENGINES / "echo", **changes: object) -> Path:
    """Return a copy of a tiny engine under another name."""
    copy = folder / name
    shutil.copytree(source, copy)
    spec = yaml.safe_load((copy / "engine.yaml").read_text())
    (copy / "engine.yaml").write_text(yaml.safe_dump({**spec, "name": name, **changes}))
    return copy


def _echoes(stack: StackHandle, engine: str = _ECHO) -> None:
    value = {"n": 1}
    job = stack.submit(engine, value, tenant="tests")
    assert (job["status"], job.get("output")) == ("succeeded", value), job


def test_a_job_goes_through_every_part(stack: StackHandle) -> None:
    _echoes(stack)
    assert set(stack.processes()) == {"redis", "gateway", "gateway.daprd", "registry", *_ECHO_PROCESSES}


def test_others_on_this_machine_can_read_no_data(stack: StackHandle) -> None:
    _echoes(stack)
    until(lambda: list((stack.home.data / "redis").rglob("*.aof")), "Redis has written its data")
    private = [stack.home.data, stack.home.logs, stack.home.run]
    paths = [path for folder in private for path in (folder, *folder.rglob("*"))]
    assert len(paths) > 20
    assert [(str(path), oct(path.lstat().st_mode)) for path in paths if path.lstat().st_mode & 0o077] == []
    # Bundles hold no data. What else is in a home is closed as well.
    bundles = {stack.home.engines, stack.home.tenants}
    assert [
        path.name for path in stack.home.path.iterdir() if path.stat().st_mode & 0o077 and path not in bundles
    ] == []


def test_every_part_listens_on_loopback_only_and_below_outgoing_ports(stack: StackHandle) -> None:
    seen = set()
    for name in stack.processes():
        for connection in psutil.Process(stack.pid(name)).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN:
                seen.add(name)
                # A socket of both families shows the address so.
                assert connection.laddr.ip.removeprefix("::ffff:") == "127.0.0.1", (name, connection)
                assert connection.laddr.port < 32_768, (name, connection)
    assert seen == set(stack.processes())


def test_no_process_but_the_supervisor_has_the_password_of_redis_administrator(stack: StackHandle) -> None:
    password = stack.home.secret("redis")
    users = {}
    for name in stack.processes().keys() - {"redis"}:
        environment = psutil.Process(stack.pid(name)).environ()
        assert password not in str(environment), name
        users[name] = environment.get("ENGINEHOUSE_REDIS_USERNAME")
    assert users["gateway.daprd"] == "enginehouse-gateway"
    assert users[f"{_ECHO}--a.daprd"] == f"engine-{_ECHO}"


def test_official_tools_find_every_sidecar(stack: StackHandle) -> None:
    apps = {}
    for process in stack.processes().values():
        if process["kind"] == "daprd":
            found = psutil.Process(process["pid"])
            command = found.cmdline()
            assert found.name() == "daprd"
            apps[command[command.index("--app-id") + 1]] = int(command[command.index("--dapr-http-port") + 1])
    assert apps.keys() == {"gateway", f"{_ECHO}--a"}


def test_no_secret_is_in_any_command_line_and_the_engine_is_told_none(stack: StackHandle) -> None:
    secrets = [path.read_text() for path in stack.home.run.glob("*.secret")]
    assert len(secrets) == 4
    for name in stack.processes():
        command = " ".join(psutil.Process(stack.pid(name)).cmdline())
        assert not [secret for secret in secrets if secret in command], name
    environment = psutil.Process(stack.pid(f"{_ECHO}--a.engine-0")).environ()
    assert environment.keys() <= {"PATH", "HOME", "PORT", "LANG", "LC_CTYPE", "ENGINE_CONCURRENCY"}
    assert not [secret for secret in secrets if secret in str(environment)]


def test_an_engine_added_while_all_runs_takes_jobs_and_nothing_else_restarts(
    stack: StackHandle, tmp_path: Path
) -> None:
    before = {name: stack.pid(name) for name in stack.processes()}
    engine = stack.deploy(_engine(tmp_path, "added", scale={"min": 2, "max": 2}))
    _echoes(stack, engine)
    assert {f"{engine}--a.engine-0", f"{engine}--a.engine-1"} <= set(stack.processes())
    assert {name: stack.pid(name) for name in before} == before

    pids = [process["pid"] for name, process in stack.processes().items() if name.startswith(engine)]
    stack.remove(engine)
    until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "its processes are gone", 60)
    until(lambda: engine not in stack.state()["engines"], "it is forgotten")
    until(lambda: not list(stack.home.gateway_parts.glob(f"{engine}*")), "nothing of it is left", 60)
    assert not list(stack.home.path.rglob(f"*{engine}*"))
    assert {name: stack.pid(name) for name in before} == before
    _echoes(stack)


def test_changed_code_takes_effect_when_it_is_deployed_not_before_and_the_version_before_serves_meanwhile(
    stack: StackHandle, tmp_path: Path
) -> None:
    folder = _engine(tmp_path, "changing")
    engine = stack.deploy(folder)
    runner = stack.pid(f"{engine}--a.runner")
    stack.deploy(folder)
    _echoes(stack, engine)
    assert stack.pid(f"{engine}--a.runner") == runner, "nothing had changed"

    code = (folder / "engine.py").read_text()
    (folder / "engine.py").write_text(code.replace("return data", 'return {"was": data}'))
    replica = f"{engine}--a.engine-0"
    moved = folder.rename(folder.with_name("moved"))
    stack.until_restarted(replica, stack.kill(replica))
    stack.until_engine(engine)
    _echoes(stack, engine)  # Editing and moving do not deploy, even when the engine starts again.
    stack.deploy(moved, wait=False)
    _echoes(stack, engine)
    until(lambda: stack.state()["engines"][engine]["slot"] == "b", "the new version has taken over", 60)
    until(lambda: f"{engine}--a.runner" not in stack.processes(), "the version before has ended", 60)
    job = stack.submit(engine, 1, tenant="tests")
    assert (job["status"], job.get("output")) == ("succeeded", {"was": 1}), job
    stack.remove(engine)
    until(lambda: engine not in stack.state()["engines"], "it is forgotten", 60)


def test_jobs_of_a_removed_engine_end_and_new_ones_are_refused(stack: StackHandle, tmp_path: Path) -> None:
    engine = stack.deploy(_engine(tmp_path, "leaving", _ENGINES / "sleeps"))
    jobs = [stack.submit(engine, {"seconds": 60}, tenant="tests", wait=0)["id"] for _ in range(3)]
    stack.remove(engine)
    for job_id in jobs:
        job = stack.call("GET", f"/v1/jobs/{job_id}?wait=60", tenant="tests").body
        assert (job["status"], job["error"]["code"]) == ("canceled", "ENGINE_REMOVED"), job
    answer = stack.call("POST", f"/v1/engines/{engine}/jobs", {"input": 1}, tenant="tests")
    assert (answer.status, answer.body["code"]) == (410, "ENGINE_REMOVED")
    until(lambda: engine not in stack.state()["engines"], "it is forgotten", 60)


@pytest.mark.parametrize("part", ["gateway", "registry"])
def test_whatever_is_killed_comes_back_and_jobs_go_through_again(stack: StackHandle, part: str) -> None:
    restarts = stack.processes()[part]["restarts"]
    stack.until_restarted(part, stack.kill(part))

    def goes_through() -> bool:
        try:
            answer = stack.call("POST", f"/v1/engines/{_ECHO}/jobs", {"input": 7}, tenant="tests")
        except OSError:
            return False
        if answer.status != 202:
            return False
        job = stack.call("GET", f"/v1/jobs/{answer.body['id']}?wait=30", tenant="tests").body
        assert job["status"] == "succeeded", job
        return True

    until(goes_through, f"jobs go through after {part} was killed", 60)
    assert stack.processes()[part]["restarts"] == restarts + 1


def test_the_audit_log_is_whole_after_all_that_and_shows_the_kills(stack: StackHandle) -> None:
    def started() -> list[str]:
        listed = run_command(stack.home.path, "audit", "list", "--action", "started", "--json").stdout
        return sorted(entry["writer"] for entry in json.loads(listed))

    wanted = ["gateway", "gateway", "registry", "registry", "supervisor"]
    until(lambda: started() == wanted, "each has started twice")
    checked = json.loads(run_command(stack.home.path, "audit", "verify", "--json").stdout)
    assert [chain["faults"] for chain in checked] == [[]] * 3, checked
    assert {chain["chain"] for chain in checked} == {"gateway", "registry", "supervisor"}


def test_the_audit_log_reaches_a_subscriber_and_verifies_by_its_events_alone(
    stack: StackHandle, tmp_path: Path
) -> None:
    home = stack.home.path

    def chains(*arguments: str) -> dict[str, Any]:
        return {
            chain["chain"]: chain
            for chain in json.loads(run_command(home, "audit", "verify", "--json", *arguments).stdout)
        }

    def ended_job() -> str:
        job: str = stack.submit(_ECHO, 1, tenant="tests")["id"]
        wanted = ("audit", "list", "--job", job, "--action", "job ended", "--json")
        until(lambda: json.loads(run_command(home, *wanted).stdout), "its end is written")
        return job

    with running_auditor(stack, tmp_path) as arrived:
        before = ended_job()
        stack.until_restarted("gateway", stack.kill("gateway"))
        deployed = run_command(home, "engines", "deploy", str(_engine(tmp_path, "shipped")), "--no-wait")
        assert deployed.returncode == 0, deployed.stderr
        until(lambda: _is_answered(stack, "/healthz/ready"), "the gateway is back")
        after = ended_job()
        wanted = chains()
        until(
            lambda: all(chain["head"].split(":")[2] in arrived.read_text() for chain in wanted.values()),
            "all arrived",
            90,
        )
    found = chains("--events", str(arrived))
    assert {"gateway", "registry", "commands"} <= set(wanted) == set(found)
    for name, chain in found.items():
        assert (chain["first"], chain["faults"]) == (1, []), name
        assert chain["entries"] >= wanted[name]["entries"], name
    entries = [json.loads(line)["data"] for line in arrived.read_text().splitlines()]
    assert {before, after} <= {entry.get("job") for entry in entries if entry["action"] == "job ended"}
    assert ("enginehouse engines deploy", "tests--shipped") in {
        (entry["action"], entry.get("engine")) for entry in entries
    }
    stack.remove("tests--shipped")


def _is_answered(stack: StackHandle, path: str) -> bool:
    try:
        return stack.call("GET", path).status == 200
    except OSError:
        return False


def test_a_second_supervisor_of_the_same_home_is_refused(stack: StackHandle) -> None:
    second = start_stack(stack.home.path, wait=False)
    assert second.up.process.wait(30) == 1
    assert "already running" in second.up.logs()
    _echoes(stack)


def test_a_runner_has_a_hung_replica_restarted_by_a_file(stack: StackHandle) -> None:
    name = f"{_ECHO}--a.engine-0"
    old = stack.signal(name, signal.SIGSTOP)
    port = stack.processes()[name]["port"]
    (stack.home.exchange / f"{_ECHO}--a" / f"127.0.0.1_{port}").touch()
    stack.until_restarted(name, old)
    assert not list((stack.home.exchange / f"{_ECHO}--a").iterdir())
    _echoes(stack)


def test_tokens_of_one_app_are_useless_at_another_and_in_no_file(stack: StackHandle) -> None:
    engine = f"{_ECHO}--a"
    apps = {name: psutil.Process(stack.pid(f"{name}.daprd")).environ() for name in ("gateway", engine)}
    for name, own in apps.items():
        own["port"] = str(stack.processes()[f"{name}.daprd"]["port"])
    delivery = stack.processes()[f"{engine}.runner"]["port"]
    statuses: dict[tuple[str, str], int] = {}
    for name, own in apps.items():
        for at, other in apps.items():
            url = f"http://127.0.0.1:{other['port']}/v1.0/metadata"
            statuses[name, at] = _status(url, own["DAPR_API_TOKEN"])
        statuses[name, "delivery"] = _status(f"http://127.0.0.1:{delivery}/jobs", own["APP_API_TOKEN"], b"{}")
    assert statuses.pop((engine, "delivery")) != 403
    assert statuses == {
        ("gateway", "gateway"): 200,
        ("gateway", engine): 401,
        ("gateway", "delivery"): 403,
        (engine, "gateway"): 401,
        (engine, engine): 200,
    }
    tokens = [own[name] for own in apps.values() for name in ("DAPR_API_TOKEN", "APP_API_TOKEN")]
    assert len(set(tokens)) == 4
    files = [path for path in stack.home.run.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in files if any(token.encode() in path.read_bytes() for token in tokens)]


def _status(url: str, token: str, body: bytes | None = None) -> int:
    request = Request(url, body, {"dapr-api-token": token, "content-type": "application/json"})
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def test_credentials_are_rotated_while_jobs_are_in_flight(stack: StackHandle) -> None:
    sleeps, user = "tests--sleeps", "engine-tests--sleeps"
    stack.deploy(_ENGINES / "sleeps")
    address, password = redis_of(stack.home), stack.home.secret(f"redis-{user}")
    former = replace(address, user=user, password=password)
    parts = [f"{sleeps}--a.{part}" for part in ("engine-0", "runner", "daprd")]
    before = {part: stack.pid(part) for part in parts}
    token = psutil.Process(before[parts[2]]).environ()["DAPR_API_TOKEN"]
    with Redis(port=address.port, username=user, password=password) as thief:
        assert thief.ping()
        stolen = thief.connection_pool.get_connection()
        jobs = [stack.submit(sleeps, {"seconds": 2}, tenant="tests", wait=0)["id"] for _ in range(8)]
        until(lambda: stack.call("GET", f"/v1/jobs/{jobs[0]}", tenant="tests").body["status"] == "running", "it runs")
        done = run_command(stack.home.path, "engines", "rotate", sleeps)
        assert (done.returncode, "former ones are refused" in done.stdout) == (0, True), done.stderr
        with pytest.raises(Disconnected):
            stolen.read_response()
        thief.connection_pool.release(stolen)
    jobs.append(stack.submit(sleeps, {"seconds": 0}, tenant="tests", wait=0)["id"])
    for job in jobs:
        ended = stack.call("GET", f"/v1/jobs/{job}?wait=60", tenant="tests").body
        assert (ended["status"], ended["attempts"]) == ("succeeded", 1), ended
    assert not redis.answers(former)
    assert redis.answers(replace(former, password=stack.home.secret(f"redis-{user}")))
    after = {part: stack.pid(part) for part in parts}
    assert [before[part] == after[part] for part in parts] == [True, False, False]
    assert psutil.Process(after[parts[2]]).environ()["DAPR_API_TOKEN"] != token
    path = f"/v1/audit?engine={sleeps}&action=credentials"
    acts = until(lambda: stack.call("GET", path, tenant="tests").body["entries"], "the rotation is recorded")
    assert [(act["writer"], act["outcome"]) for act in acts] == [("supervisor", "ok")]
