"""Asks the operator's policy before a version of an engine starts, and records what it decides in the audit log."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import structlog

from enginehouse.audit.log import AuditLog
from enginehouse.contracts.engine import EngineSpec
from enginehouse.contracts.errors import NotAllowedToRun
from enginehouse.local.home import Home
from enginehouse.supply.decide import Supply
from enginehouse.yaml_files import InvalidFile

_ACTION = "start of an engine"
_MISTAKE = "supply/policy.yaml has a mistake, so no engine starts: 'enginehouse status' says which"
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Admission:
    """The policy of one home."""

    home: Home
    audit: AuditLog
    _supply: Supply = field(init=False)
    _told: dict[str, str] = field(default_factory=dict)
    """The last decision on each slot, by app id: another try after a refusal is no new one."""
    _mistake: str = ""
    """The last mistake that the log names."""

    def __post_init__(self) -> None:
        """Find the policy."""
        self._supply = Supply(self.home.supply)

    async def admit(self, app: str, spec: EngineSpec, now: datetime, *, from_image: bool) -> None:
        """Raise NotAllowedToRun if the policy does not allow a version to start, or cannot be read.

        `from_image`: the image runs that its engine.yaml names; otherwise code of its folder.
        """
        try:
            allowed = await self._check(spec, now, from_image=from_image)
        except NotAllowedToRun as error:
            self._record(app, spec, error.code, str(error))
            raise
        except InvalidFile as error:
            self._tell_mistake(error)
            # Without the mistake: the engine's owner reads this, and the policy is of all tenants.
            refused = NotAllowedToRun(_MISTAKE)
            self._record(app, spec, refused.code, _MISTAKE)
            raise refused from None
        if allowed:
            self._record(app, spec, "ok", allowed)

    async def still_allows(self, spec: EngineSpec, since: datetime, *, from_image: bool) -> bool:
        """Return whether the policy allows what it allowed at `since`: only edits stop what runs, and not the time.

        While the policy cannot be read, what runs goes on.
        """
        try:
            await self._check(spec, since, from_image=from_image)
        except NotAllowedToRun:
            return False
        except InvalidFile as error:
            self._tell_mistake(error)
        return True

    async def _check(self, spec: EngineSpec, at: datetime, *, from_image: bool) -> str | None:
        return await asyncio.to_thread(partial(self._supply.check, spec, from_image=from_image, at=at))

    def _tell_mistake(self, error: InvalidFile) -> None:
        if self._mistake != str(error):
            self._mistake = str(error)
            log.error(f"The policy cannot be used, so no engine starts: {error}", action="policy_broken")

    def _record(self, app: str, spec: EngineSpec, outcome: str, detail: str) -> None:
        if self._told.get(app) == f"{outcome} {detail}":
            return
        self._told[app] = f"{outcome} {detail}"
        self.audit.record_act(_ACTION, spec.id, outcome, version=spec.version, detail=detail)
