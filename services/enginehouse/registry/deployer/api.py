"""Calls the API server of a cluster. Nothing else here does."""

import json
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import kr8s

from enginehouse.contracts.errors import EnginehouseError
from enginehouse.registry.deployer.kinds import Kind, Ref, ref_of
from enginehouse.registry.kubernetes.parts import Object

FIELD_MANAGER = "enginehouse"
"""Under this name the API server keeps which fields are ours."""
_CALL_SECONDS = 30.0
_WATCH_SECONDS = 290
"""The API server ends a watch after this time, and it is begun again: a connection that is dead is noticed so late."""
_PAGE = 500
_WRONG_FIELD = "failed to create typed patch object"
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class ClusterAway(EnginehouseError):
    """The API server does not answer, or cannot now."""

    code = "CLUSTER_AWAY"
    advice = "It is tried again. 'kubectl get --raw /readyz' says how the API server is."


class ClusterRefused(EnginehouseError):
    """The API server refuses an object."""

    code = "CLUSTER_REFUSED"
    retryable = False
    advice = "Correct what it names; it is tried again now and then."

    def __init__(self, detail: str, status: int) -> None:
        super().__init__(detail)
        self.status = status


class TooOld(EnginehouseError):
    """The API server does not know any longer what has changed since: all must be listed again."""

    code = "TOO_OLD"


@dataclass(frozen=True, slots=True)
class Listed:
    """The objects of one kind at one moment."""

    items: list[Object]
    resource_version: str


@dataclass(slots=True)
class Cluster:
    """A cluster: the one that KUBECONFIG names, or the one that this process runs in."""

    _api: "kr8s.asyncio.Api | None" = field(default=None)

    async def apply(self, content: Object, *, dry_run: bool = False) -> Object:
        """Apply an object by server-side apply, and return it as it is then. Fields that others have set become ours."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._call(
            "PATCH",
            ref_of(content),
            query,
            content=json.dumps(content),
            headers={"content-type": "application/apply-patch+yaml"},
        )

    async def merge(self, ref: Ref, change: Object) -> Object | None:
        """Change some fields of an object, and return it as it is then; None if there is none."""
        headers = {"content-type": "application/merge-patch+json"}
        query = {"fieldManager": FIELD_MANAGER}
        return await self._unless_gone("PATCH", ref, query, content=json.dumps(change), headers=headers)

    async def read(self, ref: Ref) -> Object | None:
        """Return an object, or None if there is none."""
        return await self._unless_gone("GET", ref, {})

    async def delete(self, ref: Ref, *, selector: str | None = None, **options: Any) -> bool:
        """Delete an object with what belongs to it; with a `selector`, all of its kind in its namespace.

        `options` are those of Kubernetes. Return whether there was one.
        """
        query = {"labelSelector": selector} if selector else {}
        content = json.dumps({"propagationPolicy": "Background", **options})
        return await self._unless_gone("DELETE", ref, query, content=content) is not None

    async def list(self, kind: Kind, selector: str, namespace: str = "") -> Listed:
        """Return all objects of a kind with these labels; of a kind that is not needed whole, the metadata."""
        items: list[Object] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        while True:
            found = await self._call("GET", Ref(kind, namespace, ""), query, headers=_accept(kind, "List"))
            items += found["items"] or []
            if not (more := found["metadata"].get("continue")):
                return Listed(items, found["metadata"]["resourceVersion"])
            query["continue"] = more

    async def watch(self, kind: Kind, selector: str, since: str) -> AsyncGenerator[tuple[str, Object]]:
        """Give what changes of a kind after this version, until the API server ends it: the type of event, and the object.

        Use it with contextlib.aclosing. Raise TooOld, or ClusterAway.
        """
        query = {
            "labelSelector": selector,
            "watch": "1",
            "resourceVersion": since,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        timeout = httpx.Timeout(_CALL_SECONDS, read=_WATCH_SECONDS + _CALL_SECONDS)
        where = _where(Ref(kind, "", ""))
        async with self._asked("GET", where, query, stream=True, timeout=timeout, headers=_accept(kind, "")) as answer:
            if answer.is_error:
                await answer.aread()
                _raise(answer)
            async for line in answer.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == httpx.codes.GONE:
                        raise TooOld(event["object"].get("message"))
                    raise ClusterAway(event["object"].get("message"))
                yield event["type"], event["object"]

    async def _unless_gone(self, method: str, ref: Ref, query: Mapping[str, str], **more: Any) -> Object | None:
        try:
            return await self._call(method, ref, query, **more)
        except ClusterRefused as error:
            if error.status == httpx.codes.NOT_FOUND:
                return None
            raise

    async def _call(self, method: str, ref: Ref, query: Mapping[str, str], **more: Any) -> Object:
        async with self._asked(method, _where(ref), query, timeout=_CALL_SECONDS, **more) as answer:
            if answer.is_error:
                _raise(answer)
            found: Object = answer.json()
            return found

    @asynccontextmanager
    async def _asked(
        self, method: str, where: dict[str, Any], query: Mapping[str, str], **more: Any
    ) -> AsyncGenerator[httpx.Response]:
        try:
            api = await self._connected()
            # Refusals are told apart here: kr8s would take a quota for a login that has run out, and log in anew.
            async with api.call_api(method, **where, params=dict(query), raise_for_status=False, **more) as answer:
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    self._api = None  # Its token has run out: the next call reads the present one.
                    raise ClusterAway("the API server does not know who calls")
                yield answer
        except (httpx.HTTPError, kr8s.APITimeoutError, kr8s.ConnectionClosedError, OSError, ssl.SSLError) as error:
            raise ClusterAway(f"the API server does not answer: {str(error) or type(error).__name__}") from None

    async def _connected(self) -> "kr8s.asyncio.Api":
        if self._api is None:
            try:
                # A client of its own: that of kr8s' cache may belong to a login that has run out.
                made = kr8s.asyncio.Api(bypass_factory=True)
                await made.auth
            except ValueError as error:
                raise ClusterAway(f"No cluster is found: {error}. KUBECONFIG names one") from None
            self._api = made
        return self._api


def _where(ref: Ref) -> dict[str, Any]:
    name = f"/{ref.name}" if ref.name else ""
    place = {"namespace": ref.namespace} if ref.namespace else {}
    return {"version": ref.kind.api, "url": f"{ref.kind.plural}{name}", **place}


def _accept(kind: Kind, many: str) -> dict[str, str]:
    return {} if kind.is_whole else {"accept": _METADATA.format(many)}


def _raise(answer: httpx.Response) -> None:
    try:
        said = answer.json()["message"]
    except (ValueError, KeyError, TypeError):
        said = answer.text[:500]
    # Of a field that does not exist, the API server says so with 500.
    status = httpx.codes.UNPROCESSABLE_ENTITY if _WRONG_FIELD in said else answer.status_code
    if status == httpx.codes.GONE:
        raise TooOld(said)
    if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.CONFLICT) or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise ClusterAway(f"the API server answers {status}: {said}")
    raise ClusterRefused(said, status)
