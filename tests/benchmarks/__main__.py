"""`make bench`: several systems at once on this machine, the same load on each in turn; what each did, and what it cost."""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from tests.benchmarks.abuse import show_delays
from tests.benchmarks.load import find_wrk
from tests.benchmarks.measure import Run
from tests.benchmarks.parts import PARTS
from tests.benchmarks.record import record
from tests.benchmarks.report import conditions, tables
from tests.benchmarks.results import Results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=f"{__doc__} About 15 minutes; changes no file of the checkout without --record."
    )
    parser.add_argument("--abuse", action="store_true", help="only: the delays of a victim's job under each attack")
    parser.add_argument("--only", choices=PARTS, help="only this part; the aims of the others are not measured")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md and the lines of the README")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each burst")
    parser.add_argument("--ledger-rows", type=int, default=1_000_000, help="in the full ledger; a tenth of them waits")
    asked = parser.parse_args()
    if asked.record and (asked.only or asked.abuse):
        parser.error("--record needs a run of all parts: leave out --only and --abuse")
    return asked


def main() -> None:
    """Measure, and show what was found."""
    asked, began = _arguments(), time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 120)
    if asked.abuse:
        show_delays(console)
        return
    find_wrk()
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-bench-"))

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {what}")

    run = Run(folder, asked.rounds, asked.seconds, asked.ledger_rows, Results(), say)
    try:
        for name in [asked.only] if asked.only else PARTS:
            PARTS[name](run)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        # What was measured before something went wrong is shown as well.
        found, note = tables(run.results), conditions(run.results, run.rounds, run.ledger_rows)
        for table in found:
            table.show(console)
    say(note)
    if asked.record:
        record(run.results, found, note)


if __name__ == "__main__":
    main()
