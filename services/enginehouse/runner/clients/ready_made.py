"""The base of clients of ready-made servers: what does not depend on what they speak over HTTP."""

from enginehouse.runner.clients.wire import WireClient


class ReadyMadeServer(WireClient):
    """One replica of a ready-made server, at the other end of `wire`."""

    async def cancel(self, job_id: str) -> bool:
        """Return False: these servers have no route for it."""
        return False
