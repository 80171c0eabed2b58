"""Keeps inputs and outputs that are too large for a message in an object store, and signs URLs for them.

The clouds' stores serve signed URLs themselves. A folder cannot, so the gateway serves its objects on signed routes.
"""

import asyncio
import contextlib
import filecmp
import hashlib
import hmac
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import LocalStore, ObjectStore, from_url

from enginehouse.contracts.errors import Forbidden, InputTooLarge, NotFound, ObjectExists, Unavailable
from enginehouse.contracts.events import JobObjects
from enginehouse.contracts.job import MAX_EXECUTION_SECONDS, MAX_RESULT_TTL_SECONDS
from enginehouse.contracts.names import (
    JOB_ID_PATTERN,
    NAME_PATTERN,
    PLATFORM_TENANT,
    new_job_id,
    output_key,
    tenant_of,
)

Method = Literal["GET", "PUT"]
_DELETED_AT_ONCE = 32
_KEY_FILE = ".signing-key"
_UPLOAD_KEY = re.compile(rf"({NAME_PATTERN})/uploads/{JOB_ID_PATTERN}\.(?:json|bin)")
_LONGEST_SIGNATURE_SECONDS = 7 * 86_400
UPLOAD_TTL_SECONDS = 8 * 86_400
"""Longer than the longest time in a queue, so that a waiting job keeps its upload."""
_JOBS_OWN_TTL_SECONDS = UPLOAD_TTL_SECONDS + MAX_EXECUTION_SECONDS + MAX_RESULT_TTL_SECONDS
"""For objects that were not deleted with their job, such as an output whose worker died before it wrote the record."""
_ARRIVING = "arriving"
_TTL_SECONDS = {
    "uploads": UPLOAD_TTL_SECONDS,
    "inputs": _JOBS_OWN_TTL_SECONDS,
    "outputs": _JOBS_OWN_TTL_SECONDS,
    _ARRIVING: 86_400,
}
_YOUNG_SECONDS = 60
"""Covers the store's clock being behind ours, and the moment between an object's last byte and its place."""


class Listing(NamedTuple):
    """What the store keeps. Young objects may have been written while it was listed."""

    tenants_bytes: Counter[str]
    """Bytes that each tenant keeps in objects that are not young."""
    young: dict[str, int]
    """Bytes of each young object, by key. Neither counts objects that are still being written."""


class UploadDoesNotExist(NotFound):
    """No such upload."""

    code = "UPLOAD_DOES_NOT_EXIST"
    advice = "POST /v1/uploads gives a key and a URL; PUT the object there, then submit its key as input_ref."


def upload_key(tenant: str, *, is_json: bool) -> str:
    """Make the key of a new upload of a tenant."""
    return f"{tenant}/uploads/{new_job_id()}{'.json' if is_json else '.bin'}"


def input_key(tenant: str, job_id: str) -> str:
    """Return the key of a job's input that the gateway moved out of the message."""
    return f"{tenant}/inputs/{job_id}.json"


def is_jobs_own(key: str | None) -> bool:
    """Say whether an object belongs to one job and is deleted with it. Uploads are deleted by their age."""
    return key is not None and key.split("/")[1:2] in (["inputs"], ["outputs"])


def is_upload(key: str) -> bool:
    """Say whether an object is an upload, and not a job's own."""
    return _UPLOAD_KEY.fullmatch(key) is not None


