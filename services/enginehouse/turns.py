"""Takes turns over tenants: who uses least of a shared thing comes first, then whoever has waited longest for a turn."""

from dataclasses import dataclass, field

Turn = tuple[float, float]
"""Compares tenants: the smaller one comes first."""


@dataclass(slots=True)
class Turns:
    """Weighted turns over tenants. A tenant of weight 3 gets three turns for one of another, and nobody starves.

    First counts what a tenant holds, divided by its weight: who holds nothing never waits behind who holds something.
    Among equals it is start-time fair queueing (Goyal, Vin and Cheng, 1996): each turn moves its tenant's next start
    on by 1 / weight, and a tenant that comes late starts where the others are now, neither behind nor ahead of them.
    """

    _now: float = 0.0
    """The latest start of a turn that was taken."""
    _next: dict[str, float] = field(default_factory=dict)
    """Start of the next turn of each tenant that is ahead of `_now`."""

    def of(self, tenant: str, held: int, weight: float, ahead: int = 0) -> Turn:
        """Return the tenant's turn if it holds that many places and takes `ahead` turns before."""
        start = max(self._next.get(tenant, 0.0), self._now)
        return ((held + ahead) / weight, start + ahead / weight)

    def take(self, tenant: str, weight: float) -> None:
        """Note that the tenant takes a turn."""
        start = max(self._next.pop(tenant, 0.0), self._now)
        if start > self._now:
            self._now = start
            self._next = {name: moment for name, moment in self._next.items() if moment > start}
        self._next[tenant] = start + 1 / weight
