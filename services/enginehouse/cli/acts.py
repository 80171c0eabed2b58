"""Records what a command changes in a home in its audit log."""

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import contextmanager

from enginehouse.audit.calls import CURRENT, Call
from enginehouse.audit.chain import ChainDamaged, open_chain
from enginehouse.cli.console import note
from enginehouse.cli.failures import Interrupted
from enginehouse.contracts.audit import AUDIT_MAX_BYTES, AuditEntry
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.local.errors import LocalError
from enginehouse.local.home import Home

_CHAIN = "commands"
_TENANT = re.compile(r"[a-z0-9-]{1,24}")


@contextmanager
def acting(home: Home, command: str, *, tenant: str | None = None, engine: str | None = None) -> Iterator[Call]:
    """Record what the block does as an act of this command, whether it succeeds or not.

    Raise LocalError before it begins if it could not be recorded.
    """
    _write(home, [], f"'{command}' has changed nothing")
    # A word in the wrong place may be a key, so only what can be a tenant's name gets into the log.
    named = tenant if tenant and _TENANT.fullmatch(tenant) else None
    call = Call(f"enginehouse {command}", user=_user(), tenant=named, engine=engine, is_operator=True)
    token = CURRENT.set(call)
    try:
        yield call
    except EnginehouseError as error:
        call.code = error.code
        raise
    except BaseException:
        call.code = Interrupted.code
        raise
    finally:
        CURRENT.reset(token)
        _write(home, call.entries(call.code or "ok", None), f"'{command}' is done and not recorded")


def _write(home: Home, entries: list[AuditEntry], otherwise: str) -> None:
    try:
        chain = open_chain(home.audit, _CHAIN, max_bytes=AUDIT_MAX_BYTES, told=_tell_damage, wait=True)
        try:
            if entries:
                chain.append(entries)
        finally:
            chain.close()
    except OSError as error:
        raise LocalError(
            f"The audit log in {home.audit} cannot be written: {error.strerror}. {otherwise}.",
            "Make room, or make the folder yours.",
        ) from None


def _tell_damage(error: ChainDamaged) -> None:
    note(f"{error}. Another chain is begun beside it; 'enginehouse audit verify' says which entry is wrong.", "yellow")


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
