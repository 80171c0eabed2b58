"""A home has one supervisor and keeps its secrets, and an engine's process gets none of them."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.program import LocalRun
from enginehouse.contracts.tenant import hash_key
from enginehouse.local import leftovers
from enginehouse.local.engine_start import engine_command, engine_environment
from enginehouse.local.environments import needs_environment
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.local.registry_process import registry_environment
from enginehouse.local.running import private_files, write_local
from enginehouse.local.stack_context import inherited_environment
from enginehouse.registry.deploy import deploy_engine, is_deployed
from enginehouse.registry.tenants import add_key, read_tenant


def test_a_home_is_run_by_one_supervisor_at_a_time(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    assert not home.is_running()
    with home.lock():
        assert home.is_running()
        with pytest.raises(LocalError, match="already running"), home.lock():
            pass
    assert not home.is_running()


def test_secrets_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    secret = home.secret("redis")
    assert home.secret("redis") == secret
    assert home.secret("other") != secret
    assert stat.S_IMODE((home.run / "redis.secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.run.stat().st_mode) == 0o700


def test_what_others_could_read_in_a_home_of_before_is_the_owners_alone(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    outside = tmp_path / "a file of somebody's"
    wide = [home.data / "redis/appendonly.aof", home.logs / "gateway.log", home.run / "exchange/x", home.data / "o/1/2"]
    for path in (*wide, outside):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("data")
        path.chmod(0o644)
        path.parent.chmod(0o755)
    (home.run / "link").symlink_to(outside)
    script = home.data / "script"
    script.touch(mode=0o755)
    script.chmod(0o755)
    home.keep_private()
    assert {stat.S_IMODE(path.stat().st_mode) for path in wide} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in wide} == {0o700}
    assert stat.S_IMODE(script.stat().st_mode) == 0o700
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_processes_of_a_stack_write_for_their_owner_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import os; open('written', 'w').close(); os.mkdir('made')"]
    with private_files():
        subprocess.run(command, cwd=tmp_path, check=True)
    assert stat.S_IMODE((tmp_path / "written").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    (tmp_path / "after").touch()
    assert stat.S_IMODE((tmp_path / "after").stat().st_mode) & 0o077


def test_what_is_no_bundle_is_passed_over(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    for name in ("acme--one", ".new-x", "acme", "a--b--c"):
        (home.engines / name).mkdir()
    (home.engines / "acme--file").write_text("")
    assert list(home.engine_bundles()) == ["acme--one"]


def test_the_local_key_is_kept_until_its_tenant_forgets_it(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    write_local(home, 8080)
    first = home.read_local()
    write_local(home, 9090)
    assert home.read_local() == {**first, "url": "http://127.0.0.1:9090"}
    tenant = read_tenant(home.tenants, "demo")
    assert tenant
    assert [(key.sha256, key.admin) for key in tenant.keys] == [(hash_key(first["api_key"]), True)]
    assert stat.S_IMODE(home.local_json.stat().st_mode) == 0o600
    (home.tenants / "demo" / "tenant.yaml").write_text("name: demo\n")
    write_local(home, 8080)
    assert home.read_local()["api_key"] != first["api_key"]


def test_a_second_key_leaves_the_first_one_valid(tmp_path: Path) -> None:
    keys = [add_key(tmp_path, "acme"), add_key(tmp_path, "acme", admin=True)]
    tenant = read_tenant(tmp_path, "acme")
    assert tenant
    assert [key.sha256 for key in tenant.keys] == [hash_key(key) for key in keys]
    assert not any(key in (tmp_path / "acme" / "tenant.yaml").read_text() for key in keys)


def test_a_deployed_engine_is_deployed_again_only_when_its_file_changed(tmp_path: Path) -> None:
    source, engines = tmp_path / "source", tmp_path / "engines"
    source.mkdir()
    (source / "engine.yaml").write_text("tenant: acme\nname: one\n")
    spec = deploy_engine(engines, source)
    assert is_deployed(engines, source, spec)
    assert not is_deployed(engines, tmp_path, spec)
    assert not is_deployed(engines, source, spec.model_copy(update={"version": "v2"}))


def _spec(env: dict[str, str]) -> EngineSpec:
    run = {"command": ["python"], "env": env}
    return EngineSpec.model_validate({"tenant": "acme", "name": "one", "run": run, "concurrency": 6})


def test_an_engine_is_told_its_port_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPR_API_TOKEN", "secret")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin")
    environment = engine_environment(_spec({"MODEL": "small"}), 20_020, tmp_path, tmp_path / "env")
    assert environment.pop("LANG")
    assert environment == {
        "MODEL": "small",
        "ENGINE_CONCURRENCY": "6",
        "PORT": "20020",
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/env/bin:/usr/bin",
    }


def test_the_registry_gets_the_credentials_of_object_stores_and_engines_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = {"AWS_ACCESS_KEY_ID": "one", "GOOGLE_APPLICATION_CREDENTIALS": "two", "AZURE_STORAGE_ACCOUNT_KEY": "three"}
    for name, value in {**stores, "OTHER_TOKEN": "four"}.items():
        monkeypatch.setenv(name, value)
    registry = registry_environment(Home.at(tmp_path), 8081)
    assert stores.items() <= registry.items()
    assert "OTHER_TOKEN" not in registry
    assert not stores.keys() & {*inherited_environment(), *engine_environment(_spec({}), 20_020, tmp_path, None)}


def test_nothing_of_an_engine_is_left_also_where_it_made_its_folders_read_only(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    left = (
        home.run / "secrets" / "acme--one--a" / "TOKEN",
        home.run / "engines" / "acme--one--a.engine-0" / "go" / "x",
    )
    for path in left:
        path.parent.mkdir(parents=True)
        path.write_text("left")
        path.parent.chmod(0o500)
    logs = [home.logs / f"acme--one--a.{name}" for name in ("runner.log", "engine-0.log.old")]
    for path in logs:
        path.touch()
    leftovers.delete_of_app(home, "acme--one--a")
    assert not [path for path in left if path.parent.exists()]
    assert not [path for path in logs if path.exists()]


def test_python_means_the_engines_own(tmp_path: Path) -> None:
    assert engine_command(["python", "-m", "x"], tmp_path) == [f"{tmp_path}/bin/python", "-u", "-m", "x"]
    assert engine_command(["node", "x.js"], None) == ["node", "x.js"]
    other = EngineSpec(tenant="acme", name="one", run=LocalRun(command=["node", "x.js"]))
    assert not needs_environment(other)
