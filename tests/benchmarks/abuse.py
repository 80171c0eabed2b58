"""`make bench ARGS=--abuse`: how long a tenant's small job takes at rest, and while a hostile tenant attacks."""

import shutil
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.support.abuse.attacks import FREEZING, STARVING, Attempt
from tests.support.abuse.delays import Delays, at_rest, measure
from tests.support.abuse.door import Door, front_door

_REST_SECONDS, _ATTACK_SECONDS = 3.0, 6.0


def show_delays(console: Console) -> None:
    """Run each attack of tests/isolation for some seconds, and print the delays beside those at rest."""
    table = Table(
        "attack", "on", *(f"{what} {which}" for what in ("at rest", "attacked") for which in ("p50", "p99", "max"))
    )
    table.add_column("answers")
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-abuse-"))
    try:
        with front_door(folder) as door:
            for attempt in [*FREEZING, *STARVING]:
                console.print(f"[dim]{attempt.name}[/]")
                table.add_row(*_row(door, attempt))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print(table)
    console.print("Delays are in milliseconds. A * marks delays of jobs of which some had no result.")


def _row(door: Door, attempt: Attempt) -> list[str]:
    rest = at_rest(door, attempt.engine, _REST_SECONDS)
    attacked, answers = measure(door, attempt.engine, _ATTACK_SECONDS, attempt.attack)
    return [attempt.name, attempt.engine, *_shown(rest), *_shown(attacked), answers]


def _shown(delays: Delays) -> list[str]:
    mark = "*" if delays.others else ""
    return [f"{1000 * value:.0f}{mark}" for value in (delays.p50, delays.p99, delays.longest)]
