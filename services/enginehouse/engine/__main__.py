"""`python -m enginehouse.engine module:Class` serves an engine on $HOST:$PORT (127.0.0.1:8000)."""

import importlib
import sys

from enginehouse.engine.base import Engine
from enginehouse.engine.server import serve


def find_engine(target: str) -> type[Engine]:
    """The class that `module:Class` names; SystemExit that says what is wrong otherwise."""
    module_name, _, class_name = target.partition(":")
    if not class_name:
        sys.exit(f"{target!r} is not of the form module:Class, for example engine:Sentiment")
    found = getattr(importlib.import_module(module_name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Engine)):
        sys.exit(f"{module_name} has no class {class_name} that is an enginehouse.engine.Engine")
    return found


def main() -> None:
    """Read the one argument and serve until told to stop."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m enginehouse.engine module:Class")
    serve(find_engine(sys.argv[1]))


if __name__ == "__main__":
    main()
