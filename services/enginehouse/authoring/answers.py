"""Check what an engine on trial says of itself, and how it answers good and bad inputs."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import pydantic_core

from enginehouse.authoring.asking import Asked, Asker, quoted, read_examples
from enginehouse.authoring.findings import Over, Report
from enginehouse.contracts.engine import CARD_MAX_BYTES, EngineCard, EngineSpec
from enginehouse.contracts.errors import Unavailable
from enginehouse.json_schema import compiled, problems
from enginehouse.runner.card import draft_card
from enginehouse.runner.clients.base import Busy, Closed, Unreachable
from enginehouse.runner.outcome import Failed, Rejected, Succeeded, TimedOut

_MISFITS: tuple[Any, ...] = (None, 5, "text", [], {}, {"nothing": "that any engine takes"})
_MISFITS_TRIED = 3
_REPEATED = 3
_REPEAT_MAX_SECONDS = 5.0
"""An example that takes longer is not measured again."""
_SERIAL = 1.7
"""Two jobs at once that take so many times the time of one were worked on one after the other."""
_SERIAL_MIN_SECONDS = 0.1
"""Below this, what else the machine does would be measured."""
_CLOSE_TO_LIMIT = 0.5


@dataclass(frozen=True, slots=True)
class Example:
    """An input that the engine answered."""

    data: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class Described:
    """What an engine says of itself."""

    openapi: dict[str, Any] | None
    card: EngineCard
    takes: jsonschema_rs.Validator | None
    gives: jsonschema_rs.Validator | None


async def check_schema(asker: Asker, report: Report, spec: EngineSpec) -> Described:
    """Report what the card would carry of the engine's own description, and what it would not, and why."""
    try:
        openapi = await asker.client.openapi()
    except Unavailable as error:
        report.failed(
            "schema", f"{error}. An engine without a description must answer 404 at once.", asker.alone.words()
        )
        openapi = None
    card, faults = draft_card(spec, "a", openapi)
    for part, reason in faults:
        name = part.replace("_", " ")
        why = (
            f"it makes the engine's card larger than {CARD_MAX_BYTES // 1024} KiB, or too deep"
            if reason is None
            else reason
        )
        if part == "openapi":
            report.note("schema", f"Its whole OpenAPI document would not be shown: {why}. Its schemas are.")
        else:
            report.failed("schema", f"The {name} of its /openapi.json would not be used: {why}.")
    if openapi is None:
        report.note("schema", "It has no /openapi.json that can be read, so every input would reach it, unchecked")
    elif not card.input_schema and not faults:
        report.note(
            "schema", "Its /openapi.json has no schema of `data` for POST /predict, so every input would reach it"
        )
    elif not faults:
        parts = [
            "input",
            *(["output"] if card.output_schema else []),
            *(["an example"] if card.example is not None else []),
        ]
        report.ok("schema", f"Its card shows its {' and '.join(parts)}, from /openapi.json")
    takes, gives = (compiled(schema) if schema else None for schema in (card.input_schema, card.output_schema))
    return Described(dict(openapi) if openapi else None, card, takes, gives)


async def check_examples(asker: Asker, report: Report, described: Described) -> list[Example]:
    """Report how each of the author's examples is answered. Return those with a result."""
    answered, found = [], _examples(asker.alone.source, described.card, report)
    for name, data in found.items():
        if described.takes and (misfits := problems(described.takes, data, len(pydantic_core.to_json(data)))):
            report.failed("example", f"{name} does not fit the engine's input schema: {'; '.join(misfits)}")
            continue
        asked = await asker.ask(data)
        if not isinstance(asked.reply, Succeeded):
            said, words = await asker.explain(data, asked.reply)
            report.failed("example", f"{name} {said}", words)
            _raise_if_ended(asker)
        elif misfits := _misfits_of_result(described, asked):
            report.failed(
                "example", f"{name}: its result does not fit the engine's output schema: {'; '.join(misfits)}"
            )
        else:
            report.ok("example", f"{name} is answered with {quoted(asked.output)}")
            answered.append(Example(data, asked.seconds))
    if not found:
        report.note(
            "example", "There is no example.json: put an input into it, and it is tried here and shown to callers"
        )
    return answered


