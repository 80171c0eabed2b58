"""Rotate an engine's credentials while it works: its password for the broker, and the tokens of its runners.

A command asks for it by a file in the home of a running stack, and finds the outcome in another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from enginehouse.audit.log import AuditLog
from enginehouse.background import Background
from enginehouse.broker.errors import BrokerError
from enginehouse.broker.redis_users import user_of_engine
from enginehouse.broker.users import BrokerUsers
from enginehouse.contracts.names import is_engine_id
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home

_ASKED, _ENDED = "rotate.", "rotated."
_LOOK_SECONDS = 0.1

Renew = Callable[[], Awaitable[None]]
"""Restarts the sidecar of one slot with new credentials."""


def asked(home: Home) -> list[str]:
    """Return the engines whose rotation somebody waits for."""
    names = [path.name.removeprefix(_ASKED) for path in home.exchange.glob(f"{_ASKED}*")]
    return [name for name in names if is_engine_id(name)]


def forget_asked(home: Home) -> None:
    """Delete what a stack that ended meanwhile was asked: what starts next has new tokens anyway."""
    for path in (*home.exchange.glob(f"{_ASKED}*"), *home.exchange.glob(f"{_ENDED}*")):
        path.unlink(missing_ok=True)


async def rotate(home: Home, users: BrokerUsers, engine_id: str, slots: Callable[[], Sequence[Renew]]) -> bool:
    """Do what was asked, one slot after the other, and leave the outcome for whoever waits. Return whether all went well."""
    problem = ""
    try:
        await _rotate(users, engine_id, slots)
    except Exception as error:  # Any exception: somebody waits for its text.
        problem = str(error) or type(error).__name__
    ended = home.exchange / f"{_ENDED}{engine_id}"
    draft = home.run / ended.name
    draft.write_text(problem)
    draft.replace(ended)
    (home.exchange / f"{_ASKED}{engine_id}").unlink(missing_ok=True)
    return not problem


async def _rotate(users: BrokerUsers, engine_id: str, slots: Callable[[], Sequence[Renew]]) -> None:
    user = user_of_engine(engine_id)
    await asyncio.to_thread(users.begin_rotation, user)
    problems = []
    for renew in slots():
        try:
            await renew()
        except (BrokerError, LocalError) as error:
            problems.append(str(error))
    # Also if one does not get well: the former password may be in the wrong hands.
    await asyncio.to_thread(users.end_rotation, user)
    if problems:
        raise LocalError("They are new and the former ones refused, but it does not get well.", "\n".join(problems))


@dataclass(slots=True)
class Rotations:
    """The rotations of a running stack."""

    home: Home
    users: BrokerUsers
    audit: AuditLog
    background: Background
    renewals: Callable[[str], Sequence[Renew]]
    """Returns what renews each slot of an engine."""
    _going_on: set[str] = field(default_factory=set)

    def follow(self) -> None:
        """Begin what is asked for and has not begun."""
        for engine_id in asked(self.home):
            if engine_id not in self._going_on:
                self._going_on.add(engine_id)
                self.background.start(self._rotate(engine_id))

    async def _rotate(self, engine_id: str) -> None:
        try:
            is_well = await rotate(self.home, self.users, engine_id, partial(self.renewals, engine_id))
            self.audit.record_act("credentials rotated", engine_id, "ok" if is_well else "failed")
        finally:
            self._going_on.discard(engine_id)


async def ask(home: Home, engine_id: str) -> bool:
    """Rotate an engine's credentials, and wait for it. Return whether anything runs; otherwise it starts with new ones.

    Raise LocalError with what went wrong.
    """
    if not home.is_running():
        home.broker_passwords.forget(user_of_engine(engine_id).name)
        return False
    ended = home.exchange / f"{_ENDED}{engine_id}"
    ended.unlink(missing_ok=True)
    (home.exchange / f"{_ASKED}{engine_id}").touch(mode=0o600)
    while not ended.exists():
        if not home.is_running():
            raise LocalError("Enginehouse stopped meanwhile.", "'enginehouse up' starts it; then ask again.")
        await asyncio.sleep(_LOOK_SECONDS)
    problem = _taken(ended)
    if problem:
        raise LocalError(f"The credentials of {engine_id}: {problem}", "'enginehouse status' shows how it is now.")
    return True


def _taken(path: Path) -> str:
    text = path.read_text()
    path.unlink(missing_ok=True)
    return text
