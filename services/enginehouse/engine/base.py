"""Define the class that every engine extends."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI

from enginehouse.contracts.program import SECRETS_DIR_VARIABLE


class Engine:
    """An engine: `load` prepares it once, `predict` answers one input.

    Write `predict(self, data: X) -> Y`, plain or `async`. X and Y are the types of its input and output: inputs are
    checked against X, and the engine's schema shows both. It may take `parameters: P = …` beside `data`. A plain
    `predict` runs in one of several threads (`concurrency` in engine.yaml), so it may block. Raise `InvalidInput` if the input can never work;
    any other exception means that trying again may help.

    A `predict` that reports on its work yields events and then its result: `Progress(0.5)`, `Output(part)`,
    `Log(text)`, `Metric(name, value)`. Its type is `Iterator[Event | Y]` or `AsyncIterator[Event | Y]`.

    Optional, by the same rules: `predict_batch(self, data: list[X]) -> list[Y]`, where an item of the answer may be an
    exception; `update(self, data: Z) -> R`, called between or during predictions to reload a model or settings.
    """

    concurrency: ClassVar[int | None] = None
    """How many predictions may run at the same time, for a model that allows few. None: as many as engine.yaml says.

    The number in engine.yaml comes in the variable ENGINE_CONCURRENCY; without it, as when it is tested alone, 4.
    """

    predict: Callable[..., Any]

    def __init_subclass__(cls) -> None:
        if "slots" in vars(cls):
            raise TypeError(f"{cls.__name__}.slots is called concurrency now: rename it")

    def load(self) -> None:
        """Read models and open resources. The engine is healthy when this returns; an exception stops the process."""

    def secret(self, name: str) -> str:
        """Return the value of a secret that `secrets:` in engine.yaml names. Raise LookupError if there is none."""
        folder = os.environ.get(SECRETS_DIR_VARIABLE)
        path = Path(folder, name) if folder else None
        if path is None or not path.is_file():
            raise LookupError(
                f"there is no secret {name!r}: name it under `secrets:` in engine.yaml, and give it a value with "
                f"'enginehouse engines secret set TENANT/ENGINE {name}'; alone, set {SECRETS_DIR_VARIABLE} to a folder "
                "with a file of that name"
            )
        return path.read_text()

    def info(self) -> Any:
        """Return the answer of GET /info."""
        return {"engine": type(self).__name__, "description": (type(self).__doc__ or "").strip()}

    def extend(self, app: FastAPI) -> None:
        """Add the engine's own endpoints to the app that serves it."""
