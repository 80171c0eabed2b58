"""Serve a model file without code: `python -m enginehouse.engine.model_file iris.onnx` serves it at 127.0.0.1:8000.

HOST and PORT choose another address.
"""

import sys
from pathlib import Path

from enginehouse.contracts.program import MODEL_KINDS
from enginehouse.engine.base import Engine
from enginehouse.engine.server import serve


class UnusableModel(Exception):
    """The file holds no model that can be served here."""


def engine_of_model(path: Path) -> type[Engine]:
    """Return an engine class that serves the model, whose inputs and outputs have the model's own types.

    Raise UnusableModel with the reason.
    """
    kind = MODEL_KINDS.get(path.suffix)
    if kind is None:
        raise UnusableModel(f"{path}: it should be a model of {', '.join(MODEL_KINDS)}")
    if not path.is_file():
        raise UnusableModel(f"{path}: there is no such file")
    # Each brings a package that only engines of its kind have.
    if kind == "onnx":
        from enginehouse.engine.onnx_model import engine_of_onnx

        return engine_of_onnx(path)
    from enginehouse.engine.skops_model import engine_of_skops

    return engine_of_skops(path)


def main() -> None:
    """Read the one argument and serve until told to stop."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m enginehouse.engine.model_file FILE ({', '.join(MODEL_KINDS)})")
    try:
        engine = engine_of_model(Path(sys.argv[1]))
    except UnusableModel as error:
        sys.exit(str(error))
    serve(engine)


if __name__ == "__main__":
    main()
