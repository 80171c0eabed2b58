"""Imports parts of the package quickly, and says in one line which extra is missing where packages that it needs are not there."""

import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator


class MissingExtra(ImportError):
    """A part of Enginehouse cannot be imported, because an extra was not installed with it."""


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """Import in the block what the extra brings. Raise MissingExtra if a package of others is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("enginehouse"):
            raise
        raise MissingExtra(
            f"{what} needs the extra '{extra}' ({error.name} is missing). "
            f"Install it from the checkout of Enginehouse: pip install 'CHECKOUT[{extra}]'"
        ) from None


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Collect no garbage in the block. Imports leave none, and to look for some takes a tenth of their time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _without_rich() -> Iterator[None]:
    """Import in the block as if there were no Rich: structlog takes it for tracebacks that no service ever draws.

    To import it takes a tenth of the time in which a runner starts.
    """
    sys.modules["rich"] = None  # type: ignore[assignment]  # So Python says that there is no such module.
    try:
        yield
    finally:
        del sys.modules["rich"]


def run_main(module: str, extra: str, what: str) -> None:
    """Run `main` of a module that needs `extra`, and exit with what it returns."""
    try:
        with needs(extra, what), quick_imports(), _without_rich():
            main = importlib.import_module(module).main
    except MissingExtra as missing:
        sys.exit(str(missing))
    sys.exit(main())
