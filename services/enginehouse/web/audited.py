"""Records each HTTP call in the audit log once it is answered: by method and route, never by what was sent."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from enginehouse.audit.calls import CURRENT, Call
from enginehouse.audit.log import AuditLog
from enginehouse.contracts.audit import DISCONNECTED
from enginehouse.contracts.names import is_job_id

_ENGINE = re.compile(r"[a-z0-9-]{1,57}(@trial)?")
_TENANT = re.compile(r"[a-z0-9-]{1,24}")
_NO_PATH = "(no such path)"


@contextmanager
def audited(log: AuditLog, scope: Scope) -> Iterator[Call]:
    """Record the request that the block answers. The parts that answer it note what it concerns (`audit/calls.py`).

    A call without a key that nobody refused, such as of /healthz or /docs, concerns no tenant and is left out.
    """
    call = Call()
    token = CURRENT.set(call)
    try:
        yield call
    finally:
        CURRENT.reset(token)
        status: int | None = scope["state"].get("status")
        is_refused = status is not None and 400 <= status < 500
        if call.by or call.tenant or is_refused:
            _describe(call, scope)
            log.record_call(call, _outcome(call, status), status, is_refused=is_refused)


def _describe(call: Call, scope: Scope) -> None:
    path = scope["state"].get("route") or getattr(scope.get("route"), "path_format", _NO_PATH)
    call.action = f"{scope['method']} {path}"
    call.request_id = scope["state"].get("request_id")
    named = scope.get("path_params") or {}
    engine, job = named.get("engine") or named.get("model"), named.get("job_id") or named.get("letter_id")
    # Strangers can put anything into a path, so only what can be a name gets into the log.
    if call.engine is None and isinstance(engine, str) and _ENGINE.fullmatch(engine):
        call.engine = engine
    if call.is_operator and call.tenant is None and isinstance(tenant := named.get("tenant"), str):
        call.tenant = tenant if _TENANT.fullmatch(tenant) else None
    if isinstance(job, str) and is_job_id(job):
        call.job = job


def _outcome(call: Call, status: int | None) -> str:
    if status is None:
        return DISCONNECTED
    return "ok" if status < 400 else call.code or f"HTTP_{status}"
