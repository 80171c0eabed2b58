"""Watch what engines do that they must not, and report it to the gateway, which counts it and may quarantine them."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass, field

import httpx2
import structlog

from enginehouse.broker.errors import BrokerError
from enginehouse.broker.redis_users import ALWAYS, KEEPING, NAMING, PUBLISHING, READING
from enginehouse.contracts.misdeeds import Misdeed
from enginehouse.contracts.names import engine_user
from enginehouse.local.health import plain_http
from enginehouse.local.home import Home
from enginehouse.local.refused_commands import Refused, RefusedCommands

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 2.0
_NEEDED = {*ALWAYS, *NAMING, *PUBLISHING, *READING, *KEEPING}
"""Commands that every sidecar sends. A user to whom one is refused was made too narrow: that is not the engine's doing."""


@dataclass(slots=True)
class Misbehaviour:
    """What engines of one home were seen doing and the gateway has not been told yet."""

    home: Home
    url: str
    """Of the gateway."""
    refused: RefusedCommands
    _seen: Counter[tuple[str, Misdeed]] = field(default_factory=Counter)

    def note(self, engine_id: str, misdeed: Misdeed, times: int) -> None:
        """Note that an engine did something so many times."""
        self._seen[engine_id, misdeed] += times

    async def run(self) -> None:
        """Look and report again and again, for ever. What a gateway that is away was not told, it is told later."""
        async with plain_http(10) as http:
            while True:
                with contextlib.suppress(BrokerError):
                    self._take(await asyncio.to_thread(self.refused.look))
                for engine_id, misdeed in list(self._seen):
                    await self._report(http, engine_id, misdeed)
                await asyncio.sleep(_LOOK_SECONDS)

    def _take(self, refused: Counter[Refused]) -> None:
        engines = {engine_user(engine_id): engine_id for engine_id in self.home.engine_bundles()}
        for (user, reason, what), times in refused.items():
            # Everybody can try to log in under the name of another: a wrong password says nothing about its owner.
            if user in engines and reason != "auth" and (reason, what) not in {("command", each) for each in _NEEDED}:
                log.warning(
                    f"Redis refused {times} commands to {engines[user]}: {reason} {what!r}",
                    action="command_denied",
                    engine_id=engines[user],
                )
                self.note(engines[user], Misdeed.DENIED_COMMANDS, times)

    async def _report(self, http: httpx2.AsyncClient, engine_id: str, misdeed: Misdeed) -> None:
        times = self._seen.pop((engine_id, misdeed))
        headers = {"authorization": f"Bearer {self.home.read_local().get('api_key', '')}"}
        try:
            answer = await http.post(
                f"{self.url}/v1/engines/{engine_id}/misbehaviour",
                json={"misdeed": misdeed, "times": times},
                headers=headers,
            )
        except httpx2.HTTPError:
            self.note(engine_id, misdeed, times)
            return
        if answer.status_code == httpx2.codes.NOT_FOUND:
            return  # The gateway does not know it yet, or any longer.
        if answer.is_error:
            self.note(engine_id, misdeed, times)
