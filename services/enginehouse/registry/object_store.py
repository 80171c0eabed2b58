"""Read an artifact from an object store. Loaded only for an engine that has one there: `obstore` takes 4 MB."""

from collections.abc import Iterator

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

_PART_BYTES = 4 * 2**20


def parts(url: str) -> Iterator[bytes]:
    """Read the object at `url` (s3://…, az://…, gs://…, https://…) part by part. Raise ValueError if it cannot be read."""
    store_url, _, name = url.rpartition("/")
    try:
        for part in obstore.get(from_url(store_url), name).stream(min_chunk_size=_PART_BYTES):
            yield bytes(part)
    except BaseError as error:
        raise ValueError(str(error)) from None
