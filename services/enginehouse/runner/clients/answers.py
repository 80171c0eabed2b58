"""Reads the answers of an untrusted engine to POST /predict. Everything is bounded, and every part is checked."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pydantic_core

from enginehouse.contracts.job import OUTPUT_MAX_DEPTH, JobErrorCode
from enginehouse.contracts.json_text import first_fault, may_hold_long_number, may_overflow
from enginehouse.runner.clients.base import Busy, Reply
from enginehouse.runner.outcome import Failed, Rejected, Succeeded
from enginehouse.runner.schema import depth

MESSAGE_MAX_CHARS = 2_000
MAX_RETRY_AFTER_SECONDS = 60.0
_NOT_REJECTIONS = frozenset({408, 429})
_TRACEBACK = "Traceback (most recent call last)"
# Also those that turn the direction of writing, and surrogates, which cannot be stored.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def malformed(reason: str) -> Failed:
    """Return the failure for an answer that is not as agreed. It is final, because the engine would give it again."""
    return Failed(f"the engine's answer cannot be used: {reason}", JobErrorCode.MALFORMED_ANSWER, retryable=False)


def too_large(size: str, limit: int) -> Failed:
    """Return the failure for an answer that is larger than a result may be."""
    return Failed(
        f"the engine's answer is {size}; a result may have at most {limit} bytes",
        JobErrorCode.OUTPUT_TOO_LARGE,
        retryable=False,
    )


def read_result(body: bytes, limit: int) -> Reply:
    """Read a 2xx body as a result; return a failure if it is not one."""
    if not body.strip():
        return malformed('it is empty, where {"result": …} is expected')
    try:
        answer = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        return malformed(f"it is not JSON ({bounded(str(error), 200)})")
    return read_answer(answer, body, limit)


def read_document(body: bytes, limit: int) -> Reply:
    """Read a 2xx body that is the result as a whole: any JSON."""
    if not body.strip():
        return malformed("it is empty, where JSON is expected")
    try:
        answer = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        return malformed(f"it is not JSON ({bounded(str(error), 200)})")
    if len(body) > limit:
        return too_large(f"{len(body)} bytes", limit)
    trouble = _trouble(answer, _doubts(body))
    return Succeeded(answer, len(body)) if trouble is None else malformed(trouble)


def read_computed(value: Any, limit: int) -> Reply:
    """Return a result that was computed here from an answer; a failure if it is too large, or not for JSON readers."""
    text = pydantic_core.to_json(value)
    if len(text) > limit:
        return too_large(f"{len(text)} bytes as a result", limit)
    trouble = _trouble(value, _doubts(text)._replace(may_overflow=True))
    return Succeeded(value, len(text)) if trouble is None else malformed(trouble)


def read_apart(read: Callable[..., Any], body: bytes, *more: Any) -> Any:
    """Return `read(body, *more)`, a reply or a list of them, with outputs as JSON text: for another process."""
    replies = read(body, *more)
    return [_as_text(reply) for reply in replies] if isinstance(replies, list) else _as_text(replies)


def _as_text(reply: Reply | None) -> Reply | None:
    if not isinstance(reply, Succeeded):
        return reply
    return replace(reply, output=None, output_json=pydantic_core.to_json(reply.output))


def read_answer(answer: Any, body: bytes, limit: int) -> Reply:
    """Read a parsed 2xx answer as a result. It was parsed from `body`."""
    if not isinstance(answer, dict) or "result" not in answer:
        return malformed('it is JSON without "result"')
    if len(body) > limit:
        return too_large(f"{len(body)} bytes", limit)
    if (trouble := _trouble(answer["result"], _doubts(body))) is not None:
        return malformed(trouble)
    return Succeeded(answer["result"], len(body))


def read_results(body: bytes, limits: Sequence[int]) -> Reply | list[Reply]:
    """Read a 2xx body of a batch: a reply for each input, whose results may have `limits` bytes, or one failure."""
    try:
        answer = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        return malformed(f"it is not JSON ({bounded(str(error), 200)})")
    items = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(items, list) or len(items) != len(limits):
        return malformed(f'it is JSON without "results", a list of {len(limits)}')
    doubts = _doubts(body)
    return [_read_item(item, limit, doubts) for item, limit in zip(items, limits, strict=True)]


def _read_item(item: Any, limit: int, doubts: "_Doubts") -> Reply:
    if isinstance(item, dict) and "result" in item:
        if (trouble := _trouble(item["result"], doubts)) is not None:
            return malformed(trouble)
        size = len(pydantic_core.to_json(item["result"]))
        return too_large(f"{size} bytes", limit) if size > limit else Succeeded(item["result"], size)
    if isinstance(item, dict) and "error" in item:
        return read_error(item["error"])
    return malformed('one of its results has neither "result" nor "error"')


def read_error(error: Any) -> Reply:
    """Read the error of one input, `{"message", "retryable", "code"?}`. It is retryable unless it says that it is not.

    With the code MALFORMED_ANSWER, the engine says that its own result is of no use; otherwise, that the input is not.
    """
    message = bounded(without_trace(_sentence(error)), MESSAGE_MAX_CHARS)
    if _is_final(error):
        if error.get("code") == JobErrorCode.MALFORMED_ANSWER:
            return malformed(message or "it says no more")
        return Rejected(message or "the engine refused the input")
    return Failed(message or "the engine failed")


def _is_final(error: Any) -> bool:
    """Return whether an engine's error says that the same input would fail again."""
    return isinstance(error, dict) and error.get("retryable") is False