class Objects:
    """Stores objects at a URL: file:///FOLDER, s3://…, az://…, gs://…"""

    def __init__(self, url: str, public_url: str, *, max_bytes: int, shared_max_bytes: int) -> None:
        """Keep objects up to `max_bytes`; those of jobs of shared engines, up to `shared_max_bytes`."""
        self._public_url = public_url.rstrip("/")
        self.max_bytes = max_bytes
        self._shared_max_bytes = min(shared_max_bytes, max_bytes)
        self._store: ObjectStore
        self._secret: bytes | None = None
        self._folder: Path | None = None
        if urlsplit(url).scheme == "file":
            folder = Path(unquote(urlsplit(url).path))
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder = folder
            self._store = LocalStore(folder)
            self._secret = _folder_secret(folder)
        else:
            self._store = from_url(url)

    def _signature(self, method: Method, key: str, expires: int, job_id: str | None) -> str:
        assert self._secret is not None
        signed = "\n".join([method, key, str(expires), *([job_id] if job_id else [])])
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()

    async def sign(self, method: Method, key: str, expires_at: float, job_id: str | None = None) -> str:
        """Return a URL that allows `method` on `key` until `expires_at` (seconds since the epoch).

        In a folder, a URL with `job_id` is also worth nothing once this job has ended: the route that serves it asks.
        """
        if self._secret is not None:
            expires = int(expires_at) + 1
            query = f"expires={expires}&signature={self._signature(method, key, expires, job_id)}"
            if job_id:
                query += f"&job={job_id}"
            return f"{self._public_url}/v1/objects/{quote(key)}?{query}"
        seconds = min(max(expires_at - time.time(), 1), _LONGEST_SIGNATURE_SECONDS)
        try:
            return str(await obstore.sign_async(self._store, method, key, timedelta(seconds=seconds)))  # type: ignore[arg-type]
        except Exception as error:
            # Some stores ask another service for the key that signs.
            raise Unavailable(f"object store: {type(error).__name__}") from error

    def check(self, method: Method, key: str, expires: int, signature: str, job_id: str | None = None) -> None:
        """Raise Forbidden unless `signature` allows `method` on `key` now. Works for a folder only.

        Whether the job has ended must be asked as well.
        """
        if self._secret is None:
            raise Forbidden("Objects of this store are served by the store itself")
        if not hmac.compare_digest(self._signature(method, key, expires, job_id).encode(), signature.encode()):
            raise Forbidden("The signature does not match this URL")
        if expires < time.time():
            raise Forbidden("This URL has expired")

    async def put(self, key: str, body: bytes | AsyncIterable[bytes]) -> int:
        """Write an object completely or not at all; return its size. Raise InputTooLarge beyond `max_bytes`."""
        bounded = _BoundedBody(body, self.max_bytes)
        try:
            await obstore.put_async(self._store, key, bounded.chunks() if not isinstance(body, bytes) else body)
        except Exception as error:
            if bounded.size > self.max_bytes:
                raise InputTooLarge(f"The object has more than the {self.max_bytes} bytes that are allowed") from None
            raise Unavailable(f"object store: {type(error).__name__}") from error
        return bounded.size

    async def put_once(self, key: str, body: AsyncIterable[bytes]) -> int:
        """Write a new object of a folder completely or not at all; raise ObjectExists if the key has another one.

        The same bytes may come again, because a caller that lost the answer sends them again. Return how many bytes are
        stored now that were not before.
        """
        assert self._folder is not None
        arriving = f"{key.split('/')[0]}/{_ARRIVING}/{new_job_id()}"
        try:
            size = await self.put(arriving, body)
            try:
                await obstore.rename_async(self._store, arriving, key, overwrite=False)
                return size
            except AlreadyExistsError:
                paths = (self._folder / arriving, self._folder / key)
                if not await asyncio.to_thread(filecmp.cmp, *paths, shallow=False):
                    raise ObjectExists("An object was written here before, and it differs") from None
                return 0
            except Exception as error:
                raise Unavailable(f"object store: {type(error).__name__}") from error
        finally:
            await self.delete([arriving])

    async def get(self, key: str) -> AsyncIterator[bytes]:
        """Return a stream of the object's bytes; raise UploadDoesNotExist if there is no such object."""
        try:
            result = await obstore.get_async(self._store, key)
        except FileNotFoundError:
            raise UploadDoesNotExist(f"No object {key}") from None
        except Exception as error:
            raise Unavailable(f"object store: {type(error).__name__}") from error

        async def chunks() -> AsyncIterator[bytes]:
            async for chunk in result.stream(min_chunk_size=256 * 1024):
                yield bytes(chunk)

        return chunks()

    async def copy(self, source: str, target: str) -> None:
        """Copy an object; raise UploadDoesNotExist if there is no such object."""
        try:
            await obstore.copy_async(self._store, source, target)
        except FileNotFoundError:
            raise UploadDoesNotExist(f"No object {source}") from None
        except Exception as error:
            raise Unavailable(f"object store: {type(error).__name__}") from error

    async def size(self, key: str) -> int | None:
        """Return the object's size in bytes, or None if there is no such object."""
        try:
            return int((await obstore.head_async(self._store, key))["size"])
        except FileNotFoundError:
            return None
        except Exception as error:
            raise Unavailable(f"object store: {type(error).__name__}") from error

    async def delete(self, keys: list[str]) -> None:
        """Delete objects; ignore those that do not exist."""

        async def delete_one(key: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._store, key)

        for first in range(0, len(keys), _DELETED_AT_ONCE):
            await asyncio.gather(*(delete_one(key) for key in keys[first : first + _DELETED_AT_ONCE]))

    async def delete_old(self, now: float) -> Listing:
        """Delete uploads past their time, and jobs' objects that no job can name any longer. Return what is kept."""
        old: list[str] = []
        kept, young = Counter[str](), dict[str, int]()
        async for page in obstore.list(self._store):
            for item in page:
                path, written_at = str(item["path"]), item["last_modified"].timestamp()
                parts = path.split("/")
                ttl = _TTL_SECONDS.get(parts[1]) if len(parts) == 3 else None
                if ttl and written_at < now - ttl:
                    old.append(path)
                elif len(parts) == 1 or parts[1] == _ARRIVING:
                    continue  # The gateway's own, or counted as long as it is being written.
                elif written_at >= now - _YOUNG_SECONDS:
                    young[path] = int(item["size"])
                else:
                    kept[parts[0]] += int(item["size"])
        await self.delete(old)
        return Listing(kept, young)

    async def delete_tenant(self, tenant: str) -> int:
        """Delete all objects of a tenant, those included that are being written. Return how many there were."""
        deleted = 0
        async for page in obstore.list(self._store, prefix=f"{tenant}/"):
            await self.delete([str(item["path"]) for item in page])
            deleted += len(page)
        return deleted

    async def check_upload(self, tenant: str, key: str, limit: int) -> int:
        """Return the size of an upload of this tenant.

        Raise UploadDoesNotExist if `key` does not name one, and InputTooLarge if it has more than `limit` bytes.
        """
        # Only keys as `upload_key` makes them reach the store, which fails on others in ways of its own.
        own = _UPLOAD_KEY.fullmatch(key)
        if own is None or own[1] != tenant or (size := await self.size(key)) is None:
            raise UploadDoesNotExist(f"input_ref: {tenant} has no upload {key[:200]!r}")
        if size > limit:
            raise InputTooLarge(f"input_ref: the upload has {size} bytes; {limit} are allowed at this engine")
        return size

    def max_bytes_at(self, engine_id: str) -> int:
        """Return the most bytes of an input or output of a job of this engine."""
        return self._shared_max_bytes if tenant_of(engine_id) == PLATFORM_TENANT else self.max_bytes

    async def of_job(
        self, tenant: str, job_id: str, hand_over: int, *, engine_id: str, input_ref: str | None, expires_at: float
    ) -> JobObjects:
        """Sign URLs for one hand-over of this job only, valid until `expires_at`."""
        key = output_key(tenant, job_id, hand_over)
        output_url = await self.sign("PUT", key, expires_at, job_id)
        return JobObjects(
            input_url=await self.sign("GET", input_ref, expires_at, job_id) if input_ref else None,
            input_is_json=input_ref is None or input_ref.endswith(".json"),
            output_url=output_url,
            output_ref=key,
            max_bytes=self.max_bytes_at(engine_id),
            expires_at=expires_at,
        )


class _BoundedBody:
    """Passes chunks on until they exceed the limit."""

    def __init__(self, body: bytes | AsyncIterable[bytes], limit: int) -> None:
        self._body = body
        self._limit = limit
        self.size = len(body) if isinstance(body, bytes) else 0

    async def chunks(self) -> AsyncIterator[bytes]:
        assert not isinstance(self._body, bytes)
        async for chunk in self._body:
            self.size += len(chunk)
            if self.size > self._limit:
                raise InputTooLarge(f"The object has more than the {self._limit} bytes that are allowed")
            if chunk:
                yield chunk


def _folder_secret(folder: Path) -> bytes:
    """Return the folder's signing key; make it if there is none. Gateways that share the folder share the key."""
    path = folder / _KEY_FILE
    if not path.exists():
        draft = folder / f"{_KEY_FILE}.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_bytes(secrets.token_bytes(32))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_bytes()
