"""`make bench`: all systems up at once on this machine, the same load on each in turn, what it cost, what it held."""

import argparse
import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from tests.benchmarks.abuse import show_delays
from tests.benchmarks.load import find_wrk
from tests.benchmarks.measure import MANY, burst, drain, rounds
from tests.benchmarks.processes import memory
from tests.benchmarks.report import write
from tests.benchmarks.systems import celery_system, dapr_system, enginehouse_system, floor_system

ENGINES_FEW, ENGINES_MANY = 3, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--abuse", action="store_true", help="Only: the delays of a victim's job under each attack.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="Of each burst.")
    arguments = parser.parse_args()
    console = Console()
    if arguments.abuse:
        show_delays(console)
        return
    find_wrk()
    folder = Path(tempfile.mkdtemp(prefix="enginehouse-bench-"))
    began = time.monotonic()

    def say(what: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:5.0f} s[/]  {what}")

    try:
        with ExitStack() as running:
            say("starting FastAPI + Celery, bare Dapr, and bare Redis Streams")
            compared = {"celery": running.enter_context(celery_system(folder))}
            compared["dapr"] = running.enter_context(dapr_system(folder))
            compared["floor"] = running.enter_context(floor_system(folder))
            say(f"starting Enginehouse, with {ENGINES_FEW} engines")
            compared["enginehouse"] = running.enter_context(enginehouse_system(folder, "enginehouse", ENGINES_FEW))
            say(f"starting another one, with {ENGINES_MANY:,} engines")
            thousand = running.enter_context(enginehouse_system(folder, "thousand", ENGINES_MANY))
            say("warming up")
            for system in [*compared.values(), thousand]:
                burst(system, MANY, 1, [])
                drain(system)
            results = rounds(compared, thousand, arguments.rounds, arguments.seconds, say)
            held = {
                system.name: {name: memory(pid) for name, pid in system.processes.items()}
                for system in [*compared.values(), thousand]
            }
            say("stopping everything")
        write(results, held, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
