"""Derived from `async_operations.py` by `make fix`: do not edit."""

from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import quote

import pydantic_core
from pydantic import BaseModel

from enginehouse.client.models import DeadLetterInfo, DeadLetterPage, EngineInfo
from enginehouse.client.sync_transport import Transport

M = TypeVar("M", bound=BaseModel)
_PAGE = 200


def path_part(text: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(text, safe="")


class Operations:
    """The part of a client that looks after what went wrong."""

    _transport: Transport

    def dead_letters(self, *, unparsable: bool = False, limit: int | None = None) -> Iterator[DeadLetterInfo]:
        """What was given up, newest first, with the reason of each; at most `limit`.

        `unparsable`: what nobody could parse and so is nobody's; needs an administrator's key.
        """
        left, cursor = limit, None
        while left is None or left > 0:
            size = min(left or _PAGE, _PAGE)
            query = {"unparsable": "true" if unparsable else "", "cursor": cursor or "", "limit": str(size)}
            given = {name: value for name, value in query.items() if value}
            page = self._get(DeadLetterPage, "/v1/dead-letters", given)
            yield from page.dead_letters
            left, cursor = None if left is None else left - len(page.dead_letters), page.next_cursor
            if not cursor:
                return

    def dead_letter(self, letter_id: str) -> DeadLetterInfo:
        """One dead letter; its id is that of the job that was given up."""
        return self._get(DeadLetterInfo, f"/v1/dead-letters/{path_part(letter_id)}")

    def discard(self, letter_id: str) -> None:
        """Delete a dead letter; its job keeps its state."""
        self._transport.request("POST", f"/v1/dead-letters/{path_part(letter_id)}/discard", safe=False)

    def quarantine(self, engine: str, reason: str) -> EngineInfo:
        """Stop all delivery to an engine ('<tenant>--<name>') until it is resumed; needs an administrator's key."""
        path = f"/v1/engines/{path_part(engine)}/quarantine"
        return EngineInfo.model_validate_json(self._transport.request("POST", path, body={"reason": reason}))

    def resume(self, engine: str) -> EngineInfo:
        """Let a paused or quarantined engine have its jobs again, in order; needs an administrator's key."""
        path = f"/v1/engines/{path_part(engine)}/resume"
        return EngineInfo.model_validate_json(self._transport.request("POST", path))

    def purge(self, engine: str) -> int:
        """Cancel every job that waits for an engine; how many. Needs an administrator's key."""
        content = self._transport.request("POST", f"/v1/engines/{path_part(engine)}/purge", safe=False)
        return int(pydantic_core.from_json(content)["canceled"])

    def _get(self, kind: type[M], path: str, params: dict[str, str] | None = None, *, wait_seconds: float = 0) -> M:
        return kind.model_validate_json(self._transport.request("GET", path, params=params, wait_seconds=wait_seconds))
