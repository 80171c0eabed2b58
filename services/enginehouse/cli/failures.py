"""Tell of errors in one form: a red line at a terminal, one JSON document with --json; always on standard error."""

import json

from rich.text import Text

from enginehouse.cli.console import err, say
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.text import clean_lines
from enginehouse.local.errors import LocalError

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
EXIT_STATUSES = "Exit status: 0 done, 1 failed, 2 wrong use of the command, 130 interrupted with Ctrl-C."

# The server's advice names HTTP calls. These texts name the commands that do the same.
_ADVICE = {
    "DEAD_LETTER_DOES_NOT_EXIST": "'enginehouse dead-letters' lists yours.",
    "ENGINE_DOES_NOT_EXIST": "'enginehouse engines' lists those you may use.",
    "INVALID_INPUT": "'enginehouse engines show ENGINE' shows its input schema.",
    "JOB_DOES_NOT_EXIST": "'enginehouse jobs' lists yours.",
    "JOB_IS_FINAL": "'enginehouse jobs retry ID' makes a new job with the same input.",
    "UNAUTHENTICATED": "Set ENGINEHOUSE_API_KEY; an operator makes keys with 'enginehouse tenant add NAME'.",
}


class WrongUse(EnginehouseError):
    """The command does not exist in this form."""

    code = "WRONG_USE"
    retryable = False

    def __init__(self, detail: str, command: str) -> None:
        super().__init__(detail)
        self.advice = f"'{command} --help' shows its use."  # type: ignore[misc]


class Interrupted(EnginehouseError):
    """The command was interrupted."""

    code = "INTERRUPTED"
    advice = ""


def print_error(error: EnginehouseError, as_json: bool = False) -> None:
    """Print an error: what is wrong, and what to do about it."""
    if isinstance(error, LocalError):
        said, advice = error.detail, error.remedy
    else:
        said, advice = str(error), _ADVICE.get(error.code, error.advice)
    detail, advice = clean_lines(said), clean_lines(advice)
    if as_json:
        document = {"code": error.code, "detail": detail, "advice": advice, "retryable": error.retryable}
        err.file.write(json.dumps({"error": document}) + "\n")
        return
    # The last words of an engine stand on lines of their own.
    between = "\n" if "\n" in detail + advice else " "
    stop = "" if detail.endswith((".", "?", "!", ":")) else "."
    say(Text(f"Error: {detail}{stop}{between}{advice}".rstrip(), "red"), console=err)


def status_of(error: EnginehouseError) -> int:
    """Return the exit status of a command that ends with this error."""
    return {WrongUse: WRONG_USE, Interrupted: INTERRUPTED}.get(type(error), FAILED)
