"""Calls engines' extra endpoints, for the tenants whose engines they are and for administrators."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pydantic_core

from enginehouse.contracts.calls import (
    ANSWERED_BY,
    CALL_ANSWER_MAX_BYTES,
    CALL_HEAD_MAX_BYTES,
    CALL_PREFIX,
    CALL_SECONDS,
    PROOF_HEADER,
    encoded_path,
    request_headers,
)
from enginehouse.contracts.engine import EngineState
from enginehouse.contracts.errors import (
    EngineAsleep,
    EngineCallFailed,
    EnginehouseError,
    EngineUnavailable,
    Forbidden,
    InputTooLarge,
    RateLimited,
    RequestError,
    Unavailable,
)
from enginehouse.contracts.names import Slot, app_id, engine_of, namespace
from enginehouse.contracts.proofs import ProofKeys, call_proof
from enginehouse.gateway.engines.catalogue import Catalogue
from enginehouse.gateway.engines.known_engine import KnownEngine
from enginehouse.gateway.tenants.limits import check_not_suspended
from enginehouse.gateway.tenants.tenants import Caller
from enginehouse.sidecar.base import Invocation, Invoked, Sidecar

_AT_ONCE = 8
"""Calls that one tenant may have in hand at one gateway."""
_WAKE_SECONDS = 30.0
_RETRY_SECONDS = 1.0
_MARGIN_SECONDS = 5.0
"""Beyond an engine's own time, so that its runner can say what was wrong."""
_SAID_BY_RUNNERS = {kind.code: kind for kind in (EngineUnavailable, EngineCallFailed, InputTooLarge, RequestError)}


@dataclass(frozen=True, slots=True)
class EngineCall:
    """A request to an engine's extra endpoint."""

    method: str
    path: str
    """As `check_call_path` returns it."""
    query: str
    """As it came, percent-encoded."""
    headers: list[tuple[str, str]]
    body: bytes
    hold: Callable[[int], None]
    """Counts the bytes of a large answer before they are read."""


class EngineCalls:
    """Calls extra endpoints through the sidecars: at the active slot of an engine, one healthy replica answers."""

    def __init__(
        self, catalogue: Catalogue, sidecar: Sidecar, proof_keys: ProofKeys, *, tenant_namespaces: bool
    ) -> None:
        """Find runners in their tenants' Kubernetes namespaces if there are `tenant_namespaces`."""
        self._catalogue = catalogue
        self._sidecar = sidecar
        self._proof_keys = proof_keys
        self._tenant_namespaces = tenant_namespaces
        self._in_hand: Counter[str] = Counter()

    def engine(self, caller: Caller, name: str) -> KnownEngine:
        """Return the engine that `caller` means, if it may call it. Raise EngineDoesNotExist or Forbidden.

        A shared engine's endpoints are its operators' only: they are beside the queue, so no fair share and no limit
        protects one tenant from another there.
        """
        engine = self._catalogue.resolve_for(name, caller)
        if not caller.is_admin and engine.tenant != caller.name:
            raise Forbidden(
                f"{engine.id} is not yours: only its owner or an administrator can call its extra endpoints"
            )
        return engine

    async def call(self, caller: Caller, engine: KnownEngine, call: EngineCall) -> Invoked:
        """Return the engine's own answer, whatever its status.

        Raise EngineAsleep, EngineUnavailable or EngineCallFailed if it gives none, RateLimited if the tenant has too
        many calls in hand, TenantSuspended if it is suspended, RequestError if the runner refuses the path.
        """
        headers = request_headers(call.headers)
        path = f"{CALL_PREFIX}{encoded_path(call.path)}"
        size = len(path) + len(call.query) + sum(len(name) + len(value) for name, value in headers)
        if size > CALL_HEAD_MAX_BYTES:
            raise RequestError(
                f"Path, query and headers have {size} bytes; {CALL_HEAD_MAX_BYTES} are allowed in a call"
            )
        with self.counted(caller):
            return await self.invoke(
                engine,
                await self.slot(engine, caller),
                Invocation(
                    call.method, path.rstrip("/"), call.query, headers, call.body, 0, CALL_ANSWER_MAX_BYTES, call.hold
                ),
            )

    async def invoke(self, engine: KnownEngine, slot: Slot, invocation: Invocation) -> Invoked:
        """Send a request to a runner of the engine's slot, and return the answer that it got from the engine.

        Raise EngineUnavailable or EngineCallFailed if it got none, RequestError if it refuses the path.
        """
        name, call = engine_of(engine.id), invocation
        shown = call_proof(self._proof_keys.of(name), call.method, call.path, call.query, call.body)
        headers = [*call.headers, (PROOF_HEADER, shown)]
        timeout = CALL_SECONDS + _MARGIN_SECONDS
        app = app_id(name, slot)
        if self._tenant_namespaces:
            app = f"{app}.{namespace(engine.tenant)}"
        try:
            answer = await self._sidecar.invoke(app, replace(call, headers=headers, timeout_seconds=timeout))
        except Unavailable as error:
            raise EngineUnavailable(f"{engine.id} cannot be called: {error}") from None
        if answer.header(ANSWERED_BY.lower()) != "engine":
            raise _runners_error(engine, answer)
        return answer

    @contextmanager
    def counted(self, caller: Caller) -> Iterator[None]:
        """Count a call until the block ends.

        Raise RateLimited if the tenant has too many in hand, TenantSuspended if it is suspended.
        """
        check_not_suspended(caller)
        if self._in_hand[caller.name] >= _AT_ONCE:
            raise RateLimited(
                f"{caller.name} has {_AT_ONCE} calls of extra endpoints in hand, the limit",
                retry_after_seconds=_RETRY_SECONDS,
            )
        self._in_hand[caller.name] += 1
        try:
            yield
        finally:
            self._in_hand[caller.name] -= 1
            if not self._in_hand[caller.name]:
                del self._in_hand[caller.name]

    async def slot(self, engine: KnownEngine, caller: Caller) -> Slot:
        """Return the slot of a healthy worker that gets the engine's jobs. Raise EngineAsleep or EngineUnavailable."""
        for known in (engine, self._catalogue.behind(engine)):
            if known.state == EngineState.QUARANTINED:
                raise EngineUnavailable(known.why_jobs_wait(caller))
        await self._catalogue.read_workers(engine)
        if engine.is_asleep:
            raise EngineAsleep(f"{engine.id} has no worker at present", retry_after_seconds=_WAKE_SECONDS)
        healthy = [worker for worker in engine.workers if worker.healthy]
        active = [worker.slot for worker in healthy if worker.subscribed] or [worker.slot for worker in healthy]
        if not active:
            raise EngineUnavailable(
                f"{engine.id} is not healthy: {engine.reason_for(caller) or 'none of its workers is'}"
            )
        return active[0]


def _runners_error(engine: KnownEngine, answer: Invoked) -> EnginehouseError:
    try:
        said = pydantic_core.from_json(answer.body)
        kind, detail = _SAID_BY_RUNNERS.get(said["code"], EngineUnavailable), str(said["detail"])
    except (ValueError, LookupError, TypeError):
        return EngineUnavailable(f"{engine.id}: its runner answered {answer.status}")
    return kind(f"{engine.id}: {detail}")
