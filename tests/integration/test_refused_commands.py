"""What Redis refuses is counted whole where it can be, and costs Redis little whatever its sender does."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import NoPermissionError, ResponseError
from redis.retry import Retry
from structlog.testing import capture_logs
from tests.support.dapr import RedisHandle, start_redis

from enginehouse.broker import redis
from enginehouse.broker.redis import RedisAddress
from enginehouse.broker.redis_users import as_user, set_user, user_of_engine
from enginehouse.local.refused_commands import RefusedCommands

USER = user_of_engine("acme--one")
THEIRS = "acme--other||job"
NEVER = Retry(NoBackoff(), 0)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisHandle]:
    started = start_redis(tmp_path_factory.mktemp("redis"))
    set_user(started.address, USER, ["password"])
    yield started
    started.stop()


@pytest.fixture
def thief(broker: RedisHandle) -> Iterator[Redis]:
    address = as_user(broker.address, USER, "password")
    with Redis(port=address.port, username=address.user, password=address.password, retry=NEVER) as client:
        client.ping()
        redis.commands(broker.address, [["ACL", "LOG", "RESET"]])
        yield client


@pytest.fixture
def refused(broker: RedisHandle, thief: Redis) -> RefusedCommands:
    made = RefusedCommands(broker.address)
    assert not made.look()
    return made


def hammer(thief: Redis, *keys: str) -> None:
    for key in keys:
        with contextlib.suppress(NoPermissionError):
            thief.hgetall(key)


def test_each_refused_command_is_counted_once(thief: Redis, refused: RefusedCommands) -> None:
    hammer(thief, *[THEIRS] * 7)
    assert refused.look() == {(USER.name, "key", THEIRS): 7}
    assert not refused.look()
    hammer(thief, THEIRS, "other")
    assert refused.look() == {(USER.name, "key", THEIRS): 1, (USER.name, "key", "other"): 1}


def test_a_key_that_no_part_needs_never_reaches_the_log(thief: Redis, refused: RefusedCommands) -> None:
    with pytest.raises((Disconnected, ResponseError)):
        thief.hgetall("k" * (redis.VALUE_MAX_BYTES + 1))
    assert not [what for _, reason, what in refused.look() if reason == "key"]


def test_long_keys_are_shown_by_redis_once(broker: RedisHandle, thief: Redis, refused: RefusedCommands) -> None:
    hammer(thief, *(f"{number}{'k' * 2**20}" for number in range(redis.LOG_ENTRIES)))
    counted = refused.look().total()
    assert 10 <= counted < redis.LOG_ENTRIES, "as many as fit"
    assert redis.acl_log(broker.address) == ([], True)
    assert not refused.look()


def test_a_log_that_has_turned_over_is_told(thief: Redis, refused: RefusedCommands, broker: RedisHandle) -> None:
    hammer(thief, THEIRS)
    refused.look()
    hammer(thief, THEIRS)
    with capture_logs() as logs:
        for number in range(redis.LOG_ENTRIES):
            assert not redis.answers(as_user(broker.address, user_of_engine(f"acme--no{number}"), "guess"))
        refused.look()
    assert [entry["action"] for entry in logs] == ["refusals_lost"]


def test_redis_that_counts_refusals_is_asked_for_its_log_only_when_there_are_more(
    thief: Redis, refused: RefusedCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [5]
    monkeypatch.setattr(redis, "refusals", lambda _: said[0])
    refused.look()
    hammer(thief, THEIRS)
    assert not refused.look(), "it was not asked"
    said[0] += 1
    assert refused.look().total() == 1


def test_the_count_of_redis_7_2_is_the_sum_of_its_kinds() -> None:
    stats = b"# Stats\r\nacl_access_denied_auth:3\r\nacl_access_denied_cmd:4\r\ntotal_reads_processed:9\r\n"
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4_096)
                connection.sendall(b"+OK\r\n$%d\r\n%b\r\n" % (len(stats), stats))

        answering = threading.Thread(target=answer)
        answering.start()
        assert redis.refusals(RedisAddress("127.0.0.1", server.getsockname()[1], "secret")) == 7
        answering.join()