def _examples(folder: Path, card: EngineCard, report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, path in read_examples(folder).items():
        try:
            found[name] = json.loads(path.read_bytes(), parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            report.failed("example", f"{name} is not JSON: {error}")
    if not found and card.example is not None:
        found["The example of its /openapi.json"] = card.example
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _misfits_of_result(described: Described, asked: Asked) -> list[str]:
    if described.gives is None:
        return []
    assert isinstance(asked.reply, Succeeded)
    found = problems(described.gives, asked.output, asked.reply.size)
    return ["result" + text.removeprefix("input") if text.startswith("input") else text for text in found]


async def check_bad_input(asker: Asker, report: Report, described: Described) -> None:
    """Report whether inputs that the engine cannot take are refused, and not a failure that would be tried again."""
    takes = described.takes
    misfits = [data for data in _MISFITS if takes is None or not takes.is_valid(data)][:: 1 if takes is None else 2]
    refused = taken = 0
    for data in misfits if takes is None else misfits[:_MISFITS_TRIED]:
        asked = await asker.ask(data)
        match asked.reply:
            case Rejected():
                refused += 1
            case Succeeded():
                taken += 1
            case reply:
                said, words = await asker.explain(data, reply)
                tries = asker.alone.spec.retry.max_attempts
                report.failed(
                    "bad input",
                    f"The input {quoted(data)} {said}. What can never work must be answered with 422 and "
                    f'{{"error": {{"message": "…"}}}}: anything else would be tried {tries} times.',
                    words,
                )
                _raise_if_ended(asker)
                return
    if refused:
        report.ok("bad input", f"Inputs that it cannot take are refused, such as {quoted(misfits[0])}")
    elif takes is not None and taken:
        report.note("bad input", "It takes what does not fit its own schema; Enginehouse refuses that before it")
    else:
        report.note("bad input", "It takes any input")


async def check_unknown_field(asker: Asker, report: Report, described: Described, example: Example) -> None:
    """Report what the engine does about a field that it does not know."""
    if not isinstance(example.data, dict):
        return
    data = {**example.data, "a_field_that_no_engine_has": True}
    if described.takes and not described.takes.is_valid(data):
        report.ok("unknown field", "Its schema refuses fields that it does not know")
        return
    asked = await asker.ask(data)
    match asked.reply:
        case Succeeded():
            report.ok("unknown field", "It ignores fields that it does not know, so a misspelt one has no effect")
        case Rejected():
            report.ok("unknown field", "It refuses fields that it does not know")
        case reply:
            said, words = await asker.explain(data, reply)
            report.failed("unknown field", f"Its example with one more field {said}", words)
            _raise_if_ended(asker)


async def check_concurrency(asker: Asker, report: Report, example: Example) -> None:
    """Report whether the engine works on two jobs at the same time, if engine.yaml says that it may be given two."""
    concurrency = asker.alone.spec.concurrency
    if concurrency < 2:
        return
    began = time.monotonic()
    first, second = await asyncio.gather(asker.ask(example.data), asker.ask(example.data))
    took = time.monotonic() - began
    for asked in (first, second):
        if isinstance(asked.reply, Busy):
            report.failed(
                "two at once", f"It has no room for two jobs, and `concurrency` in engine.yaml is {concurrency}"
            )
            return
        if not isinstance(asked.reply, Succeeded):
            said, words = await asker.explain(example.data, asked.reply)
            report.failed("two at once", f"Its example, sent twice at the same time, {said}", words)
            _raise_if_ended(asker)
            return
    if warning := asker.client.warning:
        report.note("two at once", warning)
    elif example.seconds >= _SERIAL_MIN_SECONDS and took > _SERIAL * example.seconds:
        report.note(
            "two at once",
            f"Two jobs took {took:.1f} s, and one takes {example.seconds:.1f} s: it works on one after the other, or one "
            f"uses every core. With `concurrency: 1`, which is {concurrency} now, no job waits in the engine.",
        )
    else:
        report.ok("two at once", "Two jobs at the same time are answered")


async def check_time(asker: Asker, report: Report, examples: list[Example]) -> list[Example]:
    """Report how long each example takes, and return them with the time once the engine is warm."""
    limit, measured = asker.alone.spec.execution_timeout_seconds, []
    for example in examples:
        times = [example.seconds]
        while len(times) <= _REPEATED and times[0] <= _REPEAT_MAX_SECONDS:
            asked = await asker.ask(example.data)
            if not isinstance(asked.reply, Succeeded):
                said, words = await asker.explain(example.data, asked.reply)
                report.failed("time", f"An example that was answered once {said} when it comes again", words)
                _raise_if_ended(asker)
                break
            times.append(asked.seconds)
        # The first answer may be slower, because much is loaded only then.
        measured.append(Example(example.data, statistics.median(times[1:] or times)))
    slowest = max(example.seconds for example in measured)
    said = f"{_span(slowest)} of the {limit:g} s that execution_timeout_seconds allows"
    if slowest > _CLOSE_TO_LIMIT * limit:
        report.note("time", f"{said}: on a busy machine that may not be enough")
    else:
        report.ok("time", said)
    return measured


def _span(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _raise_if_ended(asker: Asker) -> None:
    if asker.alone.how_it_ended():
        raise Over


def is_fault(asked: Asked) -> bool:
    """Return whether an answer is the engine's mistake, whatever the input was."""
    return isinstance(asked.reply, Failed | TimedOut | Closed | Unreachable)
