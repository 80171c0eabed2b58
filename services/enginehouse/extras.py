"""Says in one line which extra is missing where a part of the package is used without the packages that it needs."""

import contextlib
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


def run_main(module: str, extra: str, what: str) -> None:
    """Run `main` of a module that needs `extra`, and exit with what it returns."""
    try:
        with needs(extra, what):
            main = importlib.import_module(module).main
    except MissingExtra as missing:
        sys.exit(str(missing))
    sys.exit(main())
