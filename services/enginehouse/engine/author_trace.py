"""Shows where in an author's own code an exception came from, without the frames of those who called that code."""

import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_FOREIGN = (
    str(Path(__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""Folders of code that an engine's author did not write: this package, Python's library and installed packages."""


def author_trace(error: BaseException) -> str:
    """Return the traceback of an exception and of its causes, with the frames of the author's files only.

    A part without such frames keeps all but those of this package.
    """
    whole = traceback.TracebackException.from_exception(error)
    for part in _with_causes(whole):
        ours = [frame for frame in part.stack if not frame.filename.startswith(_FOREIGN)]
        rest = [frame for frame in part.stack if not frame.filename.startswith(_FOREIGN[0])]
        part.stack = traceback.StackSummary.from_list(ours or rest)
    return "".join(whole.format()).rstrip()


def _with_causes(part: traceback.TracebackException | None) -> Iterator[traceback.TracebackException]:
    if part is not None:
        yield part
        yield from _with_causes(part.__cause__)
        yield from _with_causes(part.__context__)
