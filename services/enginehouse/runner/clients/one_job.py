"""The client of a replica that works on one job in all (`mode: job`): its pod ends with the call."""

from enginehouse.runner.clients.base import Busy, EngineClient, Health, Prediction, Reply, Unreachable
from enginehouse.runner.schema import Description


class OneJobEngine:
    """Calls an engine through the door of its pod, by the client of its protocol."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    @property
    def address(self) -> str:
        """`host:port`."""
        return self._client.address

    @property
    def warning(self) -> str | None:
        """None: no job waits behind another here."""
        return None

    async def predict(self, prediction: Prediction) -> Reply:
        """Run the job. A pod that takes none now takes none later either, so the job goes elsewhere, and no attempt is made."""
        reply = await self._client.predict(prediction)
        if isinstance(reply, Busy):
            return Unreachable(f"the pod at {self.address} takes no job: it has had one, or is about to end")
        return reply

    async def cancel(self, job_id: str) -> bool:
        """Tell the engine. Whatever it says, the call was closed, and with it the pod ends: no job waits behind it."""
        await self._client.cancel(job_id)
        return True

    async def health(self) -> Health:
        """Ask whether the model is loaded."""
        return await self._client.health()

    async def describe(self) -> Description:
        """Return what the engine says of itself."""
        return await self._client.describe()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
