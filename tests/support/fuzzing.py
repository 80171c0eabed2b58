"""Fuzzing: random examples in rounds, none of which may stall the loop, grow the process or be logged as a failure.

Hypothesis draws the first examples of a round, and a mutator makes the others from these, which is a hundred times
faster. A round has a seed and a world of its own, so its seed alone repeats it.
"""

import asyncio
import gc
import os
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Generic, TypeVar

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from structlog.testing import capture_logs
from tests.support.mutation import Mutator
from tests.support.stalls import LONGEST_STALL_SECONDS, watched_loop

SECONDS = float(os.environ.get("FUZZ_SECONDS", "4"))
"""How long each fuzzer runs. The variable makes them run longer."""
_COUNT = int(os.environ.get("FUZZ_COUNT", "0"))
"""How many events and answers are checked, however long that takes; 0: as many as there is time for."""
_DRAWN = 25
"""Examples of a round that Hypothesis draws."""
_ROUND = 10_000
"""Examples of a round in a long run. More would take longer to repeat."""
_AT_ONCE = 100 if _COUNT else 20
"""Examples that are checked together, so that those that can travel together do. A short run looks at the clock between."""
_CHECK_SECONDS = 120
"""Most time for these."""
_TRIES = 4
"""How often examples are checked while the loop stands still: that comes again if they are at fault, and does not if
something is done once, such as writing the OpenAPI document, or if a busy machine makes processors slow."""
GROWTH_BYTES = 32 * 1024 * 1024
"""More than caches and the allocator's reserves take, and far less than any leak of these many examples."""
_REPLAYS = 3
"""How often the drawn examples come again at the end."""
_SETTLED_ROUNDS = 3
"""Rounds after which memory must stay level: those before fill caches."""
_MORE_OBJECTS, _MORE_BYTES = 50_000, 256 * 1024 * 1024
"""Most that a process may hold more after a later round. From one to the next the number of objects differs by some
thousand. The bytes only grow, because the allocator does not give back all that a world of 10,000 jobs had."""
_SHOWN_SECONDS = 2 if sys.stdout.isatty() else 60

Logs = list[MutableMapping[str, Any]]
W = TypeVar("W")
X = TypeVar("X")


class Stalled(AssertionError):
    """The loop stood still while examples were checked."""


@dataclass
class _Round(Generic[W, X]):
    """A world in which examples are checked."""

    runner: asyncio.Runner
    logs: Logs
    world: W
    check: Callable[[W, Sequence[X]], Awaitable[None]]

    def examine(self, group: Sequence[X]) -> None:
        """Check examples together, and if that fails one by one, so that the failure names the one at fault."""
        try:
            for _ in range(_TRIES - 1):
                with suppress(Stalled):
                    return self.runner.run(self._checked(group))
            self.runner.run(self._checked(group))
        except Exception as error:
            if len(group) > 1:
                for example in group:
                    self.examine([example])
            error.add_note(f"Examples: {list(group)!r:.3000}")
            raise

    async def _checked(self, group: Sequence[X]) -> None:
        async with asyncio.timeout(_CHECK_SECONDS):
            with watched_loop() as longest:
                await self.check(self.world, group)
        if longest[0] >= LONGEST_STALL_SECONDS:
            raise Stalled(f"the loop stood still for {longest[0]:.2f} s")
        errors = [entry for entry in self.logs if entry["log_level"] in ("error", "critical") or entry.get("exc_info")]
        self.logs.clear()
        assert not errors, errors[0]

    def replay(self, known: Sequence[X]) -> None:
        """Check examples that the world knows again and again. It may remember what is new to it, but nothing of these."""
        held = []
        for _ in range(_REPLAYS):
            self.examine(known)
            gc.collect()
            held.append(_bytes_held())
        grown = held[-1] - held[0]
        assert grown < GROWTH_BYTES, f"{_in_mb(grown)} more after {len(known) * (_REPLAYS - 1)} examples"


