"""`enginehouse audit`: who did what and how it ended; and whether the audit log is still what was written."""

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.audit.verify import Checked, Fault, verify_events
from enginehouse.audit.verify import verify as verify_chains
from enginehouse.cli.commands import Lists
from enginehouse.cli.connection import connected
from enginehouse.cli.console import TerminalSteps, note, print_json, say
from enginehouse.cli.homes import HomeOption, existing_home
from enginehouse.cli.options import JsonOption
from enginehouse.cli.tables import Column, Fit, print_table
from enginehouse.cli.units import duration
from enginehouse.client import AuditInfo
from enginehouse.contracts.audit import Head, InvalidLine, heads_in
from enginehouse.contracts.moments import now
from enginehouse.local.errors import LocalError

EXAMPLES = """Examples:

enginehouse audit --since 2h --outcome FORBIDDEN

enginehouse audit --engine acme--ocr --action quarantine

enginehouse audit --job 01890a5d-ac96-7b2a-8c4e-0123456789ab --json

enginehouse audit verify

enginehouse audit verify --heads heads-kept-elsewhere.txt

enginehouse audit verify --events events-that-arrived.jsonl"""

audit = typer.Typer(cls=Lists, epilog=EXAMPLES)

_COLUMNS = (
    Column("time (UTC)"),
    Column("who"),
    Column("action", fit=Fit.WORDS),
    Column("outcome"),
    Column("took", worth=2, right=True),
    Column("tenant", worth=4),
    Column("engine", worth=3, fit=Fit.MIDDLE),
    Column("job", worth=1),
    Column("detail", worth=0, fit=Fit.WORDS),
)
_CHAINS = (Column("chain"), Column("entries", right=True), Column("from", right=True), Column("head", fit=Fit.MIDDLE))
_AGO = re.compile(r"(\d{1,6}) ?(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
_QUIET_SECONDS = 2.0


class AuditBroken(LocalError):
    """The audit log is not what was written."""

    code = "AUDIT_BROKEN"


def _moment(text: str) -> datetime:
    """Read `2h`, which is so long ago, or a moment in ISO 8601, in UTC unless it says another zone."""
    try:
        if ago := _AGO.fullmatch(text):
            return now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no moment: write 30min, 2h, 7d or 2026-11-26T22:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_MOMENT = {"metavar": "MOMENT", "parser": _moment}


@audit.callback()
def callback() -> None:
    """List who did what, when, how long it took and how it ended; or verify that no entry was changed. Without a command: list."""


@audit.command("list")
def list_entries(
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Done by it, or concerning it.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="ENGINE", help="TENANT--NAME.")] = None,
    job: Annotated[str | None, typer.Option(metavar="JOB", help="The job's id.")] = None,
    action: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A part of the action: quarantine, DELETE, 'job ended'.")
    ] = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="CODE", help="ok, a job's final status, or an error's code.")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="30min, 2h or 7d ago, or ISO 8601.", **_MOMENT)] = None,
    until: Annotated[datetime | None, typer.Option(help="The same.", **_MOMENT)] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Most entries to list.")] = 20,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List entries, newest first: everybody's with an operator's key, otherwise yours and what concerns you."""
    with connected(home) as client:
        found = list(
            client.audit(
                tenant=tenant,
                engine=engine,
                job=job,
                action=action,
                outcome=outcome,
                since=since,
                until=until,
                limit=limit,
            )
        )
    if as_json:
        print_json([entry.model_dump(mode="json") for entry in found])
        return
    print_table(_COLUMNS, [_row(entry) for entry in found]) if found else say("No entries.")


def _row(entry: AuditInfo) -> tuple[str | Text, ...]:
    who = f"{entry.by} {entry.key or ''}".rstrip() if entry.by else entry.user or "-"
    times = f" ({entry.times:,} times)" if entry.times > 1 else ""
    is_well = entry.outcome in ("ok", "succeeded")
    return (
        f"{entry.at:%Y-%m-%d %H:%M:%S}",
        who,
        entry.action + times,
        entry.outcome if is_well else Text(entry.outcome, "red"),
        "" if entry.ms is None else duration(entry.ms / 1_000),
        entry.tenant or "",
        entry.engine or "",
        entry.job or "",
        entry.detail or "",
    )


@audit.command()
def verify(
    heads: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Text with heads that were kept elsewhere, such as a log: their entries must still be there.",
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Entries that were shipped, one a line as they arrived, instead of those in the home.",
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every entry in the home's audit log. Exits with 1 if one was changed, moved or taken out.

    Without heads from elsewhere it cannot see that the newest entries were cut off, or a whole chain written anew.
    """
    place = events or existing_home(home).audit
    kept = heads_in(heads.read_text(errors="replace")) if heads else []
    if heads and not kept:
        raise LocalError(
            f"{heads} names no head.", "A head looks like gateway:1234:HASH; 'enginehouse audit verify' prints them."
        )
    checked = _checked_events(events, kept) if events else _checked(place, kept, as_json)
    faults = [fault for chain in checked for fault in chain.faults]
    if as_json:
        print_json([_as_json(chain) for chain in checked])
    elif not checked:
        say("The audit log is empty.")
    else:
        print_table(_CHAINS, [_chain_row(chain) for chain in checked])
        _say_all(checked, faults, has_heads=bool(kept))
    if faults:
        raise AuditBroken(
            f"The audit log in {place} is not what was written: {len(faults)} faults.",
            "Keep a copy of it as it is, and compare it with what was shipped elsewhere.",
        )


def _checked(folder: Path, heads: list[Head], as_json: bool) -> list[Checked]:
    began = time.monotonic()
    with TerminalSteps(quiet=as_json) as steps:

        def progress(done: int, total: int) -> None:
            if time.monotonic() - began > _QUIET_SECONDS:
                steps.update("verify", "checking the audit log", done, total)

        return verify_chains(folder, heads, progress)


def _checked_events(file: Path, heads: list[Head]) -> list[Checked]:
    try:
        return verify_events(file.read_bytes().splitlines(), heads)
    except InvalidLine as error:
        raise AuditBroken(
            f"{file}, {error}.", "Keep events as they arrived, byte by byte: docs/audit.md says how a subscriber does."
        ) from None


def _chain_row(chain: Checked) -> tuple[str, ...]:
    return chain.writer, f"{chain.entries:,}", f"{chain.first or '-'}", str(chain.head or "-")


def _say_all(checked: list[Checked], faults: list[Fault], *, has_heads: bool) -> None:
    for fault in faults:
        say(f"{fault.writer}, entry {fault.number}: {fault.what}. {fault.meaning}", "red")
    for chain in checked:
        if chain.unfinished:
            note(f"{chain.writer}: its last line has no end. It is being written, or its writer was killed.")
    if not faults:
        say("Every entry is what was written, and in its place.", "green")
    if not has_heads:
        note("Keep the heads elsewhere: with --heads FILE they show later whether the newest entries were cut off.")


def _as_json(chain: Checked) -> dict[str, object]:
    return {
        "chain": chain.writer,
        "entries": chain.entries,
        "first": chain.first,
        "head": str(chain.head) if chain.head else None,
        "unfinished": chain.unfinished,
        "faults": [{"number": one.number, "what": one.what, "meaning": one.meaning} for one in chain.faults],
    }
