"""The Redis of a campaign: it is killed, paused, restored to older data, filled up, and read behind Dapr's back."""

import contextlib
import json
import random
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.dapr import PORTS, Started, spawn, wait_until
from tests.support.disk import SmallDisk, small_disk

from enginehouse.broker import redis
from enginehouse.broker.passwords import new_password
from enginehouse.broker.redis import RedisAddress
from enginehouse.contracts.names import new_job_id
from enginehouse.local import redis_server

_DISK_MIB = 96


@dataclass
class Broker:
    """A Redis with its data in `folder`, on a disk of its own where this machine lets us mount one."""

    folder: Path
    address: RedisAddress
    started: Started
    disk: SmallDisk

    def kill(self) -> None:
        """kill -9, and start it again."""
        self.started.kill()
        self._start()

    def _start(self) -> None:
        self.started = _spawn(self.folder, self.address)

    def copy_data(self) -> None:
        """Keep what is on the disk now, as a backup would."""
        backup = self.folder / "backup"
        shutil.rmtree(backup, ignore_errors=True)
        shutil.copytree(self.folder / "redis", backup)

    def come_back_older(self) -> None:
        """kill -9, put the copy in the place of the data, start."""
        self.started.kill()
        shutil.rmtree(self.folder / "redis")
        (self.folder / "backup").rename(self.folder / "redis")
        self._start()

    def command(self, *arguments: str | bytes) -> list[bytes]:
        """One Redis command; every string of the answer, in order."""
        with socket.create_connection((self.address.host, self.address.port), 5) as connection:
            file = connection.makefile("rwb")
            for words in (("AUTH", self.address.password), arguments):
                file.write(b"*%d\r\n" % len(words))
                for word in (word.encode() if isinstance(word, str) else word for word in words):
                    file.write(b"$%d\r\n%s\r\n" % (len(word), word))
                file.flush()
                found = list(_strings(file))
        return found

    def events(self, topic: str) -> list[dict[str, Any]]:
        """The events that lie in a topic, those left out that are no JSON."""
        found = []
        for item in self.command("XRANGE", topic, "-", "+"):
            with contextlib.suppress(ValueError):
                found.append(json.loads(item))
        return [event for event in found if isinstance(event, dict)]

    def trouble(self, topic: str, random_: random.Random) -> None:
        """Publish to an engine's topic what a careless publisher or a confused broker might."""
        found = self.command("XREVRANGE", topic, "+", "-", "COUNT", "60")
        events = [item for item in found if item.startswith(b"{")]
        again = [*random_.sample(events, min(10, len(events))), *events[:10], *reversed(events[-10:])]
        strange = [b"not json", b"{}", b'{"specversion":"1.0","id":"x","type":"t","source":"s","data":[1]}']
        for event in random_.sample(events, min(3, len(events))):
            # Nobody ever submitted this one: it may run, and belongs to nobody.
            strange.append(
                json.dumps(json.loads(event) | {"id": new_job_id(), "expirytime": "2020-01-01T00:00:00Z"}).encode()
            )
        for event in [*again, *strange]:
            self.command("XADD", topic, "*", "data", event)


def _strings(file: object) -> Iterator[bytes]:
    line = file.readline()  # type: ignore[attr-defined]
    kind, rest = line[:1], line[1:].strip()
    if kind == b"-":
        raise OSError(rest.decode())
    if kind == b"*":
        for _ in range(max(int(rest), 0)):
            yield from _strings(file)
    elif kind == b"$":
        if int(rest) >= 0:
            yield file.read(int(rest) + 2)[:-2]  # type: ignore[attr-defined]
    else:
        yield rest


def _spawn(folder: Path, address: RedisAddress) -> Started:
    config = folder / "redis.conf"
    redis_server.write_config(config, address, folder / "redis")
    started = spawn("redis", [str(redis_server.find_server()), str(config)], folder.parent / "redis.log", {})
    wait_until(started, lambda: redis.answers(address))
    return started


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """A broker in `folder`, ready; its processes and its mount are gone at the end of the block."""
    with small_disk(folder, _DISK_MIB) as disk:
        address = RedisAddress("127.0.0.1", PORTS.take(), new_password())
        made = Broker(folder, address, _spawn(folder, address), disk)
        try:
            yield made
        finally:
            made.started.kill()
            PORTS.release(address.port)
