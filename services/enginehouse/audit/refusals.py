"""Bounds what refused calls may write: beyond a rate, those of one sender are counted, and one entry stands for all."""

import time
from collections.abc import Callable

from enginehouse.contracts.audit import REFUSED, AuditEntry

_BURST = 50
_PER_SECOND = 1.0
_SUMMARY_SECONDS = 60.0
_SENDERS_MAX = 10_000


class _Sender:
    __slots__ = ("counted", "room", "seen_at", "since")

    def __init__(self, now: float) -> None:
        self.room = float(_BURST)
        self.seen_at = now
        self.counted = 0
        self.since = now


class Refusals:
    """Decides which refused calls get an entry of their own. A sender is a tenant; all without a key are one."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._senders: dict[str | None, _Sender] = {}

    def has_room(self, sender: str | None) -> bool:
        """Say whether a refused call of this sender gets an entry; otherwise count it."""
        now = self._clock()
        if sender not in self._senders and len(self._senders) >= _SENDERS_MAX:
            sender = None
        known = self._senders.setdefault(sender, _Sender(now))
        known.room = min(known.room + (now - known.seen_at) * _PER_SECOND, _BURST)
        known.seen_at = now
        if known.room >= 1:
            known.room -= 1
            return True
        known.since = known.since if known.counted else now
        known.counted += 1
        return False

    def due(self, *, all_of_them: bool = False) -> list[AuditEntry]:
        """Return an entry for each sender whose refused calls were counted for a minute, and forget who was quiet."""
        now = self._clock()
        entries = []
        for sender, known in list(self._senders.items()):
            if known.counted and (all_of_them or now - known.since >= _SUMMARY_SECONDS):
                entries.append(
                    AuditEntry(
                        now,
                        REFUSED,
                        "REFUSED",
                        by=sender,
                        tenant=sender,
                        ms=round((now - known.since) * 1_000, 3),
                        times=known.counted,
                    )
                )
                known.counted = 0
            if not known.counted and now - known.seen_at > _BURST / _PER_SECOND:
                del self._senders[sender]
        return entries
