"""Counts the jobs that wait in the ledger, for each engine and each tenant."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping


class Backlog:
    """Jobs that wait for room in engines' windows: counted by the last sweep and kept up to date since."""

    def __init__(self) -> None:
        self._totals: Counter[str] = Counter()
        self._of_tenants: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the engines that jobs wait for."""
        return iter([engine_id for engine_id, number in self._totals.items() if number])

    def of(self, engine_id: str) -> int:
        """Return how many jobs wait for an engine."""
        return self._totals[engine_id]

    def of_tenant(self, engine_id: str, tenant: str) -> int:
        """Return how many of them are the tenant's."""
        return self._of_tenants[engine_id][tenant] if engine_id in self._of_tenants else 0

    def add(self, engine_id: str, tenant: str) -> None:
        """Count a job that waits."""
        self._totals[engine_id] += 1
        self._of_tenants[engine_id][tenant] += 1

    def remove(self, engine_id: str, tenant: str) -> None:
        """Count a job as handed over. Jobs that were not counted change nothing."""
        waiting = self._of_tenants[engine_id]
        if waiting[tenant] > 0:
            waiting[tenant] -= 1
            self._totals[engine_id] -= 1

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how many jobs wait, by engine and tenant."""
        return {
            (engine_id, tenant): number
            for engine_id, tenants in self._of_tenants.items()
            for tenant, number in tenants.items()
        }

    def replace(self, counted: Mapping[tuple[str, str], int]) -> None:
        """Take over other numbers, by engine and tenant."""
        self._totals.clear()
        self._of_tenants.clear()
        for (engine_id, tenant), number in counted.items():
            self._totals[engine_id] += number
            self._of_tenants[engine_id][tenant] = number
