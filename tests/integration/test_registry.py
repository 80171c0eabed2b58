"""The registry beside a whole stack: engines and tenants come and go over HTTP, nothing else restarts, nothing is left."""

import contextlib
import random
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import redis
import yaml
from tests.support.documents import ROOT
from tests.support.stack import StackHandle, running_stack, start_stack, until

from enginehouse.contracts.names import finished_topic
from enginehouse.local.home import LOCAL_TENANT
from enginehouse.local.tenant_systems import redis_of, write_system
from enginehouse.registry.content import deployed_files, files_hash
from enginehouse.registry.secrets import set_secret
from enginehouse.registry.tenants import rotate_webhook_secret
from enginehouse.registry.unpack import pack

_ENGINES = ROOT / "tests" / "engines"
_PARTS = ("services/enginehouse", "components", "dapr")
_SHARED = "shared--echo"
_CORE = ("redis", "gateway", "gateway.daprd", "registry", f"{_SHARED}--a.runner", f"{_SHARED}--a.daprd")


def _engine(folder: Path, source: str, **changes: Any) -> Path:
    """Return a copy of a tiny engine with other settings."""
    copy = folder / "-".join(str(value) for value in changes.values())
    copy.mkdir()
    for path in (_ENGINES / source).iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    spec = yaml.safe_load((copy / "engine.yaml").read_text())
    (copy / "engine.yaml").write_text(yaml.safe_dump({**spec, **changes}))
    return copy


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackHandle]:
    shared = _engine(tmp_path_factory.mktemp("engines"), "echo", tenant="shared", name="echo")
    with running_stack(tmp_path_factory.mktemp("home"), [shared], tenants=["umbra"]) as handle:
        yield handle


@pytest.fixture
def registry(stack: StackHandle) -> Iterator[httpx2.Client]:
    key = {"Authorization": f"Bearer {stack.keys[LOCAL_TENANT]}"}
    with httpx2.Client(base_url=stack.state()["registry"], headers=key, timeout=60) as client:
        yield client


def _upload(registry: httpx2.Client, folder: Path, tmp_path: Path, **query: Any) -> Any:
    pack(deployed_files(folder), tmp_path / "upload.zip")
    headers = {"Content-Type": "application/zip"}
    answer = registry.post("/v1/engines", content=(tmp_path / "upload.zip").read_bytes(), headers=headers, params=query)
    assert answer.is_success, answer.text
    return answer.json()


def _refusal(stack: StackHandle, engine: str) -> tuple[int, str | None]:
    answer = stack.call("POST", f"/v1/engines/{engine}/jobs", {"input": 1}, tenant="acme")
    return answer.status, answer.body.get("code")


def _add_tenant(stack: StackHandle, registry: httpx2.Client, name: str) -> None:
    answer = registry.post("/v1/tenants", json={"name": name})
    assert answer.status_code == 201, answer.text
    stack.keys[name] = answer.json()["api_key"]
    until(lambda: stack.call("GET", "/v1/engines", tenant=name).status == 200, "its key works")


def _redis(stack: StackHandle) -> redis.Redis:
    address = redis_of(stack.home)
    return redis.Redis(address.host, address.port, password=address.password)


def test_the_registry_has_no_way_to_the_broker_and_no_sidecar(stack: StackHandle) -> None:
    environment = psutil.Process(stack.pid("registry")).environ()
    secrets = [path.read_text() for path in stack.home.run.glob("*.secret")]
    assert not [name for name, value in environment.items() if any(secret in value for secret in secrets)]
    assert not [name for name in environment if "DAPR" in name or "REDIS" in name]


def test_nothing_of_the_core_restarts_while_engines_and_tenants_come_and_go(
    stack: StackHandle, registry: httpx2.Client, tmp_path: Path
) -> None:
    before, files = {name: stack.pid(name) for name in _CORE}, _files_of_the_core()
    _add_tenant(stack, registry, "acme")
    first = _upload(registry, _engine(tmp_path, "echo", tenant="acme", name="one", version="v1"), tmp_path)
    engine = first["id"]
    stack.until_engine(engine)
    assert stack.submit(engine, 1, tenant="acme")["version"] == "v1"

    second = _engine(tmp_path, "echo", tenant="acme", name="one", version="v2")
    assert _upload(registry, second, tmp_path, promote=False)["slot"] == "b"
    shown = f"/v1/engines/{engine}"
    until(lambda: registry.get(shown).json()["trial"]["state"] == "running", "the version on trial runs", 60)
    assert registry.post(f"/v1/engines/{engine}/promote").status_code == 200
    until(lambda: stack.submit(engine, 1, tenant="acme")["version"] == "v2", "the new version answers", 60)

    assert registry.patch("/v1/tenants/acme", json={"suspended": True}).status_code == 200
    until(lambda: _refusal(stack, engine) == (403, "TENANT_SUSPENDED"), "it is suspended")
    registry.patch("/v1/tenants/acme", json={"suspended": False})
    until(lambda: _refusal(stack, engine)[0] == 202, "its work is taken again")

    assert registry.delete(f"/v1/engines/{engine}").status_code == 202
    until(lambda: registry.get(f"/v1/engines/{engine}").status_code == 404, "the engine is gone", 60)
    assert _refusal(stack, engine) == (410, "ENGINE_REMOVED")
    with _redis(stack) as broker:
        assert not [key for key in broker.scan_iter() if engine.encode() in key]
    assert registry.delete("/v1/tenants/acme").status_code == 202
    until(lambda: registry.get("/v1/tenants/acme").status_code == 404, "the tenant is gone", 90)
    assert registry.delete(f"/v1/tenants/{LOCAL_TENANT}").json()["code"] == "TENANT_IS_KEPT"
    assert {name: stack.pid(name) for name in _CORE} == before
    assert _files_of_the_core() == files


