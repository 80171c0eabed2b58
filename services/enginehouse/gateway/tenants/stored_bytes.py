"""Counts the bytes that each tenant keeps in the object store, and refuses new ones beyond its limit."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from enginehouse.contracts.errors import StorageFull
from enginehouse.contracts.names import made_at
from enginehouse.contracts.tenant import Limits, Tenant

_NO_LIMITS_SET = Limits()


@dataclass(slots=True)
class Room:
    """Room for an object that is being written."""

    size: int
    """Bytes that it has or may have. The writer corrects it when it knows better: 0 if nothing new was stored."""


class StoredBytes:
    """The store's listing, read at each clean-up, and the objects that this gateway has seen written since.

    Bytes that were deleted, and those that another gateway or a runner wrote into a cloud's store, are seen at the next
    clean-up. Outputs are counted and never refused: their jobs were accepted.
    """

    def __init__(self, tenant_of: Callable[[str], Tenant | None], *, recounted_every_seconds: float) -> None:
        """Find a tenant by its name with `tenant_of`. Who is refused may try again when the store is listed anew."""
        self._tenant_of = tenant_of
        self._retry_seconds = recounted_every_seconds
        self._listed: Mapping[str, int] = {}
        self._listed_at = 0.0
        self._since: dict[str, int] = {}
        """Sizes of the objects that were written since the last listing began or shortly before, by key."""
        self._before: dict[str, int] = {}
        """The same for the listing before, while a listing runs."""
        self._used: Counter[str] = Counter()
        """Bytes of each tenant: listed, written since, and being written."""

    def used(self, tenant: str) -> int:
        """Return how many bytes the tenant keeps."""
        return self._used[tenant]

    def _limit(self, tenant: str) -> int:
        known = self._tenant_of(tenant)
        return (known.limits if known else _NO_LIMITS_SET).stored_bytes

    def check(self, tenant: str, more: int = 1) -> None:
        """Raise StorageFull unless the tenant may store that many bytes more."""
        limit = self._limit(tenant)
        if self._used[tenant] + more > limit:
            raise StorageFull(
                f"{tenant} keeps {self._used[tenant]} bytes of uploads, large inputs and outputs; {more} more would "
                f"exceed its {limit}",
                retry_after_seconds=self._retry_seconds,
            )

    @contextmanager
    def writing(self, key: str, size: int | None, at_most: int = 0) -> Iterator[Room]:
        """Keep room for an object while it is written, and count it when it is. Raise StorageFull if there is none.

        An object whose size is not known gets what is left, and `at_most` that many bytes.
        """
        tenant = _owner(key)
        if size is None:
            size = max(min(at_most, self._limit(tenant) - self._used[tenant]), 1)
        room = Room(size)
        self.check(tenant, size)
        self._used[tenant] += size
        try:
            yield room
        finally:
            self._used[tenant] -= size
        if room.size:
            self.note(key, room.size)

    def note(self, key: str, size: int) -> None:
        """Count an object that is in the store, once however often it is noted."""
        self._used[_owner(key)] += size - self._since.get(key, 0)
        self._since[key] = size

    def note_upload(self, key: str, size: int) -> None:
        """Count an upload that is named by a job, unless it is so old that the store's list has it."""
        if made_at(key.rpartition("/")[2].partition(".")[0]) >= self._listed_at:
            self.note(key, size)

    def begin_listing(self, now: float) -> None:
        """Note that the store is being listed: what is written from now on may be missing in the list."""
        self._listed_at = now
        self._before, self._since = {**self._before, **self._since}, {}

    def end_listing(self, listed: Mapping[str, int], young: Mapping[str, int]) -> None:
        """Take over what the list says, in place of what was counted before it began.

        `listed` has the bytes of each tenant but those of `young`, the sizes of objects by key that may have been
        written while the store was listed: whoever writes them may note them as well, before this or after.
        """
        self._used.subtract(self._listed)
        self._used.update(listed)
        for key, size in self._before.items():
            self._used[_owner(key)] -= size
        self._listed, self._before = listed, {}
        for key in young.keys() - self._since.keys():
            self.note(key, young[key])


def _owner(key: str) -> str:
    return key.partition("/")[0]
