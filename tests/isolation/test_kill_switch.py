"""A quarantined engine is gone: its processes, its sidecar, its credentials, and whatever was opened with them."""

import contextlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import yaml
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as Disconnected
from tests.support.break_ins import Noted, attempt
from tests.support.commands import run_command
from tests.support.stack import StackHandle, running_stack, until

from enginehouse.broker import redis
from enginehouse.broker.redis import RedisAddress
from enginehouse.local.tenant_systems import redis_of

_ENGINES = Path(__file__).resolve().parents[1] / "engines"
HOSTILE, OTHER, NONSENSE = "tests--hostile", "tests--echo", "tests--answers-nonsense"
NONSENSE_MAX = 30
PARTS = [f"{HOSTILE}--a.{part}" for part in ("engine-0", "runner", "daprd")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an engine that is to be stopped."""
    copy = tmp_path_factory.mktemp("engines") / "hostile"
    shutil.copytree(_ENGINES / "echo", copy)
    spec = yaml.safe_load((copy / "engine.yaml").read_text())
    (copy / "engine.yaml").write_text(yaml.safe_dump({**spec, "name": "hostile"}))
    return copy


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[StackHandle]:
    engines = [_ENGINES / "echo", _ENGINES / "answers_nonsense", folder]
    env = {"ENGINEHOUSE_GATEWAY_MALFORMED_ANSWERS_MAX": str(NONSENSE_MAX)}
    with running_stack(tmp_path_factory.mktemp("home"), engines, env=env) as handle:
        yield handle


def stolen(stack: StackHandle) -> RedisAddress:
    """Return the engine's own credentials for Redis, as code that has taken its sidecar's memory has them."""
    user = f"engine-{HOSTILE}"
    return replace(redis_of(stack.home), user=user, password=stack.home.secret(f"redis-{user}"))


def client(address: RedisAddress) -> Redis:
    """Return a client that shows these credentials."""
    return Redis(port=address.port, username=address.user, password=address.password)


def shown(stack: StackHandle, engine: str = HOSTILE) -> dict[str, Any]:
    """Return what the API says about an engine."""
    return dict(stack.call("GET", f"/v1/engines/{engine}", tenant="tests").body)


def works(stack: StackHandle, engine: str) -> None:
    job = stack.submit(engine, {"n": 1}, tenant="tests")
    assert (job["status"], job.get("output")) == ("succeeded", {"n": 1}), job


def recorded(stack: StackHandle, action: str, engine: str = HOSTILE) -> list[dict[str, Any]]:
    """Return what the audit log shows an engine's owner, newest first."""
    query = f"engine={engine}&action={quote(action)}"
    return list(stack.call("GET", f"/v1/audit?{query}", tenant="tests").body["entries"])


def until_stopped(stack: StackHandle, engine: str = HOSTILE) -> None:
    until(lambda: not any(name.startswith(engine) for name in stack.processes()), "nothing of it runs")
    until(lambda: stack.state()["engines"][engine]["state"] == "quarantined", "it is shown")


@attempt("goes on over a connection to Redis that was opened before the quarantine", layer="Redis deletes its user")
@attempt("logs in to Redis with the stolen password of a quarantined engine", layer="Redis deletes its user")
@attempt("goes on as a process after its engine was quarantined", layer="the supervisor kills them")
@attempt("resumes its own engine that an operator has quarantined", layer="operators only")
@attempt("uses the former password and token of an engine that was resumed", layer="new ones at each start")
def test_a_quarantined_engine_is_killed_and_its_credentials_are_worthless(stack: StackHandle, note: Noted) -> None:
    works(stack, HOSTILE)
    before, address = [stack.pid(name) for name in PARTS], stolen(stack)
    token = psutil.Process(before[2]).environ()["DAPR_API_TOKEN"]
    with client(address) as thief:
        assert thief.ping()
        opened = thief.connection_pool.get_connection()
        quarantined = stack.call("POST", f"/v1/engines/{HOSTILE}/quarantine", {"reason": "it mines coins"})
        assert quarantined.status == 200, quarantined
        until_stopped(stack)
        with pytest.raises(Disconnected):
            opened.read_response()
        thief.connection_pool.release(opened)
    note("its connection is closed")
    assert not redis.answers(address)
    note("its login is refused")
    assert not any(psutil.pid_exists(pid) for pid in before)
    note("its processes are gone")
    rotated = run_command(stack.home.path, "engines", "rotate", HOSTILE)
    assert (rotated.returncode, "its engine is quarantined" in rotated.stderr) == (1, True), rotated.stderr
    view = shown(stack)
    assert (view["state"], view["reason"]) == ("quarantined", "it mines coins")
    status = run_command(stack.home.path, "status")
    assert f"{HOSTILE}: quarantined. it mines coins" in status.stdout
    works(stack, OTHER)
    waits = stack.submit(HOSTILE, {"n": 2}, tenant="tests", wait=0)["id"]
    assert stack.call("POST", f"/v1/engines/{HOSTILE}/resume", tenant="tests").status == 403
    note("its owner gets 403")

    assert stack.call("POST", f"/v1/engines/{HOSTILE}/resume").status == 200
    assert stack.call("GET", f"/v1/jobs/{waits}?wait=30", tenant="tests").body["status"] == "succeeded"
    assert not redis.answers(address)
    assert redis.answers(stolen(stack))
    assert psutil.Process(stack.pid(PARTS[2])).environ()["DAPR_API_TOKEN"] != token
    note("later the former password is refused still")


@attempt("hammers commands that Redis refuses it", layer="counted, and quarantined")
@attempt("fails to log in under another's name until that one is quarantined", layer="failed logins count for nobody")
def test_an_engine_that_hammers_forbidden_commands_is_quarantined_and_another_goes_on(
    stack: StackHandle, note: Noted
) -> None:
    with client(stolen(stack)) as thief:
        for _ in range(3):
            for command in (["KEYS", "*"], ["HGETALL", f"{OTHER}||job"], ["ACL", "WHOAMI"]):
                with contextlib.suppress(NoPermissionError):
                    thief.execute_command(*command)
        # Everybody can fail to log in under another's name. That must not stop the other.
        for _ in range(400):
            assert not redis.answers(replace(stolen(stack), user=f"engine-{OTHER}"))
        until(lambda: 3 <= shown(stack)["misbehaviour"].get("denied_commands", 0) < 300, "some are counted")
        assert shown(stack)["state"] == "active"
        for _ in range(400):
            with contextlib.suppress(NoPermissionError, Disconnected, AuthenticationError):
                thief.execute_command("KEYS", "*")
        until_stopped(stack)
        with pytest.raises((Disconnected, AuthenticationError)):
            thief.ping()
    view = shown(stack)
    assert "commands that the broker refused to its credentials within 60 minutes" in view["reason"]
    note(view["reason"])
    works(stack, OTHER)
    assert shown(stack, OTHER)["misbehaviour"] == {}
    note("the other is active")
    until(lambda: len(recorded(stack, "killed")) == 2, "the supervisor has recorded it")
    acts = recorded(stack, "killed") + recorded(stack, "engine quar")
    assert [(act["writer"], act["by"], act["outcome"]) for act in acts] == [
        *[("supervisor", None, "ok")] * 2,
        ("gateway", None, "ok"),
    ]
    assert "commands that the broker refused" in acts[2]["detail"]
    assert stack.call("POST", f"/v1/engines/{HOSTILE}/resume", tenant="tests").status == 403
    assert stack.call("POST", f"/v1/engines/{HOSTILE}/resume").status == 200
    works(stack, HOSTILE)


@attempt(
    "answers most jobs with nonsense, and some well so that the breaker never counts ten in a row",
    layer="counted, and quarantined",
)
def test_an_engine_that_goes_on_answering_nonsense_is_quarantined_and_its_owner_may_resume_it(
    stack: StackHandle, note: Noted
) -> None:
    kinds = ["not json", "nan", "redirect", "no result", "not utf-8", "sense"]
    jobs = [{"engine": NONSENSE, "input": {"as": kind}} for kind in kinds * 10]
    accepted = stack.call("POST", "/v1/jobs/batch", {"jobs": jobs}, tenant="tests")
    assert accepted.status == 202, accepted
    until_stopped(stack, NONSENSE)
    reason = shown(stack, NONSENSE)["reason"]
    assert reason.startswith(f"Misbehaviour was counted: {NONSENSE_MAX} answers that are no results within 60 minutes")
    note(reason)
    metrics = stack.call("GET", "/metrics").body.decode()
    measured = re.search(
        r'^enginehouse_gateway_misdeeds_total\{kind="malformed_answers"\} (\S+)', metrics, re.MULTILINE
    )
    assert measured, metrics
    assert float(measured[1]) >= NONSENSE_MAX
    acts = until(lambda: recorded(stack, "engine quar", NONSENSE), "the gateway has recorded it")
    assert [(act["writer"], act["outcome"]) for act in acts] == [("gateway", "ok")]
    works(stack, OTHER)
    assert stack.call("POST", f"/v1/engines/{NONSENSE}/resume", tenant="tests").status == 200
    assert stack.submit(NONSENSE, {"as": "sense"}, tenant="tests")["output"] == "sense"
