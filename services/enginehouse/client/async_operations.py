"""Calls of operators: dead letters, and the state of engines.

`make fix` derives `sync_operations.py` from this file.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

import pydantic_core
from pydantic import BaseModel

from enginehouse.client.async_transport import AsyncTransport
from enginehouse.client.models import (
    AuditInfo,
    AuditPage,
    DeadLetterInfo,
    DeadLetterPage,
    EngineAnswer,
    EngineAnswers,
    EngineInfo,
    Page,
)
from enginehouse.contracts.errors import Unavailable
from enginehouse.contracts.replay import ReplayProgress, ReplayReport, ReplayRequest

M = TypeVar("M", bound=BaseModel)
P = TypeVar("P", bound=Page)
T = TypeVar("T")
_PAGE = 200
_BROADCAST_SECONDS = 90
"""Longest time that the gateway takes to ask all engines."""


def path_part(text: str) -> str:
    """Return a name as one part of a path, with all special characters escaped."""
    return quote(text, safe="")


class AsyncOperations:
    """The part of a client for operators."""

    _transport: AsyncTransport

    async def dead_letters(
        self, *, unparsable: bool = False, limit: int | None = None
    ) -> AsyncIterator[DeadLetterInfo]:
        """Return dead letters, newest first, with the reason of each; at most `limit`.

        `unparsable`: only events that could not be parsed and so belong to no tenant. Needs an administrator's key.
        """
        query = {"unparsable": "true" if unparsable else None}
        letters = self._paged(DeadLetterPage, lambda page: page.dead_letters, "/v1/dead-letters", query, limit)
        async for letter in letters:
            yield letter

    async def dead_letter(self, letter_id: str) -> DeadLetterInfo:
        """Return one dead letter. Its id is the id of the job that was given up."""
        return await self._get(DeadLetterInfo, f"/v1/dead-letters/{path_part(letter_id)}")

    async def audit(
        self,
        *,
        tenant: str | None = None,
        engine: str | None = None,
        job: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditInfo]:
        """Return entries of the audit log, newest first, that fit all that is given; at most `limit`.

        Yours and what concerns you; with an administrator's key everybody's. `action` is a part of it, such as `DELETE`.
        """
        wanted = {"tenant": tenant, "engine": engine, "job": job, "action": action, "outcome": outcome}
        moments = {"since": since.isoformat() if since else None, "until": until.isoformat() if until else None}
        async for entry in self._paged(AuditPage, lambda page: page.entries, "/v1/audit", {**wanted, **moments}, limit):
            yield entry

    async def discard(self, letter_id: str) -> None:
        """Delete a dead letter. Its job keeps its state."""
        await self._transport.request("POST", f"/v1/dead-letters/{path_part(letter_id)}/discard", safe=False)

    async def quarantine(self, engine: str, reason: str) -> EngineInfo:
        """Stop an engine ('<tenant>--<name>'), its processes and credentials, until it is resumed. Needs an administrator's key."""
        path = f"/v1/engines/{path_part(engine)}/quarantine"
        return EngineInfo.model_validate_json(await self._transport.request("POST", path, body={"reason": reason}))

    async def resume(self, engine: str) -> EngineInfo:
        """Deliver jobs to a paused or quarantined engine again, in order. An operator's quarantine needs an administrator's key."""
        path = f"/v1/engines/{path_part(engine)}/resume"
        return EngineInfo.model_validate_json(await self._transport.request("POST", path))

    async def purge(self, engine: str) -> int:
        """Cancel every job that waits for an engine. Return their number. Needs an administrator's key."""
        content = await self._transport.request("POST", f"/v1/engines/{path_part(engine)}/purge", safe=False)
        return int(pydantic_core.from_json(content)["canceled"])

    async def engines_info(self, selector: str = "") -> list[EngineAnswer]:
        """Ask every replica of the selected engines for its `/info`: your own engines, with an administrator's key all.

        A selector is such as 'tenant=acme,name=sentiment,version=v2,label.team=nlp'; every part of it must hold.
        """
        query = {"selector": selector} if selector else None
        return (await self._get(EngineAnswers, "/v1/engines:info", query, wait_seconds=_BROADCAST_SECONDS)).engines

    async def update_engines(self, selector: str = "", data: Any = None) -> list[EngineAnswer]:
        """Send `data` to `/update` of every replica of the selected engines. Some may fail: each has an answer of its own."""
        content = await self._transport.request(
            "POST",
            "/v1/engines:update",
            body={} if data is None else data,
            params={"selector": selector} if selector else None,
            safe=False,
            wait_seconds=_BROADCAST_SECONDS,
        )
        return EngineAnswers.model_validate_json(content).engines

    async def replay(
        self, engine: str, *, last: int = 100, tolerance: float = 1e-6, max_seconds: int = 600
    ) -> AsyncIterator[ReplayProgress | ReplayReport]:
        """Run the last kept inputs of your engine once more on its version on trial; return the report after the progress.

        `tolerance`: the relative difference at which two numbers count as the same. Ending the iteration ends the replay.
        """
        wanted = ReplayRequest(last=last, tolerance=tolerance, max_seconds=max_seconds)
        path = f"/v1/engines/{path_part(engine)}/replay"
        async for line in self._transport.lines("POST", path, body=wanted):
            said = pydantic_core.from_json(line)
            if "report" in said:
                yield ReplayReport.model_validate(said["report"])
                return
            yield ReplayProgress.model_validate(said["progress"])
        raise Unavailable("The replay ended without a report: the gateway has stopped")

    async def _paged(
        self,
        kind: type[P],
        items_of: Callable[[P], list[T]],
        path: str,
        query: Mapping[str, str | None],
        limit: int | None,
        size: int | None = _PAGE,
    ) -> AsyncIterator[T]:
        """Return what the pages of a list have, at most `limit`; `size`: how much is asked for at once, None: not said."""
        left = limit
        given = {name: value for name, value in query.items() if value}
        while left is None or left > 0:
            if size is not None:
                given["limit"] = str(min(left or size, size))
            page = await self._get(kind, path, given)
            items = items_of(page)
            for item in items:
                yield item
            left = None if left is None else left - len(items)
            if not page.next_cursor:
                return
            given["cursor"] = page.next_cursor

    async def _get(
        self, kind: type[M], path: str, params: dict[str, str] | None = None, *, wait_seconds: float = 0
    ) -> M:
        return kind.model_validate_json(
            await self._transport.request("GET", path, params=params, wait_seconds=wait_seconds)
        )
