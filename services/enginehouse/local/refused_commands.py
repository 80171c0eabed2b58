"""Read from Redis which commands it has refused to its users since the last look."""

from collections import Counter
from dataclasses import dataclass

import structlog

from enginehouse.broker import redis

log = structlog.get_logger(__name__)

Refused = tuple[str, str, str]
"""User, reason and object of refused commands, as Redis logs them."""


@dataclass(slots=True)
class RefusedCommands:
    """What one Redis refuses. Whoever sends a command decides how long its key is, and how often it comes."""

    address: redis.RedisAddress
    _known: Counter[Refused] | None = None
    """What Redis remembered at the last look."""
    _refusals: int | None = None
    """How many it had counted then. None: it does not count them."""

    def look(self) -> Counter[Refused]:
        """Return what was refused since the last look. Of a time before the first one nothing is said. Raise BrokerError."""
        refusals = redis.refusals(self.address)
        if self._known is not None and refusals is not None and refusals == self._refusals:
            return Counter()  # To show its log again would be work for Redis.
        entries, is_whole = redis.acl_log(self.address)
        logged = Counter[Refused]()
        for entry in entries:
            logged[entry.get("username", ""), entry.get("reason", ""), entry.get("object", "")] += int(entry["count"])
        fresh = logged - (logged if self._known is None else self._known)
        if self._known is not None and len(entries) >= redis.LOG_ENTRIES and not logged.keys() & self._known.keys():
            log.warning(
                "Redis refuses more commands and logins than it remembers: not all are counted for the engines that sent "
                f"them. The last was of {next(iter(logged))[0]!r}",
                action="refusals_lost",
            )
        self._known, self._refusals = logged, refusals
        if not is_whole:
            # Its entries are long. Before Redis 7.2 each look would make it send them again.
            redis.commands(self.address, [["ACL", "LOG", "RESET"]])
            self._known = Counter()
        return fresh