def _files_of_the_core() -> str:
    """Return a hash of everything that the core consists of and is configured by."""
    core = {f"{part}/{name}": path for part in _PARTS for name, path in deployed_files(ROOT / part).items()}
    return files_hash(core)


def test_a_removed_tenant_leaves_nothing_even_if_everything_is_killed_meanwhile(
    stack: StackHandle, registry: httpx2.Client, tmp_path: Path
) -> None:
    _add_tenant(stack, registry, "globex")
    engine = _upload(registry, _engine(tmp_path, "sleeps", tenant="globex", name="slow"), tmp_path)["id"]
    stack.until_engine(engine)
    set_secret(stack.home.path, engine, "TOKEN", "the token of globex")
    for _ in range(3):
        stack.submit(engine, {"seconds": 60}, tenant="globex", wait=0)
    assert stack.submit(_SHARED, "of globex", tenant="globex")["status"] == "succeeded"
    assert stack.submit(_SHARED, "g" * 200_000, tenant="globex")["status"] == "succeeded"
    others = stack.submit(_SHARED, "of umbra", tenant="umbra")
    rotate_webhook_secret(stack.home.webhook_secrets, "globex")
    write_system(stack.home, "globex", tmp_path / "system")
    assert (stack.home.objects / "globex").is_dir()

    _kill_it_within(stack, registry, "/v1/tenants/globex")
    until(lambda: _answers(registry), "the registry is back")
    assert registry.delete("/v1/tenants/globex").status_code == 202
    until(lambda: stack.call("GET", "/v1/jobs", tenant="globex").status == 401, "its key works no longer")
    stack.up.process.send_signal(signal.SIGKILL)
    stack.up.process.wait()
    again = start_stack(stack.home.path)
    try:
        again.keys.update(stack.keys)
        assert again.submit(_SHARED, "of umbra", tenant="umbra")["status"] == "succeeded"
        until(lambda: not (stack.home.tenants / "globex").exists(), "the tenant is gone", 90)
        assert again.call("GET", f"/v1/jobs/{others['id']}", tenant="umbra").body["output"] == "of umbra"
        _check_nothing_is_left(again, "globex")
    finally:
        again.stop()


def _kill_it_within(stack: StackHandle, registry: httpx2.Client, path: str) -> None:
    """Kill the registry at some moment of a DELETE of `path`, which may then be begun, done or neither."""

    def delete() -> None:
        with contextlib.suppress(httpx2.HTTPError):
            registry.delete(path)

    deleting = threading.Thread(target=delete)
    deleting.start()
    deleting.join(random.uniform(0, 0.02))
    killed = stack.kill("registry")
    deleting.join()
    stack.until_restarted("registry", killed)


def _answers(registry: httpx2.Client) -> bool:
    try:
        return registry.get("/healthz/live").is_success
    except httpx2.HTTPError:
        return False


def _check_nothing_is_left(stack: StackHandle, tenant: str) -> None:
    home = stack.home
    with closing(sqlite3.connect(f"file:{home.data / 'ledger.sqlite'}?mode=ro", uri=True)) as ledger:
        assert not [line for line in ledger.iterdump() if tenant in line]
    with _redis(stack) as broker:
        found = [key for key in broker.scan_iter() if tenant.encode() in key or tenant.encode() in _value(broker, key)]
        assert found == []
        assert not [line for line in broker.acl_list() if tenant in line]
    assert finished_topic(tenant) not in (home.run / "redis.conf").read_text()
    # The core's own logs say what happened, and say it of this tenant as well.
    core = {home.logs / f"{name}.log" for name in ("gateway", "gateway.daprd", "registry", "enginehouse")}
    files = [path for path in home.path.rglob("*") if path not in core and home.data not in path.parents]
    assert not [path for path in files if tenant in path.name]
    assert not [path for path in files if path.is_file() and tenant.encode() in path.read_bytes()]
    assert not list((home.data / "objects").rglob(f"*{tenant}*"))


def _value(broker: redis.Redis, key: bytes) -> bytes:
    kind = broker.type(key)
    if kind == b"stream":
        return repr(broker.xrange(key)).encode()
    return repr(broker.hgetall(key)).encode() if kind == b"hash" else repr(broker.get(key)).encode()
