"""The users that the trial's Redis begins with: nobody comes in without a password, and a restart loses nothing."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from tests.support.waiting import until

from enginehouse.local.cluster_secrets import core_secrets
from enginehouse.local.ports import PortPool
from enginehouse.local.redis_server import find_server


@contextmanager
def running(folder: Path, port: int) -> Iterator[None]:
    command = [
        str(find_server()),
        str(folder / "redis.conf"),
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--appendonly",
        "yes",
    ]
    process = subprocess.Popen([*command, "--bind", "127.0.0.1"], stdout=subprocess.DEVNULL)

    def listens() -> bool:
        assert process.poll() is None, "Redis has ended"
        try:
            redis.Redis(port=port).ping()
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.RedisError:
            return False
        pytest.fail("Redis answers without a password")

    try:
        until(listens, "Redis listens")
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_what_was_written_survives_a_restart_though_nobody_is_the_default_user(tmp_path: Path) -> None:
    made = {one["metadata"]["name"]: one["stringData"] for one in core_secrets("operators").objects}
    (tmp_path / "users.acl").write_text(made["redis"]["users.acl"])
    (tmp_path / "redis.conf").write_text(made["redis"]["redis.conf"].replace("/data/", f"{tmp_path}/"))
    port = PortPool().take()
    gateway, registry = made["gateway-broker"], made["registry"]
    with running(tmp_path, port):
        client = redis.Redis(port=port, username=registry["broker-username"], password=registry["broker-password"])
        with client.pipeline(transaction=True) as together:
            together.set("a", "1")
            together.set("b", "2")
            together.execute()
        own = redis.Redis(port=port, username=gateway["username"], password=gateway["password"])
        assert own.xadd("engine.acme--echo", {"data": "x"})
        with pytest.raises(redis.exceptions.NoPermissionError):
            own.get("a")
    with running(tmp_path, port):
        assert client.mget("a", "b") == [b"1", b"2"]
        assert client.xlen("engine.acme--echo") == 1
