"""The class that every engine extends."""

from collections.abc import Callable
from typing import Any, ClassVar

from fastapi import FastAPI


class Engine:
    """An engine: `load` prepares it once, `predict` answers one input.

    Write `predict(self, data: X) -> Y`, plain or `async`, with the types of its input and output: they are what inputs
    are checked against and what the engine's schema shows. It may take `parameters: P = …` beside `data`. A plain
    `predict` runs in one of `concurrency` threads, so it may block. Raise `InvalidInput` when the input can never work; any
    other exception means that trying again might help.

    A `predict` with something to tell on the way yields it, and last its result: `Progress(0.5)`, `Output(part)`,
    `Log(text)`, `Metric(name, value)`; its type is `Iterator[Event | Y]`, or `AsyncIterator[Event | Y]`.

    Optional, by the same rules: `predict_batch(self, data: list[X]) -> list[Y]`, where an item of the answer may be an
    exception; `update(self, data: Z) -> R`, called between or beside predictions to reload a model or settings.
    """

    concurrency: ClassVar[int] = 4
    """How many predictions run at once; the environment's ENGINE_CONCURRENCY goes before it."""

    predict: Callable[..., Any]

    def __init_subclass__(cls) -> None:
        if "slots" in vars(cls):
            raise TypeError(f"{cls.__name__}.slots is called concurrency now: rename it")

    def load(self) -> None:
        """Read models and open what predict needs. The engine is healthy when it returns; raising stops the process."""

    def info(self) -> Any:
        """What GET /info shows."""
        return {"engine": type(self).__name__, "description": (type(self).__doc__ or "").strip()}

    def extend(self, app: FastAPI) -> None:
        """Add endpoints of the engine's own to the app that serves it."""
