"""Serve an ONNX model: one input and one output for each of the graph's own, by their names."""

from pathlib import Path
from typing import Annotated, Any

import numpy
import onnxruntime
from pydantic import ConfigDict, Field, create_model

from enginehouse.contracts.errors import InvalidInput
from enginehouse.engine.base import Engine
from enginehouse.engine.model_file import UnusableModel

_TYPES: dict[str, tuple[Any, Any]] = {
    "float16": (float, numpy.float16),
    "float": (float, numpy.float32),
    "double": (float, numpy.float64),
    "int8": (int, numpy.int8),
    "int16": (int, numpy.int16),
    "int32": (int, numpy.int32),
    "int64": (int, numpy.int64),
    "uint8": (int, numpy.uint8),
    "uint16": (int, numpy.uint16),
    "uint32": (int, numpy.uint32),
    "uint64": (int, numpy.uint64),
    "bool": (bool, numpy.bool_),
    "string": (str, numpy.object_),
}
"""The types of JSON and of NumPy for the element types of ONNX."""


def engine_of_onnx(path: Path) -> type[Engine]:
    """Return an engine for the model: `{"<input>": nested lists}` gives `{"<output>": nested lists}`.

    Raise UnusableModel if ONNX Runtime cannot run it, or an input is not a tensor.
    """
    try:
        session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    except Exception as error:  # ONNX Runtime has a class of its own for each status, without a common one.
        raise UnusableModel(f"{path}: ONNX Runtime cannot run it: {str(error).splitlines()[0]}") from None
    inputs = {given.name: _element(path, given.name, given.type) for given in session.get_inputs()}
    outputs = [made.name for made in session.get_outputs()]
    # Names of inputs such as `input:0` are no names of Python's, so they are aliases.
    takes: Any = {
        f"input_{at}": (_nested(inputs[given.name][0], given.shape), Field(alias=given.name))
        for at, given in enumerate(session.get_inputs())
    }
    data_type = create_model("Inputs", __config__=ConfigDict(extra="forbid"), **takes)

    def predict(self: Engine, data: Any) -> dict[str, Any]:
        given = zip(inputs.items(), takes, strict=True)
        arrays = {name: _array(name, getattr(data, field), kind) for (name, (_, kind)), field in given}
        try:
            made = session.run(outputs, arrays)
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            raise InvalidInput(str(error).splitlines()[0]) from None
        return dict(zip(outputs, map(_plain, made), strict=True))

    predict.__annotations__["data"] = data_type
    description = f"The ONNX model {path.name}."
    return type("OnnxModel", (Engine,), {"__doc__": description, "predict": predict})


def _element(path: Path, name: str, onnx_type: str) -> tuple[Any, Any]:
    found = _TYPES.get(onnx_type.removeprefix("tensor(").removesuffix(")"))
    if found is None:
        raise UnusableModel(
            f"{path}: its input {name} is {onnx_type}, where a tensor of numbers, bool or text is needed"
        )
    return found


def _nested(element: Any, shape: list[Any]) -> Any:
    """Return the type of nested lists with this shape. A dimension with a name, or without a number, may have any size."""
    kind: Any = element
    for size in reversed(shape):
        fixed = size if isinstance(size, int) and size >= 0 else None
        kind = Annotated[list[kind], Field(min_length=fixed, max_length=fixed)]
    return kind


def _array(name: str, value: Any, kind: Any) -> Any:
    try:
        return numpy.asarray(value, dtype=kind)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{name}: {error}") from None


def _plain(made: Any) -> Any:
    """Return an output as JSON has it. Maps of classes have numbers as keys, which JSON has not."""
    if isinstance(made, dict):
        return {str(key): _plain(value) for key, value in made.items()}
    if isinstance(made, list):
        return [_plain(item) for item in made]
    return made.tolist() if hasattr(made, "tolist") else made
