"""Serve an engine class: `python -m enginehouse.engine engine` serves the one in engine.py at 127.0.0.1:8000.

HOST and PORT choose another address.
"""

import importlib
import sys

from enginehouse.engine.base import Engine
from enginehouse.engine.server import serve


def find_engine(target: str) -> type[Engine]:
    """Return the class named by `module:Class`, or the only engine in `module`. Raise SystemExit with the reason."""
    module_name, _, class_name = target.partition(":")
    module = importlib.import_module(module_name)
    engines = {
        name: found
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, Engine) and found is not Engine
    }
    if class_name:
        if class_name not in engines:
            sys.exit(f"{module_name} has no class {class_name} that is an enginehouse.engine.Engine")
        return engines[class_name]
    own = [engine for engine in engines.values() if engine.__module__ == module_name]
    if len(own) != 1:
        names = ", ".join(engine.__name__ for engine in own) or "none"
        sys.exit(f"{module_name} should have one engine, but has {names}; name it as {module_name}:Class")
    return own[0]


def main() -> None:
    """Read the one argument and serve until told to stop."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m enginehouse.engine MODULE[:CLASS]")
    serve(find_engine(sys.argv[1]))


if __name__ == "__main__":
    main()
