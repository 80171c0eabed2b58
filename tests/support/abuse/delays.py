"""Measures the delays of a victim's small jobs, at rest and while another tenant attacks."""

import json
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.abuse.door import PRIVATE_ENGINE, VICTIM, Door

_CALM_SECONDS, _TRIES = 0.5, 8
_VICTIM = Path(__file__).with_name("victim.py")


@dataclass(frozen=True)
class Delays:
    """The delays of a victim's jobs in seconds, and the answers to it that were no results."""

    seconds: list[float]
    others: list[Any]

    def quantile(self, share: float) -> float:
        """Return the delay that this share of the jobs did not exceed."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]

    @property
    def p50(self) -> float:
        """The median."""
        return self.quantile(0.5)

    @property
    def p99(self) -> float:
        """The delay that one job in a hundred exceeds."""
        return self.quantile(0.99)

    @property
    def longest(self) -> float:
        """The longest delay."""
        return max(self.seconds)

    def __str__(self) -> str:
        shown = "/".join(f"{1000 * value:.0f}" for value in (self.p50, self.p99, self.longest))
        return f"{shown} ms of {len(self.seconds)}" + (f", {len(self.others)} without a result" if self.others else "")


def measure(
    door: Door, engine: str, seconds: float, attack: Callable[[Door, threading.Event], str] | None = None
) -> tuple[Delays, str]:
    """Measure the victim's delays for so long while `attack` goes on. Return them, and what the attack tells."""
    command = [
        sys.executable,
        str(_VICTIM),
        door.address[0],
        str(door.address[1]),
        door.key(VICTIM),
        engine,
        str(seconds),
    ]
    over, told, failed = threading.Event(), [""], []

    def run() -> None:
        assert attack is not None
        try:
            told[0] = attack(door, over)
        except BaseException as error:  # It fails the test in the test's own thread.
            failed.append(error)

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "begun\n"
        attacking = threading.Thread(target=run, daemon=True) if attack else None
        if attacking:
            attacking.start()
        try:
            measured = json.loads(victim.stdout.readline())
        finally:
            over.set()
            with suppress(ProcessLookupError):
                victim.kill()
        if attacking:
            attacking.join(60)
    if failed:
        raise failed[0]
    return Delays(measured["delays"], measured["others"]), told[0]


def at_rest(door: Door, engine: str = PRIVATE_ENGINE, seconds: float = 1.0) -> Delays:
    """Measure the delays while nobody does anything else: once the stack has come to rest, if it does in time."""
    for _ in range(_TRIES):
        found = measure(door, engine, seconds)[0]
        if found.longest < _CALM_SECONDS and not found.others:
            break
    return found
