"""Read from an engine's methods their input and result types, and whether they block."""

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from enginehouse.engine.base import Engine
from enginehouse.engine.events import EVENTS


class NotAnEngine(TypeError):
    """The class cannot be served."""


@dataclass(frozen=True, slots=True)
class Method:
    """Types of one method of an engine. A missing type annotation means that anything is allowed."""

    input_type: Any
    result_type: Any
    parameters: Any | None
    """Type of the optional argument `parameters`. None: there is no such argument."""
    is_async: bool
    streams: bool = False
    """Whether the method yields events before its result."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Types of an engine class. `batch` and `update` are None if the class does not define them."""

    predict: Method
    batch: Method | None
    update: Method | None


def read_signature(engine: type[Engine]) -> Signature:
    """Read the methods of an engine class. Raise NotAnEngine with the reason if it cannot be served."""
    if not inspect.isfunction(getattr(engine, "predict", None)):
        raise NotAnEngine(f"{engine.__name__} needs a method predict(self, data: X) -> Y")
    predict = _read_method(engine, "predict")
    batch = _read_method(engine, "predict_batch") if hasattr(engine, "predict_batch") else None
    if batch and not (get_origin(batch.input_type) is list and get_args(batch.input_type)[0] == predict.input_type):
        raise NotAnEngine(f"{engine.__name__}.predict_batch must take a list of what predict takes")
    update = _read_method(engine, "update") if hasattr(engine, "update") else None
    return Signature(predict, batch, update)


def _read_method(engine: type[Engine], name: str) -> Method:
    function: Callable[..., Any] = getattr(engine, name)
    streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
    if streams and name != "predict":
        raise NotAnEngine(f"{engine.__name__}.{name} must return its result, not yield it")
    hints = get_type_hints(function, include_extras=True)
    arguments = list(inspect.signature(function).parameters.values())[1:]
    parameters = None
    if len(arguments) > 1 and arguments[-1].name == "parameters":
        if arguments.pop().default is inspect.Parameter.empty:
            raise NotAnEngine(f"{engine.__name__}.{name}: parameters needs a default, since a job may have none")
        parameters = hints.get("parameters", Any)
    if len(arguments) > 1 or (not arguments and name != "update"):
        raise NotAnEngine(f"{engine.__name__}.{name} takes one argument, and optionally `parameters`")
    return Method(
        input_type=hints.get(arguments[0].name, Any) if arguments else type(None),
        result_type=_result_of(hints.get("return", Any)) if streams else hints.get("return", Any),
        parameters=parameters,
        is_async=inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function),
        streams=streams,
    )


def _result_of(hint: Any) -> Any:
    """Return Y of Iterator[Event | Y], AsyncIterator[Event | Y], Generator[Event, None, Y] or the like, else Any."""
    arguments = get_args(hint)
    if not arguments:
        return Any
    if len(arguments) == 3 and arguments[2] is not type(None):
        return arguments[2]
    yielded = arguments[0]
    kinds = get_args(yielded) if get_origin(yielded) in (Union, types.UnionType) else (yielded,)
    results = tuple(kind for kind in kinds if kind not in EVENTS)
    return Union[results] if results else Any  # noqa: UP007  # A union of what is only known here.