class _Doubts(NamedTuple):
    """What the text of an answer may hide, so that most results need not be looked through."""

    may_overflow: bool
    may_hold_long_number: bool
    may_be_deep: bool


def _doubts(body: bytes) -> _Doubts:
    return _Doubts(
        may_overflow=may_overflow(body),
        may_hold_long_number=may_hold_long_number(body),
        may_be_deep=body.count(b"[") + body.count(b"{") > OUTPUT_MAX_DEPTH,
    )


def _trouble(result: Any, doubts: _Doubts) -> str | None:
    """Return why JSON readers could not read a result of the answer that these doubts are about. None: they can."""
    if doubts.may_overflow and not _is_finite(result):
        return "it holds a number that is too large for JSON readers"
    if doubts.may_hold_long_number and (fault := first_fault(result, "result")):
        return fault
    if doubts.may_be_deep and depth(result) > OUTPUT_MAX_DEPTH:
        return f"it is nested deeper than {OUTPUT_MAX_DEPTH} levels"
    return None


def _is_finite(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def read_refusal(status: int, retry_after: str | None, body: bytes) -> Reply:
    """Return the meaning of an answer whose status is not 2xx."""
    if status in (429, 503):
        return Busy(_seconds(retry_after))
    if 400 <= status < 500 and status not in _NOT_REJECTIONS:
        return Rejected(message_of(body) or f"the engine refused the input with status {status}")
    if status >= 500 or status in _NOT_REJECTIONS:
        return _read_failure(status, body)
    return malformed(f"its status is {status}, where 200 is expected")


def _read_failure(status: int, body: bytes) -> Failed:
    """Read an answer that says that the prediction failed. It is final only if the engine itself says so in its `error`.

    All else may be a passing trouble, or the page of a proxy between.
    """
    try:
        answer = pydantic_core.from_json(body)
    except ValueError:
        answer = None
    error = answer.get("error") if isinstance(answer, dict) else None
    said = message_of(body)
    if isinstance(error, dict) and _is_final(error) and error.get("code") == JobErrorCode.MALFORMED_ANSWER:
        return malformed(said or "it says no more")
    message = f"the engine answered {status}" + (f": {said}" if said else "")
    return Failed(message, retryable=not _is_final(error))


def _seconds(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return 1.0
    return min(max(seconds, 0.05), MAX_RETRY_AFTER_SECONDS) if seconds == seconds else 1.0


def message_of(body: bytes) -> str:
    """Return the sentence in an error body: `detail`, `message` or `error` of JSON, or its text; never a stack trace."""
    text = body.decode("utf-8", "replace").strip()
    try:
        # Python's own parser reads lone surrogates, which some languages put into messages that they cut.
        said = _sentence(json.loads(body))
    except (ValueError, RecursionError):
        said = "" if text.startswith("<") else text
    return bounded(without_trace(said), MESSAGE_MAX_CHARS)


def _sentence(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, (_sentence(item) for item in value[:20])))
    if isinstance(value, dict):
        if isinstance(value.get("msg"), str):
            where = ".".join(str(part) for part in value.get("loc") or () if part != "body")
            return f"{where}: {value['msg']}" if where else str(value["msg"])
        for key in ("detail", "message", "error", "title"):
            if said := _sentence(value.get(key)):
                return said
    return ""


def without_trace(text: str) -> str:
    """Return the last line of a Python stack trace, and any other text unchanged."""
    if _TRACEBACK not in text:
        return text
    return text.strip().splitlines()[-1]


def bounded(text: str, limit: int) -> str:
    """Return `text` with printable characters only, cut to `limit` characters."""
    clean = _UNPRINTABLE.sub(" ", text).strip()
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
