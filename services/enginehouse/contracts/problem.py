"""Why an engine does not work, as text: bounded and without control characters, because parts of it are its own output."""

from typing import Annotated

from pydantic import AfterValidator

from enginehouse.contracts.text import clean

PROBLEM_MAX_CHARS = 2_000
_HEAD_CHARS = 400
PROBLEM_FILE = "problem"
"""Name of the file by which a supervisor tells a runner why its engine does not work."""


def problem_text(text: str) -> str:
    """Return `text` with printable characters and line ends only, and without its middle if it is too long.

    The reason stands at the beginning, and the end of an engine's last words at the end.
    """
    kept = "\n".join(clean(line).rstrip() for line in text.strip().splitlines())
    if len(kept) <= PROBLEM_MAX_CHARS:
        return kept
    return kept[:_HEAD_CHARS] + "\n…\n" + kept[_HEAD_CHARS + 3 - PROBLEM_MAX_CHARS :]


Problem = Annotated[str, AfterValidator(problem_text)]
"""Why an engine does not work. It may quote an engine's output, so only its owner and administrators see it."""
