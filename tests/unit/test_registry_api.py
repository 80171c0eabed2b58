"""The registry's API: operators deploy engines and manage tenants by the functions that the commands use."""

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.support.break_ins import attempt
from tests.support.problems import problem_of
from tests.support.registry import registry_settings
from tests.support.waiting import until_async

from enginehouse.audit.read import Query, read_page
from enginehouse.registry.deploy import forget_engine, remove_engine
from enginehouse.registry.http.api import create_api
from enginehouse.registry.snapshot import only_deployer
from enginehouse.registry.tenants import (
    TenantDoesNotExist,
    add_another_key,
    add_key,
    forget_tenant,
    has_key,
    is_removed,
    read_tenant,
    remove_tenant,
    sweep,
)
from enginehouse.registry.versions import fingerprint, read_versions

_ENGINE = "demo--one"
_ZIP = {"content-type": "application/zip"}


class _World:
    """A registry over a home, and an operator's client."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.engines, self.tenants, self.state = home / "engines", home / "tenants", home / "state.json"
        self.engines.mkdir()
        self.key = add_key(self.tenants, "demo", admin=True)
        self.app = create_api(registry_settings(home, **settings))
        self.client = self.client_with(self.key)

    def client_with(self, key: str) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app),
            base_url="http://registry",
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )

    async def deploy(self, text: str = "", code: str = "", **query: Any) -> httpx2.Response:
        return await self.client.post("/v1/engines", content=_packed(text, code), headers=_ZIP, params=query)

    def runs(self, kind: str, slot: str, state: str, problem: str | None = None) -> None:
        found = fingerprint(self.engines / _ENGINE, slot)  # type: ignore[arg-type]
        entry = {"state": state, "problem": problem, "doing": None, "deployed": found}
        self.state.write_text(json.dumps({kind: {_ENGINE: entry}}))

    def written(self) -> set[str]:
        """All that is in the home, without the uploads, which must be gone."""
        assert not list((self.home / "uploads").glob("*"))
        return {str(path.relative_to(self.home)) for path in self.home.rglob("*")} - {"uploads", "sources"}


def _packed(text: str, code: str = "", name: str = "one", tenant: str = "demo") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        zipped.writestr("engine.yaml", f"tenant: {tenant}\nname: {name}\nrun: {{command: [serve]}}\n{text}")
        zipped.writestr("engine.py", code)
    return packed.getvalue()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[_World]:
    made = _World(tmp_path)
    async with made.client:
        yield made


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_operators_may_call(world: _World, method: str) -> None:
    for key, status, code in [
        ("", 401, "UNAUTHENTICATED"),
        ("nonsense", 401, "UNAUTHENTICATED"),
        ("eh_demo_nonsense", 401, "UNAUTHENTICATED"),
        ("eh_../demo_x", 401, "UNAUTHENTICATED"),
        (add_key(world.tenants, "acme"), 403, "FORBIDDEN"),
    ]:
        async with world.client_with(key) as client:
            for path in ("/v1/engines", "/v1/tenants"):
                problem_of(await client.request(method, path), status, code)
    assert not list(world.engines.iterdir())


@attempt(
    "deploys, promotes, removes, reads keys and secrets with a tenant's key, on every route", layer="an operator's key"
)
@pytest.mark.parametrize("tenant", ["", "acme"])
async def test_every_call_but_the_descriptions_needs_an_operators_key(world: _World, tenant: str) -> None:
    document = (await world.client.get("/openapi.json")).json()
    key = add_key(world.tenants, tenant) if tenant else ""
    before = world.written()
    async with world.client_with(key) as client:
        for path, operations in document["paths"].items():
            for method in operations:
                answer = await client.request(method, path.replace("{", "").replace("}", ""))
                refused = 403 if tenant else 401
                assert answer.status_code == (200 if path.startswith("/healthz") else refused), (method, path)
    assert world.written() == before


async def test_versions_are_deployed_promoted_and_brought_back(world: _World) -> None:
    answer = await world.deploy("version: v1\n")
    assert (answer.status_code, answer.json()) == (
        201,
        {"id": _ENGINE, "version": "v1", "slot": "a", "changed": True, "warnings": []},
    )
    again = await world.deploy("version: v1\n")
    assert (again.status_code, again.json()["changed"]) == (200, False)
    second = await world.deploy("version: v2\n", "new = 1", promote=False)
    assert (second.status_code, second.json()["slot"]) == (202, "b")

    world.runs("trials", "b", "starting")
    shown = (await world.client.get(f"/v1/engines/{_ENGINE}")).json()
    assert (shown["active"]["version"], shown["trial"]["version"], shown["kept"]) == ("v1", "v2", None)
    assert (shown["active"]["state"], shown["trial"]["state"], shown["promotes"]) == (None, "starting", False)
    early = problem_of(await world.client.post(f"/v1/engines/{_ENGINE}/promote"), 409, "VERSION_NOT_UP")
    assert (early["retryable"], "Wait until it runs" in early["advice"]) == (True, True)
    world.runs("trials", "b", "failed", "no module named torch")
    refused = problem_of(await world.client.post(f"/v1/engines/{_ENGINE}/promote"), 409, "VERSION_NOT_FIT")
    assert "no module named torch" in refused["detail"]
    assert read_versions(world.engines / _ENGINE).active == "a"

    world.runs("trials", "b", "running")
    promoted = await world.client.post(f"/v1/engines/{_ENGINE}/promote")
    assert (promoted.status_code, promoted.json()["version"]) == (200, "v2")
    problem_of(await world.client.post(f"/v1/engines/{_ENGINE}/promote"), 409, "NO_OTHER_VERSION")
    back = await world.client.post(f"/v1/engines/{_ENGINE}/rollback")
    assert (back.status_code, back.json()["version"]) == (202, "v1")
    shown = (await world.client.get("/v1/engines")).json()["engines"]
    assert [(one["active"]["version"], one["trial"]["version"], one["promotes"]) for one in shown] == [
        ("v2", "v1", True)
    ]


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (_packed("", tenant="gatway"), "INVALID_BUNDLE", "there is no tenant 'gatway'"),
        (_packed("", tenant="kube-system"), "INVALID_BUNDLE", "'kube-system' is a reserved name"),
        (_packed("", name="gateway"), "INVALID_BUNDLE", "'gateway' is a reserved name"),
        (_packed("hostNetwork: true\n"), "INVALID_BUNDLE", "hostNetwork"),
        (b"PK\x03\x04 and no more", "INVALID_UPLOAD", "cannot be unpacked"),
        (b"", "INVALID_UPLOAD", "neither a zip nor a tar.gz"),
    ],
)
async def test_what_is_wrong_is_said_before_anything_is_written(
    world: _World, body: bytes, code: str, said: str
) -> None:
    before = world.written()
    refused = problem_of(await world.client.post("/v1/engines", content=body, headers=_ZIP), 422, code)
    assert said in refused["detail"]
    assert str(world.home) not in refused["detail"]
    assert world.written() == before


async def test_an_upload_has_a_type_and_a_bound(tmp_path: Path) -> None:
    world = _World(tmp_path, upload_max_bytes=1_000)
    async with world.client as client:
        problem_of(await client.post("/v1/engines", content=b"{}", headers={"content-type": "text/json"}), 415)
        problem_of(await client.post("/v1/engines", content=b"PK" * 501, headers=_ZIP), 413, "INPUT_TOO_LARGE")

        async def unending() -> AsyncIterator[bytes]:
            while True:
                yield b"PK" * 100

        problem_of(await client.post("/v1/engines", content=unending(), headers=_ZIP), 413, "INPUT_TOO_LARGE")
        problem_of(await client.post("/v1/engines?promot=no", content=b"", headers=_ZIP), 422)
        assert not list((tmp_path / "uploads").iterdir())


@attempt("names files of the registry by an engine's name", layer="names have one form")
async def test_a_name_that_leads_elsewhere_is_refused(world: _World) -> None:
    (world.home / "elsewhere").mkdir()
    for name in ("..", "../elsewhere", "%2e%2e", "..%2felsewhere", ".new-1"):
        for call in (world.client.get, world.client.delete):
            assert (await call(f"/v1/engines/{name}")).status_code in (404, 405, 422)
            assert (await call(f"/v1/tenants/{name}")).status_code in (404, 405, 422)
    problem_of(await world.client.get("/v1/engines/demo--two"), 404, "ENGINE_DOES_NOT_EXIST")
    assert (world.home / "elsewhere").is_dir()


async def test_an_engine_that_is_being_removed_is_changed_no_more(world: _World) -> None:
    await world.deploy()
    for _ in range(2):
        answer = await world.client.delete(f"/v1/engines/{_ENGINE}")
        assert (answer.status_code, answer.json()["retiring"]) == (202, True)
    before = world.written()
    problem_of(await world.deploy(), 409, "ENGINE_RETIRING")
    problem_of(await world.deploy("version: v2\n"), 409, "ENGINE_RETIRING")
    for call in ("promote", "rollback"):
        problem_of(await world.client.post(f"/v1/engines/{_ENGINE}/{call}"), 409)
    assert world.written() == before
    forget_engine(world.engines, _ENGINE)
    problem_of(await world.client.delete(f"/v1/engines/{_ENGINE}"), 404, "ENGINE_DOES_NOT_EXIST")
    assert (await world.deploy()).status_code == 201


async def test_tenants_are_made_and_changed_and_their_keys_overlap(world: _World) -> None:
    made = await world.client.post("/v1/tenants", json={"name": "acme", "limits": {"weight": 3}})
    assert made.status_code == 201
    first = made.json()["api_key"]
    assert has_key(world.tenants, "acme", first)
    assert "sha256" not in made.text
    problem_of(await world.client.post("/v1/tenants", json={"name": "acme"}), 409, "TENANT_EXISTS")
    problem_of(await world.client.post("/v1/tenants", json={"name": "Acme"}), 422, "INVALID_NAME")

    changed = await world.client.patch(
        "/v1/tenants/acme", json={"limits": {"jobs_in_flight": 5}, "webhook": "https://a"}
    )
    limits = changed.json()["limits"]
    assert (limits["weight"], limits["jobs_in_flight"], changed.json()["webhook"]) == (3, 5, "https://a")
    mistakes: list[dict[str, Any]] = [
        {"limits": {"weight": 0}},
        {"limits": {"wieght": 1}},
        {"limits": {"jobs_in_flight": 1.5}},
        {"webhook": "ftp://a"},
        {"keys": []},
    ]
    for wrong in mistakes:
        assert (await world.client.patch("/v1/tenants/acme", json=wrong)).status_code == 422, wrong
    once = problem_of(await world.client.patch("/v1/tenants/acme", json={"limits": {"weight": "x"}}), 422)
    assert once["detail"].count("limits") == 1, "a field has one message"
    assert (await world.client.get("/v1/tenants/acme")).json() == changed.json()

    second = (await world.client.post("/v1/tenants/acme/keys", json={"admin": True})).json()
    assert has_key(world.tenants, "acme", first)
    assert has_key(world.tenants, "acme", second["api_key"])
    old = changed.json()["keys"][0]["id"]
    assert (await world.client.delete(f"/v1/tenants/acme/keys/{old}")).status_code == 204
    problem_of(await world.client.delete(f"/v1/tenants/acme/keys/{old}"), 404, "KEY_DOES_NOT_EXIST")
    assert not has_key(world.tenants, "acme", first)
    async with world.client_with(second["api_key"]) as client:
        assert [one["name"] for one in (await client.get("/v1/tenants")).json()["tenants"]] == ["acme", "demo"]


async def test_a_default_engine_is_one_that_is_here(world: _World) -> None:
    await world.deploy()
    for wrong in ("nosuch", "acme--one"):
        refused = await world.client.patch("/v1/tenants/demo", json={"default_engine": wrong})
        assert "there are demo--one" in problem_of(refused, 422, "INVALID_SETTING")["detail"]
    made = {"name": "acme", "default_engine": "one"}
    problem_of(await world.client.post("/v1/tenants", json=made), 422, "INVALID_SETTING")
    changed = await world.client.patch("/v1/tenants/demo", json={"default_engine": "one"})
    assert changed.json()["default_engine"] == "one"


async def test_secrets_are_set_by_operators_and_never_shown(world: _World, capsys: pytest.CaptureFixture[str]) -> None:
    await world.deploy("secrets: [TOKEN]\n")
    path = f"/v1/engines/{_ENGINE}/secrets"
    async with world.client_with(add_key(world.tenants, "acme")) as others:
        problem_of(await others.put(f"{path}/TOKEN", json={"value": "hidden"}), 403, "FORBIDDEN")
    answers = [await world.client.put(f"{path}/TOKEN", json={"value": value}) for value in ("hidden", "hidden")]
    assert [answer.json() for answer in answers] == [{"name": "TOKEN", "changed": on} for on in (True, False)]
    large = await world.client.put(f"{path}/TOKEN", json={"value": "\x00" * 65_536})
    assert large.status_code == 200
    assert (await world.client.get(path)).json() == {"secrets": ["TOKEN"]}
    wrong: list[tuple[str, Any, int, str]] = [
        ("TOKNE", {"value": "hidden"}, 422, "SECRET_NOT_DECLARED"),
        ("token", {"value": "hidden"}, 422, "INVALID_NAME"),
        ("TOKEN", {"value": ""}, 422, "INVALID_REQUEST"),
        ("TOKEN", {"value": ["hidden"]}, 422, "INVALID_REQUEST"),
        ("TOKEN", {"valeu": "hidden"}, 422, "INVALID_REQUEST"),
    ]
    for name, body, status, code in wrong:
        refused = await world.client.put(f"{path}/{name}", json=body)
        problem_of(refused, status, code)
        assert "hidden" not in refused.text
    problem_of(
        await world.client.put("/v1/engines/demo--two/secrets/TOKEN", json={"value": "x"}), 404, "ENGINE_DOES_NOT_EXIST"
    )
    assert (await world.client.delete(f"{path}/TOKEN")).status_code == 204
    problem_of(await world.client.delete(f"{path}/TOKEN"), 404, "SECRET_DOES_NOT_EXIST")
    said = capsys.readouterr().out
    assert "sets the secret TOKEN of demo--one" in said
    assert "hidden" not in said


async def test_an_operator_of_a_suspended_tenant_may_do_nothing(world: _World) -> None:
    made = (await world.client.post("/v1/tenants", json={"name": "acme", "admin": True})).json()
    async with world.client_with(made["api_key"]) as client:
        assert (await client.get("/v1/tenants")).status_code == 200
        changed = await world.client.patch("/v1/tenants/acme", json={"suspended": True})
        assert changed.json()["suspended"] is True
        problem_of(await client.get("/v1/tenants"), 403, "TENANT_SUSPENDED")
        problem_of(await client.patch("/v1/tenants/acme", json={"suspended": False}), 403, "TENANT_SUSPENDED")


async def test_a_tenant_that_is_being_removed_is_changed_no_more(world: _World) -> None:
    key = (await world.client.post("/v1/tenants", json={"name": "acme", "admin": True})).json()["api_key"]
    for _ in range(2):
        answer = await world.client.delete("/v1/tenants/acme")
        assert (answer.status_code, answer.json()["removed"], answer.json()["keys"]) == (202, True, [])
    assert [path.name for path in (world.tenants / "acme").rglob("*")] == ["tenant.yaml"], "its events come in no more"
    async with world.client_with(key) as client:
        problem_of(await client.get("/v1/tenants"), 401, "UNAUTHENTICATED")
    problem_of(await world.client.post("/v1/tenants/acme/keys", json={}), 409, "TENANT_REMOVED")
    problem_of(await world.client.patch("/v1/tenants/acme", json={"suspended": False}), 409, "TENANT_REMOVED")
    problem_of(await world.client.post("/v1/tenants", json={"name": "acme"}), 409, "TENANT_REMOVED")
    upload = _packed("", tenant="acme")
    refused = await world.client.post("/v1/engines", content=upload, headers=_ZIP)
    assert "there is no tenant 'acme'" in problem_of(refused, 422, "INVALID_BUNDLE")["detail"]
    add_key(world.tenants, "shared")
    problem_of(await world.client.delete("/v1/tenants/shared"), 409, "TENANT_IS_KEPT")
    forget_tenant(world.tenants, world.home / "webhook-secrets", "acme")
    problem_of(await world.client.delete("/v1/tenants/acme"), 404, "TENANT_DOES_NOT_EXIST")
    assert (await world.client.post("/v1/tenants", json={"name": "acme"})).status_code == 201


async def test_no_moment_of_a_removal_is_without_the_tenants_file(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.client.post("/v1/tenants", json={"name": "acme"})
    monkeypatch.setattr("enginehouse.registry.bundle.os.rename", _killed)
    with pytest.raises(KeyboardInterrupt):
        remove_tenant(world.tenants, "acme", kept=())
    monkeypatch.undo()
    assert is_removed(world.tenants, "acme"), "nobody else can take the name, and its data"
    remove_tenant(world.tenants, "acme", kept=())
    sweep(world.tenants)
    assert sorted(path.name for path in world.tenants.iterdir()) == ["acme", "demo"]
    assert [path.name for path in (world.tenants / "acme").rglob("*")] == ["tenant.yaml"]


async def test_what_a_killed_removal_has_left_beside_the_bundles_goes_with_it(
    world: _World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.client.post("/v1/tenants", json={"name": "acme"})
    await world.deploy()
    for place, remove in (
        ("shutil.rmtree", lambda: remove_tenant(world.tenants, "acme", kept=())),
        ("Path.replace", lambda: remove_engine(world.engines, _ENGINE)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(f"enginehouse.registry.bundle.{place}", _killed)
            with pytest.raises(KeyboardInterrupt):
                remove()
        remove()
    forget_tenant(world.tenants, world.home / "webhook-secrets", "acme")
    forget_engine(world.engines, _ENGINE)
    assert [path.name for folder in (world.tenants, world.engines) for path in folder.iterdir()] == ["demo"]


def _killed(*_: object) -> None:
    raise KeyboardInterrupt


async def test_a_key_is_made_for_a_tenant_there_is_and_the_answer_names_that_key(world: _World) -> None:
    with pytest.raises(TenantDoesNotExist):
        add_another_key(world.tenants, "acme")
    assert not (world.tenants / "acme").exists()
    made = [await world.client.post("/v1/tenants/demo/keys", json={}) for _ in range(2)]
    assert all(answer.json()["api_key"].startswith(answer.json()["id"]) for answer in made)


async def test_a_deployment_that_waits_for_others_holds_up_nobody_who_reads(world: _World) -> None:
    with only_deployer(world.engines):
        waiting = [asyncio.create_task(world.deploy(code=str(number))) for number in range(8)]
        # The default executor has min(32, cpus + 4) threads: they must not all wait.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        await until_async(
            lambda: len(list((world.home / "uploads").glob("*/folder/engine.yaml"))) == 8, "all are unpacked", 60
        )
        answer = await asyncio.wait_for(world.client.get("/v1/engines"), 30)
        assert answer.status_code == 200
        assert not any(task.done() for task in waiting)
    assert {(await task).status_code for task in waiting} <= {200, 201, 202}


async def test_settings_leave_what_else_stands_in_the_bundle(world: _World) -> None:
    await world.client.post("/v1/tenants", json={"name": "acme"})
    edited = world.tenants / "acme" / "gateway" / "requests.yaml"
    edited.write_text(edited.read_text() + "# by hand\n")
    await world.client.patch("/v1/tenants/acme", json={"publish_finished": True})
    assert edited.read_text().endswith("# by hand\n")
    tenant = read_tenant(world.tenants, "acme")
    assert tenant
    assert tenant.publish_finished


async def test_every_change_is_logged_with_who_made_it(world: _World, capsys: pytest.CaptureFixture[str]) -> None:
    await world.client.post("/v1/tenants", json={"name": "acme"})
    await world.deploy()
    await world.client.get("/v1/tenants")
    said = capsys.readouterr().out
    assert "makes tenant acme" in said
    assert f"deploys {_ENGINE} v1 into slot a" in said
    assert said.count(f"demo ({world.key[:16]}") == 2
    assert world.key not in said


async def test_every_call_is_in_the_audit_log(tmp_path: Path) -> None:
    world = _World(tmp_path, audit_dir=tmp_path / "audit")
    async with world.app.router.lifespan_context(world.app), world.client as client:
        await world.deploy("secrets: [TOKEN]\n")
        await client.put(f"/v1/engines/{_ENGINE}/secrets/TOKEN", json={"value": "pssst"})
        await client.post("/v1/tenants", json={"name": "acme"})
        made = (await client.post("/v1/tenants/acme/keys", json={})).json()
        await client.patch("/v1/tenants/acme", json={"suspended": True})
        await client.delete("/v1/tenants/nobody")
        await client.get("/healthz/live")
        async with world.client_with(made["api_key"]) as other:
            await other.get("/v1/engines")
    found = [one.entry for one in reversed(read_page(tmp_path / "audit", Query(), None, 100).entries)]
    assert found[0].action == "started"
    assert found[-1].action == "stopped"
    assert [(one.action, one.outcome, one.tenant, one.engine, one.detail) for one in found[1:-1]] == [
        ("POST /v1/engines", "ok", "demo", _ENGINE, f"deploys {_ENGINE} v1 into slot a"),
        ("PUT /v1/engines/{engine}/secrets/{name}", "ok", "demo", _ENGINE, f"sets the secret TOKEN of {_ENGINE}"),
        ("POST /v1/tenants", "ok", "acme", None, "makes tenant acme"),
        ("POST /v1/tenants/{tenant}/keys", "ok", "acme", None, f"makes key {made['id']} of tenant acme"),
        ("PATCH /v1/tenants/{tenant}", "ok", "acme", None, "sets suspended of tenant acme"),
        ("DELETE /v1/tenants/{tenant}", "TENANT_DOES_NOT_EXIST", "nobody", None, None),
        ("GET /v1/engines", "TENANT_SUSPENDED", None, None, None),
    ]
    assert {(one.by, one.key) for one in found[1:-2]} == {("demo", world.key[:16])}
    written = b"".join(path.read_bytes() for path in (tmp_path / "audit").rglob("*.jsonl"))
    assert b"pssst" not in written
    assert made["api_key"].encode() not in written
