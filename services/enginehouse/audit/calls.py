"""What is known of the call in hand: the parts that serve it note what it concerns, and its edge records it at the end."""

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

from enginehouse.contracts.audit import DETAIL_MAX_CHARS, AuditEntry
from enginehouse.contracts.names import engine_of, is_engine_id, tenant_of


@dataclass(slots=True)
class Call:
    """A call that is being answered."""

    action: str = ""
    by: str | None = None
    key: str | None = None
    user: str | None = None
    tenant: str | None = None
    engine: str | None = None
    job: str | None = None
    detail: str = ""
    code: str = ""
    """Code of the problem that was answered, if one was."""
    is_operator: bool = False
    request_id: str | None = None
    accepted: list[tuple[str, str]] = field(default_factory=list)
    """Ids and engines of the jobs that it submitted."""
    _began: float = field(default_factory=time.perf_counter)

    def entries(self, outcome: str, status: int | None) -> list[AuditEntry]:
        """Return the entries of the call, now that it has ended: one for each job that it submitted, or a single one."""
        jobs: Sequence[tuple[str | None, str | None]] = self.accepted or [(self.job, self.engine)]
        ms = round((time.perf_counter() - self._began) * 1_000, 3)
        return [
            AuditEntry(
                time.time(),
                self.action,
                outcome,
                by=self.by,
                key=self.key,
                user=self.user,
                tenant=self._concerned(),
                engine=engine,
                job=job,
                status=status,
                ms=ms,
                request_id=self.request_id,
                detail=self.detail or None,
            )
            for job, engine in jobs
        ]

    def _concerned(self) -> str | None:
        """Return the tenant whom the call concerns: of an operator's act, the owner of the engine."""
        if (
            not self.accepted
            and self.tenant is None
            and self.is_operator
            and self.engine
            and is_engine_id(engine_of(self.engine))
        ):
            return tenant_of(self.engine)
        return self.tenant or self.by


CURRENT: ContextVar[Call | None] = ContextVar("audited_call", default=None)
"""The call that the present task serves. Tasks that it starts have the same."""


def note_accepted(job: str, engine: str) -> None:
    """Note a job that the call in hand has submitted."""
    if call := CURRENT.get():
        call.accepted.append((job, engine))


def note_concerned(*, tenant: str | None = None, engine: str | None = None, detail: str = "") -> None:
    """Note whom and what the call in hand concerns, and what it changed, by names only."""
    if call := CURRENT.get():
        call.tenant = tenant or call.tenant
        call.engine = engine or call.engine
        call.detail = detail[:DETAIL_MAX_CHARS] or call.detail


def note_problem(code: str) -> None:
    """Note the code of the problem that the call in hand is answered with."""
    if call := CURRENT.get():
        call.code = code


def note_operator(tenant: str, key: str) -> None:
    """Note whose key the call in hand has shown: an operator's."""
    if call := CURRENT.get():
        call.by, call.key, call.is_operator = tenant, key, True
