"""Finds the engine's replicas by DNS: behind the name of a headless service stand the addresses of those that are up."""

import asyncio
import socket
from collections.abc import Callable
from typing import NamedTuple

import structlog

from enginehouse.background import Background
from enginehouse.runner.clients.base import EngineClient
from enginehouse.runner.pace import Pace
from enginehouse.runner.replicas import Replica, ReplicaPool

_log = structlog.get_logger(__name__)

_NO_ADDRESS = {socket.EAI_NONAME} | {
    number for name in ("EAI_NODATA", "EAI_ADDRFAMILY") if isinstance(number := getattr(socket, name, None), int)
}
"""What a resolver says of a name that has no addresses. Every other error says that it knows nothing."""


class ServiceEvents(NamedTuple):
    """Whom a `ServiceWatch` tells of what it finds."""

    found: Callable[[Replica], None]
    """A replica has an address now."""
    left: Callable[[Replica], None]
    """A replica has none any longer. It may still work on jobs that it was given."""
    fault: Callable[[str | None], None]
    """Why the name cannot be looked up; None: it can be."""


class ServiceWatch:
    """Keeps the pool's replicas those that a headless service has.

    A replica whose address is gone gets no more jobs; its connections are closed when those that it has have ended. While
    the name cannot be looked up, the last known replicas count.
    """

    def __init__(
        self,
        service: str,
        pool: ReplicaPool,
        make_client: Callable[[str], EngineClient],
        tell: ServiceEvents,
        pace: Pace,
        *,
        is_wanted: Callable[[], bool],
    ) -> None:
        """Look `service` up (`host:port`): often while no replica is up and `is_wanted` says that jobs wait for one."""
        host, _, port = service.rpartition(":")
        self._host, self._port = host, int(port)
        self._pool = pool
        self._make_client = make_client
        self._tell = tell
        self._pace = pace
        self._is_wanted = is_wanted
        self._present: dict[str, Replica] = {}
        """The replicas of the pool, by address."""
        self._leaving: dict[str, Replica] = {}
        """Those that may still work on jobs, although their address is gone."""
        self._done: list[Replica] = []
        """Those that get no more jobs, whose connections are to be closed. Their addresses may be known for a while."""
        self._was_found: bool | None = None
        """Whether the name had addresses when it was last looked up; None: it never was."""
        self._none_since = 0.0
        self._background = Background()

    @property
    def is_empty(self) -> bool:
        """Say whether the service has no replica, not even one that is ill. One that has had its only job is none."""
        return self._was_found is not None and all(replica.left for replica in self._present.values())

    def start(self) -> None:
        """Begin to look."""
        self._background.keep("engine service", self._run)

    async def stop(self) -> None:
        """Stop looking, and close the connections to all replicas that have left."""
        await self._background.close()
        for replica in (*self._leaving.values(), *self._done):
            await replica.client.close()

    def dismiss(self, replica: Replica) -> None:
        """Give no more jobs to a replica that has none in hand, although its address may be known for a while."""
        self._pool.remove(replica)
        self._done.append(replica)
        self._tell.left(replica)

    async def _run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(self._pause)

    @property
    def _pause(self) -> float:
        if self._pool.any_healthy and not self._pool.wants_replicas:
            return self._pace.service_poll_seconds
        away_for = asyncio.get_running_loop().time() - self._none_since
        hurries = self._is_wanted() or not self.is_empty or away_for < self._pace.service_hurry_seconds
        return self._pace.service_away_poll_seconds if hurries else self._pace.service_poll_seconds

    async def look(self) -> None:
        """Look the name up once, and take over what it says."""
        try:
            addresses = await self._addresses()
        except OSError as error:
            self._tell.fault(f"the engine's service {self._host} cannot be looked up: {error.strerror or error}")
        else:
            self._tell.fault(None)
            self._note_found(bool(addresses))
            for address in addresses - self._present.keys():
                self._come(address)
            for address in self._present.keys() - addresses:
                self._leave(address)
        await self._close_idle()

    async def _addresses(self) -> set[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in _NO_ADDRESS:
                return set()
            raise
        return {_address(str(at[0]), self._port) for _, _, _, _, at in found}

    def _note_found(self, was_found: bool) -> None:
        if was_found != self._was_found:
            self._none_since = asyncio.get_running_loop().time()
        self._was_found = was_found

    def _come(self, address: str) -> None:
        # One that was away for a moment may still have jobs in hand, and hung calls: it goes on as it was.
        if (replica := self._leaving.pop(address, None)) is not None:
            self._pool.bring_back(replica)
        else:
            replica = self._pool.add(self._make_client(f"http://{address}"))
        self._present[address] = replica
        _log.info("A replica of the engine is found", action="replica_found", engine_address=address)
        self._tell.found(replica)

    def _leave(self, address: str) -> None:
        replica = self._present.pop(address)
        if replica.left:
            return  # It was dismissed.
        self._leaving[address] = replica
        self._pool.remove(replica)
        _log.info(
            "A replica of the engine gets no more jobs: its service does not name it any longer",
            action="replica_left",
            engine_address=address,
            jobs=replica.places_taken,
        )
        self._tell.left(replica)

    async def _close_idle(self) -> None:
        for address, replica in list(self._leaving.items()):
            if not replica.places_taken:
                del self._leaving[address]
                await replica.client.close()
        while self._done:
            await self._done.pop().client.close()


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
