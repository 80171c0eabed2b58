"""What one tenant may use, so that it cannot take everything from the others."""

import time
from dataclasses import dataclass

from enginehouse.contracts.errors import RateLimited
from enginehouse.gateway.tenants import Caller

_BURST_SECONDS = 2.0
"""A tenant that was quiet may submit so many seconds' worth at once."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Limits:
    """Submits per second and jobs in flight, counted in this gateway; the sweep corrects the second from the ledger."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self.in_flight: dict[str, int] = {}

    def admit(self, caller: Caller) -> None:
        """RateLimited, saying when to come back, if the tenant is over one of its limits."""
        limits, name, now = caller.tenant.limits, caller.name, time.monotonic()
        if self.in_flight.get(name, 0) >= limits.jobs_in_flight:
            raise RateLimited(
                f"{name} has {limits.jobs_in_flight} jobs that have not ended, its limit", retry_after_seconds=5
            )
        capacity = max(1.0, limits.submits_per_second * _BURST_SECONDS)
        bucket = self._buckets.setdefault(name, _Bucket(capacity, now))
        bucket.tokens = min(capacity, bucket.tokens + (now - bucket.at) * limits.submits_per_second)
        bucket.at = now
        if bucket.tokens < 1:
            wait = (1 - bucket.tokens) / limits.submits_per_second
            raise RateLimited(
                f"{name} may submit {limits.submits_per_second:g} jobs a second", retry_after_seconds=wait
            )
        bucket.tokens -= 1

    def accepted(self, tenant: str) -> None:
        """A job of this tenant is in flight."""
        self.in_flight[tenant] = self.in_flight.get(tenant, 0) + 1

    def ended(self, tenant: str) -> None:
        """A job of this tenant has ended."""
        self.in_flight[tenant] = max(self.in_flight.get(tenant, 0) - 1, 0)
