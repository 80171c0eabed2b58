"""The base of clients of ready-made servers: what does not depend on what they speak over HTTP."""

from enginehouse.runner.clients.wire import Wire


class ReadyMadeServer:
    """One replica of a ready-made server, at the other end of `wire`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._wire.address

    @property
    def warning(self) -> str | None:
        """What slows the engine's jobs, in its own words: an answer of any server may say so in our header."""
        return self._wire.warning

    async def close(self) -> None:
        """Close the connections."""
        await self._wire.close()

    async def cancel(self, job_id: str) -> bool:
        """Return False: these servers have no route for it."""
        return False
