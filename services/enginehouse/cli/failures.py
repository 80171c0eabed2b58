"""Tell of errors in one form: a red line at a terminal, one JSON document with --json; always on standard error."""

import json

from rich.text import Text

from enginehouse.broker.errors import BrokerError
from enginehouse.cli.console import err, say
from enginehouse.contracts.errors import EnginehouseError, InputTooLarge, RequestError
from enginehouse.contracts.text import clean_lines
from enginehouse.local.errors import LocalError

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
EXIT_STATUSES = "Exit status: 0 done, 1 failed, 2 wrong use of the command, 130 interrupted with Ctrl-C."

# The server's advice names HTTP calls. These texts name the commands that do the same.
_ADVICE = {
    "ALREADY_REDRIVEN": "'enginehouse jobs retry ID' of the job named submits its input again when it has ended.",
    "DEAD_LETTER_DOES_NOT_EXIST": "'enginehouse dead-letters' lists yours.",
    "ENGINE_ASLEEP": "'enginehouse submit ENGINE' wakes it.",
    "ENGINE_DOES_NOT_EXIST": "'enginehouse engines' lists those you may use.",
    "ENGINE_REMOVED": "Its unfinished jobs ended as canceled. 'enginehouse engines' lists those you may use.",
    "ENGINE_UNAVAILABLE": "'enginehouse engines show ENGINE' says what is wrong with it.",
    "INVALID_INPUT": "'enginehouse engines show ENGINE' shows its input schema.",
    "INVALID_NAME": "Correct the name.",
    "INVALID_UPLOAD": "Deploy a folder of plain files and folders, with engine.yaml at its top.",
    "JOB_DOES_NOT_EXIST": "'enginehouse jobs' lists yours.",
    "JOB_IS_FINAL": "'enginehouse jobs retry ID' makes a new job with the same input.",
    "NOT_JSON": "Write JSON as UTF-8, without NaN and Infinity, nested at most 128 levels deep.",
    "QUEUE_FULL": "Try again when it has worked some of its jobs off.",
    "RATE_LIMITED": "Try again in a few seconds.",
    "RESULT_EXPIRED": "Submit the input again.",
    "STORAGE_FULL": "Try again when results have expired; the operator can raise 'tenant limits --stored-bytes'.",
    "UNAUTHENTICATED": "Set ENGINEHOUSE_API_KEY; an operator makes keys with 'enginehouse tenant add NAME'.",
}
# In place of what errors of a kind say unless they have an advice of their own.
_GENERAL = {
    InputTooLarge.advice: "Upload it with the Python client (client.upload), and submit its key as input_ref.",
    EnginehouseError.advice: "Try again; if it persists, 'enginehouse status' shows on its machine what is not well.",
    RequestError.advice: "Correct what it names; '--help' shows what the command takes.",
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
    said = error.detail if isinstance(error, BrokerError | LocalError) else str(error)
    detail, advice = clean_lines(said), clean_lines(advice_of(error))
    if as_json:
        document = {"code": error.code, "detail": detail, "advice": advice, "retryable": error.retryable}
        err.file.write(json.dumps({"error": document}) + "\n")
        return
    # The last words of an engine stand on lines of their own.
    between = "\n" if "\n" in detail + advice else " "
    stop = "" if detail.endswith((".", "?", "!", ":")) else "."
    say(Text(f"Error: {detail}{stop}{between}{advice}".rstrip(), "red"), console=err)


def advice_of(error: EnginehouseError) -> str:
    """Return what to do about an error: with a command, where the server's own advice names HTTP calls."""
    if isinstance(error, BrokerError | LocalError):
        return error.remedy
    return _ADVICE.get(error.code) or _GENERAL.get(error.advice, error.advice)


def status_of(error: EnginehouseError) -> int:
    """Return the exit status of a command that ends with this error."""
    return {WrongUse: WRONG_USE, Interrupted: INTERRUPTED}.get(type(error), FAILED)
