"""Limits each tenant, so that no tenant can take everything from the others."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from enginehouse.contracts.errors import RateLimited, TenantSuspended
from enginehouse.gateway.tenants.tenants import Caller

_BURST_SECONDS = 2.0
"""Size of a burst: a tenant that was quiet may submit the jobs of this number of seconds at once."""


_OPEN_RETRY_SECONDS = 1.0
_HELD_BYTES_OF_TENANT = 32 * 1024 * 1024
_HELD_BYTES = 256 * 1024 * 1024
"""Most bytes of large bodies in hand, of one tenant and of all: four and 32 bodies of the usual largest size."""
_HELD_RETRY_SECONDS = 1.0


def check_not_suspended(caller: Caller) -> None:
    """Raise TenantSuspended if the tenant may not make new work."""
    if caller.tenant.suspended:
        raise TenantSuspended(f"{caller.name} is suspended: it may read results, and submit nothing new")


class OpenRequests:
    """Counts the requests of each tenant that this gateway is answering, those that wait for a job included.

    Connections are bounded in number, so one tenant must not have all of them.
    """

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count a request until the block ends. Raise RateLimited if the tenant has too many."""
        name, most = caller.name, caller.tenant.limits.open_requests
        if self._open[name] >= most:
            raise RateLimited(
                f"{name} has {most} requests open at this gateway, its limit", retry_after_seconds=_OPEN_RETRY_SECONDS
            )
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


class BytesInHand:
    """Counts the bytes of large bodies that are being read or checked. They are counted before they are read."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()

    @contextmanager
    def holding(self, tenant: str) -> Iterator[Callable[[int], None]]:
        """Return a function that counts so many bytes more until the block ends.

        It raises RateLimited if they would be too many, but never for the only body in hand.
        """
        mine = 0

        def hold(count: int) -> None:
            nonlocal mine
            held, in_all = self._held[tenant], self._held.total()
            if (held and held + count > _HELD_BYTES_OF_TENANT) or (in_all and in_all + count > _HELD_BYTES):
                whose = f"{tenant} has" if held and held + count > _HELD_BYTES_OF_TENANT else "the gateway has"
                raise RateLimited(
                    f"{whose} too many large bodies in hand for {count} bytes more; upload large inputs",
                    retry_after_seconds=_HELD_RETRY_SECONDS,
                )
            self._held[tenant] += count
            mine += count

        try:
            yield hold
        finally:
            if mine:
                self._held[tenant] -= mine
                if not self._held[tenant]:
                    del self._held[tenant]


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Limits:
    """Counts submits per second and jobs in flight in this gateway. The sweep corrects the latter from the ledger."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self.in_flight: dict[str, int] = {}
        self._arriving: Counter[str] = Counter()
        """Number of each tenant's jobs that are being accepted at this moment."""

    @contextmanager
    def admitting(self, caller: Caller) -> Iterator[None]:
        """Count a job while it is being accepted.

        Raise TenantSuspended, or RateLimited, with the time to wait, if the tenant is over a limit.
        """
        check_not_suspended(caller)
        self._check(caller)
        self._arriving[caller.name] += 1
        try:
            yield
        finally:
            self._arriving[caller.name] -= 1

    def _check(self, caller: Caller) -> None:
        limits, name, now = caller.tenant.limits, caller.name, self._clock()
        if self.in_flight.get(name, 0) + self._arriving[name] >= limits.jobs_in_flight:
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
        """Count a job of this tenant as in flight."""
        self.in_flight[tenant] = self.in_flight.get(tenant, 0) + 1

    def ended(self, tenant: str) -> None:
        """Count a job of this tenant as ended."""
        self.in_flight[tenant] = max(self.in_flight.get(tenant, 0) - 1, 0)