@dataclass
class _Fuzzer(Generic[W, X]):
    """Checks random examples, each round of them in a new world. `count` of them; 0: as many as SECONDS hold."""

    world: Callable[[], AbstractAsyncContextManager[W]]
    examples: SearchStrategy[X]
    check: Callable[[W, Sequence[X]], Awaitable[None]]
    count: int
    words: Sequence[Any]
    checked: int = 0
    peak_bytes: int = 0
    _began_at: float = field(default_factory=time.monotonic)
    _shown_at: float = field(default_factory=time.monotonic)

    def run(self, first: int, name: str) -> None:
        """Check rounds of examples, whose seeds are `first` and those that follow. `name` is the test's."""
        held: list[tuple[int, int]] = []
        while not self.checked or self.checked < self.count:
            try:
                held.append(self._round(first + len(held)))
            except BaseException as error:
                error.add_note(f"The same again: make fuzz SEED={first + len(held)} ARGS='-k {name}'")
                raise
        check_level(held[_SETTLED_ROUNDS - 1 :])

    def _round(self, round_seed: int) -> tuple[int, int]:
        """Check the examples of a round. Return how many small objects and bytes the process holds at its end."""
        failures: list[dict[str, Any]] = []
        with asyncio.Runner() as runner, capture_logs() as logs:
            runner.get_loop().set_exception_handler(lambda _, context: failures.append(context))
            opened = self.world()
            this = _Round(runner, logs, runner.run(opened.__aenter__()), self.check)
            try:
                known: Sequence[X] = []
                for group in self._groups(round_seed):
                    this.examine(group)
                    known = known or group
                    self.checked += len(group)
                    self._show()
                this.replay(known)
            except BaseException:
                runner.run(opened.__aexit__(*sys.exc_info()))
                raise
            runner.run(opened.__aexit__(None, None, None))
        assert not failures, failures[0]
        gc.collect()
        return sys.getallocatedblocks(), _bytes_held()

    def _groups(self, round_seed: int) -> Iterator[Sequence[X]]:
        """Make the examples of a round: as many as are left of `count`, or until the time of a short run is over."""
        ends, many = time.monotonic() + SECONDS, min(_ROUND, self.count - self.checked)
        corpus = drawn(self.examples, round_seed)
        yield corpus
        mutator, made = Mutator(corpus, Random(round_seed), self.words), 0
        while made < many - len(corpus) if self.count else not made or time.monotonic() < ends:
            yield [mutator.make() for _ in range(_AT_ONCE)]
            made += _AT_ONCE

    def _show(self) -> None:
        """Show how far a long run is: every two seconds on a terminal, every minute in a log."""
        self.peak_bytes = max(self.peak_bytes, held := _bytes_held())
        now = time.monotonic()
        if not self.count or now - self._shown_at < _SHOWN_SECONDS:
            return
        self._shown_at = now
        rate = self.checked / (now - self._began_at)
        line = f"{self.checked:>9,} of {self.count:,}  {rate:>6,.0f} a second  {_in_mb(held)}"
        print(line, end="\r" if sys.stdout.isatty() else "\n", flush=True)


def check_level(held: Sequence[tuple[int, int]]) -> None:
    """Check that a process holds after each round about as many objects and bytes as after the first one."""
    for at, (objects, count) in enumerate(held):
        more_objects, more_bytes = objects - held[0][0], count - held[0][1]
        assert more_objects < _MORE_OBJECTS, f"{more_objects:,} objects more after {at} rounds"
        assert more_bytes < _MORE_BYTES, f"{_in_mb(more_bytes)} more after {at} rounds"


def _bytes_held() -> int:
    return int(psutil.Process().memory_info().rss)


def _in_mb(count: int) -> str:
    return f"{count / 1024 / 1024:,.0f} MB"


def drawn(examples: SearchStrategy[X], first: int) -> list[X]:
    """Return the examples that Hypothesis draws with this seed."""
    found: list[X] = []

    @seed(first)
    @settings(
        max_examples=_DRAWN,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(examples)
    def draw(example: X) -> None:
        found.append(example)

    draw()
    return found


def fuzz(
    world: Callable[[], AbstractAsyncContextManager[W]],
    examples: SearchStrategy[X],
    check: Callable[[W, Sequence[X]], Awaitable[None]],
    *,
    share: float = 0.005,
    words: Sequence[Any] = (),
) -> str:
    """Check random examples for some seconds, or `share` of FUZZ_COUNT. Return how many, and the seed that repeats them.

    `check` raises if one of the examples that it is given shows a fault. `words` are JSON values that mean something in
    examples. The same FUZZ_SEED makes the same examples. Nothing may be logged as an error; memory must stay level.
    """
    name = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition(" ")[0]
    first = int(os.environ.get("FUZZ_SEED") or 0) or secrets.randbelow(1 << 32)
    fuzzer = _Fuzzer(world, examples, check, round(_COUNT * share), words)
    fuzzer.run(first, name)
    memory = f", at most {_in_mb(fuzzer.peak_bytes)}" if fuzzer.count else ""
    return f"{fuzzer.checked:,} examples, FUZZ_SEED={first}{memory}"
