"""Talk to a real Dapr sidecar over its HTTP API.

Values are stored as JSON strings that hold the text. daprd would read a JSON value into floats, which changes integers
above 2^53.
"""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import aiohttp
import pydantic_core
from yarl import URL

from enginehouse.contracts.calls import ANSWERED_BY
from enginehouse.contracts.cloud_event import CONTENT_TYPE
from enginehouse.contracts.engine import INLINE_MAX_BYTES
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.sidecar.base import Conflict, Invocation, Invoked, Metadata, NotPermitted, StateItem, Unavailable
from enginehouse.sidecar.gather import Gather

_FIRST_WRITE = {"concurrency": "first-write", "consistency": "strong"}
_EVENT, _JSON = {"Content-Type": CONTENT_TYPE}, {"Content-Type": "application/json"}
# Without wrapping: our events are CloudEvents already. daprd would only parse them, add the topic and write them again.
_RAW_PAYLOAD = "metadata.rawPayload=true"
_READY_POLL_SECONDS = 0.05
# Limits of one gathered call. A sidecar takes 16 MiB, and escaped text can be twice as long as the text itself.
_GATHER_MAX = 64
_GATHER_MAX_BYTES = 2 * 1024 * 1024
# Two, so that a slow call does not hold up the others. More calls would make the groups smaller.
_GATHER_IN_FLIGHT = 2
# More, because a store that hangs holds each of them for long, and some of its callers wait for less.
_READS_IN_FLIGHT = 4
# Larger bodies are written to the connection in pieces.
_WHOLE_MAX_BYTES = 256 * 1024
# A bulk publish lists the failed events in a header of its answer.
_HEADER_MAX_BYTES = 1024 * 1024
# A sidecar sends a request again whose connection failed, unless its length is not declared.
_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


def _first_write(key: str, value: bytes, ttl_seconds: int, etag: str | None) -> dict[str, Any]:
    item = _item(key, value, ttl_seconds)
    item["options"] = _FIRST_WRITE
    if etag is not None:
        item["etag"] = etag
    return item


def _item(key: str, value: bytes, ttl_seconds: int | None) -> dict[str, Any]:
    item: dict[str, Any] = {"key": key, "value": value.decode()}
    if ttl_seconds is not None:
        item["metadata"] = {"ttlInSeconds": str(ttl_seconds)}
    return item


def _error_of_answer(status: int, body: bytes) -> EnginehouseError:
    try:
        answer = pydantic_core.from_json(body)
        reason = f"{answer['errorCode']}: {answer['message']}"
    except (ValueError, KeyError, TypeError):
        reason = f"it answered {status}"
    if status == 403:
        return NotPermitted(reason)
    return Conflict(reason) if status == 409 else Unavailable(f"sidecar: {reason}")


