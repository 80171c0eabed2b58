"""What a tenant's own system is given fits its app, and is refused before anything is written where it cannot be made."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.break_ins import attempt

from enginehouse.contracts.errors import InvalidName
from enginehouse.homes import read_json
from enginehouse.local import leftovers, tenant_systems
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home
from enginehouse.local.tenant_systems import write_system
from enginehouse.registry.bundle import SYSTEM_FILE
from enginehouse.registry.tenants import add_key


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("REDIS_URL", "redis://:secret@broker.example:6380")
    monkeypatch.setattr(tenant_systems, "set_user", lambda address, user, passwords: None)
    home = Home.at(tmp_path / "home")
    add_key(home.tenants, "acme")
    return home


def settings(path: Path) -> dict[str, Any]:
    component = yaml.safe_load(path.read_text())
    (app,) = component["scopes"]
    return {item["name"]: item.get("value") for item in component["spec"]["metadata"]} | {"app": app}


@attempt("as a tenant's own system uses topics and groups of others", layer="scopes that name its app")
@pytest.mark.parametrize(("name", "app"), [(None, "tenant-acme"), ("billing", "tenant-acme--billing")])
def test_each_app_has_its_own_group_and_no_app_but_it_any_right(
    home: Home, tmp_path: Path, name: str | None, app: str
) -> None:
    system = write_system(home, "acme", tmp_path / "system", name)
    found = settings(system.resources / "pubsub.yaml")
    assert (found["app"], found["consumerID"], system.app_id) == (app, app, app)
    assert found["publishingScopes"] == f"{app}=requests.acme"
    assert found["subscriptionScopes"] == f"{app}=finished.acme"
    assert (found["redisHost"], found["redisUsername"]) == ("broker.example:6380", "tenant-acme")
    assert "secret" not in (system.resources / "pubsub.yaml").read_text().replace("secretKeyRef", "").replace(
        "secretStore", ""
    )


def test_the_password_is_in_no_command_line(home: Home, tmp_path: Path) -> None:
    system = write_system(home, "acme", tmp_path / "system")
    password = home.secret("redis-tenant-acme")
    for line in (system.dapr_run(8100), system.daprd(Path("daprd"), 8100)):
        assert not any(password in word for word in line)
        assert line[line.index("--app-id") + 1] == "tenant-acme"
        assert line[line.index("--dapr-listen-addresses") + 1] == "127.0.0.1"


@attempt("as a tenant's own system goes on with a former password", layer="rotation closes its connections")
def test_a_rotation_gives_another_password_and_ends_what_was_opened_with_the_former(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, ...]] = []
    monkeypatch.setattr(tenant_systems, "set_user", lambda address, user, passwords: done.append(tuple(passwords)))
    monkeypatch.setattr(tenant_systems, "disconnect_user", lambda address, name: done.append((name,)))
    write_system(home, "acme", tmp_path / "system")
    former = home.secret("redis-tenant-acme")
    write_system(home, "acme", tmp_path / "system", rotate=True)
    present = home.secret("redis-tenant-acme")
    assert present != former
    assert done == [(former,), (present,), ("tenant-acme",)]
    assert read_json(tmp_path / "system" / "secrets.json") == {"redisPassword": present}


def test_a_component_for_another_broker_and_a_wrong_name_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        write_system(home, "acme", tmp_path / "system", "Billing")
    path = home.tenants / "acme" / SYSTEM_FILE
    path.write_text(path.read_text().replace("pubsub.redis", "pubsub.kafka"))
    with pytest.raises(LocalError, match=r"pubsub\.kafka"):
        write_system(home, "acme", tmp_path / "system")
    assert not (tmp_path / "system").exists()
    assert list(home.run.glob("redis-*")) == []


def test_nothing_of_the_demos_example_of_a_removed_tenant_is_left_and_all_of_others(home: Home) -> None:
    gone = [
        home.logs / "tenant-acme.log",
        home.logs / "tenant-acme.daprd.log.old",
        home.example_system("acme") / "x" / "a",
    ]
    kept = [home.logs / "tenant-acme-two.log", home.example_system("acme-two") / "secrets.json"]
    for path in (*gone, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    home.demo_keys.write_text('{"acme": "one", "acme-two": "two"}')
    for _ in range(2):
        leftovers.delete_of_systems(home, "acme")
        assert not [path for path in (*gone, home.example_system("acme")) if path.exists()]
        assert all(path.exists() for path in kept)
        assert read_json(home.demo_keys) == {"acme-two": "two"}
