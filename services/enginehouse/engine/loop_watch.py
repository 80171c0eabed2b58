"""Notice an async method that blocks the event loop: all other predictions wait for it, and no health check is answered."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

log = logging.getLogger("enginehouse.engine")


@dataclass(frozen=True, slots=True)
class WatchPace:
    """Times of the watch, in seconds."""

    tick_seconds: float = 0.25
    """Time between two signs of life of the event loop. Four a second cost nothing."""
    blocked_seconds: float = 1.0
    """The loop is blocked if it gives no sign of life for this time, in the midst of a method."""


class LoopWatch:
    """A thread that looks after the event loop while an engine's async methods run in it."""

    def __init__(self, methods: dict[str, CodeType], pace: WatchPace = WatchPace()) -> None:
        """Watch these async methods, given by name."""
        self._methods = {code: name for name, code in methods.items()}
        self._pace = pace
        self._ticked_at = time.monotonic()
        self._loop_thread = threading.get_ident()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = threading.Event()
        self._longest = 0.0
        self.warning: str | None = None
        """A sentence for the engine's author, once a method has blocked the loop."""

    def start(self) -> None:
        """Begin to watch the running event loop, which must run in this thread. Without methods there is nothing to watch."""
        if not self._methods:
            return
        self._loop_thread = threading.get_ident()
        self._tick(asyncio.get_running_loop())
        threading.Thread(target=self._watch, name="loop watch", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticked_at = time.monotonic()
        self._timer = loop.call_later(self._pace.tick_seconds, self._tick, loop)

    def _watch(self) -> None:
        while not self._closed.wait(self._pace.tick_seconds):
            silent = time.monotonic() - self._ticked_at
            # Without a method in the stack, it is only a slow machine.
            if silent > max(self._pace.blocked_seconds, self._longest) and (found := self._find_method()):
                self._note(silent, *found)

    def _note(self, silent: float, name: str, place: str) -> None:
        first = self.warning is None
        self._longest = silent
        self.warning = (
            f"{name} is `async` but blocks the event loop ({silent:.1f} s at {place}); make it a plain `def`, or await"
        )
        if first:
            log.warning("All other predictions wait: %s", self.warning)

    def _find_method(self) -> tuple[str, str] | None:
        """Return the name of the method that the loop is in, and the innermost line of its own file."""
        frames = list(_outwards(sys._current_frames().get(self._loop_thread)))
        method = next((frame for frame in frames if frame.f_code in self._methods), None)
        if method is None:
            return None
        own_file = method.f_code.co_filename
        line = next(frame for frame in frames if frame.f_code.co_filename == own_file)
        return self._methods[method.f_code], f"{Path(own_file).name}:{line.f_lineno}"


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