@contextlib.contextmanager
def _reading_answer() -> Iterator[None]:
    """Raise Unavailable if the block cannot read a sidecar's answer."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unavailable(
            f"sidecar: its answer cannot be understood: {type(error).__name__}: {str(error)[:200]}"
        ) from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {type(value).__name__}, expected text")
    return value


class DaprSidecar:
    """The sidecar at 127.0.0.1:`http_port`. Create it anywhere; call `start` inside the event loop that uses it."""

    def __init__(self, http_port: int, api_token: str, *, timeout_seconds: float = 10) -> None:
        self._address = f"127.0.0.1:{http_port}"
        self._api_token = api_token
        self._timeout = timeout_seconds
        self._session: aiohttp.ClientSession | None = None
        self._told: tuple[bytes, Metadata] | None = None
        """The last answer about what is loaded, and what it says. It is asked for every second, and hardly ever differs."""
        bounds: dict[str, Any] = {
            "at_most": _GATHER_MAX,
            "at_most_bytes": _GATHER_MAX_BYTES,
            "in_flight": _GATHER_IN_FLIGHT,
        }
        self._reading = Gather(self._read_gathered, at_most=_GATHER_MAX, in_flight=_READS_IN_FLIGHT)
        self._publishing = Gather(self._publish_gathered, size=len, **bounds)
        self._saving = Gather(self._save_gathered, size=lambda item: len(item["value"]), **bounds)

    async def start(self, timeout_seconds: float = 60) -> None:
        """Wait until the sidecar answers. Raise Unavailable if it does not in time."""
        self._session = aiohttp.ClientSession(
            base_url=f"http://{self._address}/v1.0/",
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers={"dapr-api-token": self._api_token},
            max_field_size=_HEADER_MAX_BYTES,
            trust_env=False,
        )
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        while True:
            try:
                await self.metadata()
                return
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(
                        f"no Dapr sidecar answers at {self._address} after {timeout_seconds:g} s: "
                        "is daprd running, with this DAPR_HTTP_PORT and DAPR_API_TOKEN?"
                    ) from None
                await asyncio.sleep(_READY_POLL_SECONDS)

    async def close(self) -> None:
        """Close the connections. Later calls raise Unavailable."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Return status and body of any answer. Raise Unavailable if there is no answer."""
        if self._session is None:
            raise Unavailable("sidecar: its connection is not open")
        data = io.BytesIO(body) if body is not None and len(body) > _WHOLE_MAX_BYTES else body
        try:
            async with self._session.request(method, path, data=data, headers=headers) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise Unavailable(f"sidecar: {type(error).__name__}: {error}") from None

    async def _call_ok(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> bytes:
        status, answer = await self._call(method, path, body, headers)
        if status >= 300:
            raise _error_of_answer(status, answer)
        return answer

    async def publish(self, pubsub: str, topic: str, event: bytes) -> None:
        """Publish one structured CloudEvent. The broker has it when this returns."""
        await self._publishing.do((pubsub, topic), event)

    async def _publish_gathered(self, to: tuple[str, str], events: Sequence[bytes]) -> list[Exception | None]:
        pubsub, topic = to
        if len(events) > 1:
            taken = await self.publish_many(pubsub, topic, events)
            return [None if ok else Unavailable(f"sidecar: {topic}: the broker did not take the event") for ok in taken]
        await self._call_ok("POST", f"publish/{pubsub}/{topic}?{_RAW_PAYLOAD}", events[0], _EVENT)
        return [None]

    async def publish_many(self, pubsub: str, topic: str, events: Sequence[bytes]) -> list[bool]:
        """Publish several events in one call, or a few calls if they are large.

        Return for each whether the broker has it.
        """
        taken: list[bool] = []
        for chunk in _chunks(events):
            taken += await self._publish_chunk(pubsub, topic, chunk)
        return taken

    async def _publish_chunk(self, pubsub: str, topic: str, events: Sequence[bytes]) -> list[bool]:
        entries = [
            {"entryId": str(index), "event": event.decode(), "contentType": "text/plain"}
            for index, event in enumerate(events)
        ]
        path = f"publish/bulk/{pubsub}/{topic}?{_RAW_PAYLOAD}"
        status, answer = await self._call("POST", path, pydantic_core.to_json(entries), _JSON)
        if status < 300:
            return [True] * len(events)
        try:
            failed = {entry["entryId"] for entry in pydantic_core.from_json(answer)["failedEntries"]}
        except (ValueError, KeyError, TypeError):
            raise _error_of_answer(status, answer) from None
        return [str(index) not in failed for index in range(len(events))]

    async def read(self, store: str, key: str) -> StateItem | None:
        """Return the present value, or None."""
        return await self._reading.do(store, key)

    async def _read_gathered(self, store: str, keys: Sequence[str]) -> list[StateItem | Exception | None]:
        found = await self._read_items(store, list(dict.fromkeys(keys)))
        return [found.get(key) for key in keys]

    async def read_many(self, store: str, keys: Sequence[str]) -> dict[str, StateItem]:
        """Return the present values of the keys that exist."""
        items = await self._read_items(store, keys) if keys else {}
        for item in items.values():
            if isinstance(item, Unavailable):
                raise item
        return {key: item for key, item in items.items() if isinstance(item, StateItem)}

    async def _read_items(self, store: str, keys: Sequence[str]) -> dict[str, StateItem | Unavailable]:
        """Return what exists of the keys, and the errors of those that cannot be read."""
        body = pydantic_core.to_json({"keys": keys, "parallelism": 8})
        answer = await self._call_ok("POST", f"state/{store}/bulk", body, _JSON)
        found: dict[str, StateItem | Unavailable] = {}
        with _reading_answer():
            items = pydantic_core.from_json(answer)
            if not isinstance(items, list):
                raise TypeError(f"found {type(items).__name__}, expected a list")
            for item in items:
                if item.get("error"):
                    found[_text(item["key"])] = Unavailable(f"sidecar: {item['error']}")
                elif item.get("etag"):
                    value = item["data"]
                    text = value.encode() if isinstance(value, str) else pydantic_core.to_json(value)
                    found[_text(item["key"])] = StateItem(text, _text(item["etag"]))
        return found

    async def create(self, store: str, key: str, value: bytes, ttl_seconds: int) -> None:
        """First-write a key that must not exist. Raise Conflict if it does."""
        await self._saving.do(store, _first_write(key, value, ttl_seconds, None))

    async def replace(self, store: str, key: str, value: bytes, etag: str, ttl_seconds: int) -> None:
        """First-write a key over exactly the version `etag`. Raise Conflict if it has another version by now."""
        await self._saving.do(store, _first_write(key, value, ttl_seconds, etag))

    async def _save(self, store: str, items: Sequence[dict[str, Any]]) -> None:
        await self._call_ok("POST", f"state/{store}", pydantic_core.to_json(items), _JSON)

    async def _save_gathered(self, store: str, items: Sequence[dict[str, Any]]) -> list[Exception | None]:
        if len(items) > 1 and len({item["key"] for item in items}) == len(items):
            try:
                await self._save(store, items)
                return [None] * len(items)
            except (Conflict, Unavailable):
                # Some items were not written, and the sidecar does not say which. So each is written again alone.
                return list(await asyncio.gather(*(self._save_again(store, item) for item in items)))
        return list(await asyncio.gather(*(self._save_one(store, item) for item in items)))

    async def _save_one(self, store: str, item: dict[str, Any]) -> Exception | None:
        try:
            await self._save(store, [item])
            return None
        except (Conflict, Unavailable) as error:
            if isinstance(error, Conflict) or "etag" in item:
                return error
            # Redis answers "the key exists" with the same internal error as any other failed write.
            try:
                present = await self.read(store, item["key"])
            except EnginehouseError as failure:
                return failure
            return error if present is None else Conflict(f"{store}: {item['key']} exists")

    async def _save_again(self, store: str, item: dict[str, Any]) -> Exception | None:
        """Write one item of a failed group again. It may have been written the first time."""
        error = await self._save_one(store, item)
        if not isinstance(error, Conflict):
            return error
        try:
            present = await self.read(store, item["key"])
        except EnginehouseError as failure:
            return failure
        return None if present is not None and present.value == item["value"].encode() else error

    async def put(self, store: str, key: str, value: bytes, ttl_seconds: int | None = None) -> None:
        """Last-write a key that decides nothing."""
        await self._save(store, [_item(key, value, ttl_seconds)])

    async def delete(self, store: str, key: str) -> None:
        """Remove a key, whether it exists or not."""
        name = quote(key, safe="")
        await self._call_ok("DELETE", f"state/{store}/{name}", None, None)

    async def invoke(self, app_id: str, call: Invocation) -> Invoked:
        """Send a request to another app and return its answer. See `Sidecar.invoke`."""
        if self._session is None:
            raise Unavailable("sidecar: its connection is not open")
        query = f"?{call.query}" if call.query else ""
        try:
            async with self._session.request(
                call.method,
                URL(f"http://{self._address}/v1.0/invoke/{app_id}/method/{call.path}{query}", encoded=True),
                data=None if call.method in _SAFE_METHODS and not call.body else _in_one_part(call.body),
                headers=call.headers,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                timeout=aiohttp.ClientTimeout(total=call.timeout_seconds),
                allow_redirects=False,
            ) as answer:
                body = await _bounded_answer(answer, call)
        except TimeoutError:
            raise Unavailable(f"sidecar: no answer of {app_id} in {call.timeout_seconds:g} s") from None
        except (aiohttp.ClientError, OSError, RuntimeError, ValueError) as error:
            raise Unavailable(f"sidecar: {type(error).__name__}: {error}") from None
        if ANSWERED_BY not in answer.headers:
            raise _error_of_answer(answer.status, body)
        return Invoked(answer.status, list(answer.headers.items()), body)

    async def secret(self, store: str, name: str) -> str:
        """Return a secret's value. Errors never quote it."""
        answer = await self._call_ok("GET", f"secrets/{store}/{quote(name, safe='')}", None, None)
        try:
            return _text(pydantic_core.from_json(answer)[name])
        except (ValueError, LookupError, TypeError):
            raise Unavailable(f"sidecar: {store} has no value for {name}") from None

    async def metadata(self) -> Metadata:
        """Return the components and subscriptions that the sidecar has loaded now."""
        body = await self._call_ok("GET", "metadata", None, None)
        if self._told is None or self._told[0] != body:
            with _reading_answer():
                self._told = body, _metadata_of(pydantic_core.from_json(body))
        return self._told[1]


def _metadata_of(answer: Any) -> Metadata:
    return Metadata(
        app_id=_text(answer["id"]),
        components=frozenset(_text(component["name"]) for component in answer.get("components") or ()),
        subscribed_topics=frozenset(_text(entry["topic"]) for entry in answer.get("subscriptions") or ()),
    )


async def _bounded_answer(answer: aiohttp.ClientResponse, call: Invocation) -> bytes:
    body, held = bytearray(), call.hold is None
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > call.answer_max_bytes:
            raise Unavailable(f"sidecar: the answer has more than {call.answer_max_bytes} bytes")
        if not held and len(body) > INLINE_MAX_BYTES and call.hold:
            held = True
            call.hold(call.answer_max_bytes)
    return bytes(body)


async def _in_one_part(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body whose length is not declared."""
    if body:
        yield body


def _chunks(events: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Split the events, in order, into groups that fit one call. A group holds at least one event, however large."""
    start = size = 0
    for index, event in enumerate(events):
        size += len(event)
        if index > start and size > _GATHER_MAX_BYTES:
            yield events[start:index]
            start, size = index, len(event)
    if start < len(events):
        yield events[start:]
