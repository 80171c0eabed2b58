"""Check what an engine under test says of itself, and how it answers good and bad inputs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import pydantic_core

from enginehouse.authoring.asking import Asked, Asker, quoted
from enginehouse.authoring.findings import Over, Report
from enginehouse.contracts.engine import CARD_MAX_BYTES, EngineCard, EngineSpec
from enginehouse.contracts.errors import Unavailable
from enginehouse.examples import example_files
from enginehouse.json_schema import compiled, problems
from enginehouse.runner.card import draft_card
from enginehouse.runner.clients.base import Closed, Unreachable
from enginehouse.runner.outcome import Failed, Rejected, Succeeded, TimedOut
from enginehouse.runner.schema import Description

_MISFITS: tuple[Any, ...] = (None, {"nothing": "that any engine takes"}, 5, "text", [], {})
_MISFITS_TRIED = 3


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
        described = await asker.client.describe()
    except Unavailable as error:
        report.failed(
            "schema", f"{error}. An engine without a description must answer 404 at once.", asker.alone.words()
        )
        described = Description()
    card, faults = draft_card(spec, "a", described)
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
    if described.openapi is None and spec.protocol == "predict":
        report.note("schema", "It has no /openapi.json that can be read, so every input would reach it, unchecked")
    elif not card.input_schema and not faults:
        report.note(
            "schema",
            "It describes no schema of its inputs, such as that of `data` of POST /predict, so every input reaches it",
        )
    elif not faults:
        parts = [
            "input",
            *(["output"] if card.output_schema else []),
            *(["an example"] if card.example is not None else []),
        ]
        report.ok("schema", f"Its card shows its {' and '.join(parts)}, from its own description")
    takes, gives = (compiled(schema) if schema else None for schema in (card.input_schema, card.output_schema))
    return Described(dict(described.openapi) if described.openapi else None, card, takes, gives)


async def check_examples(asker: Asker, report: Report, described: Described) -> list[Example]:
    """Report how each of the author's examples is answered. Return those with a result."""
    answered, found = [], _examples(asker.alone.start_from.source, described.card, report)
    for name, data in found.items():
        if described.takes and (misfits := problems(described.takes, data, len(pydantic_core.to_json(data)))):
            report.failed("example", f"{name} does not fit the engine's input schema: {'; '.join(misfits)}")
            continue
        asked = await asker.ask(data)
        if not isinstance(asked.reply, Succeeded):
            said, words = await asker.explain(data, asked.reply)
            report.failed("example", f"{name} {said}", words)
            raise_if_ended(asker)
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
    for name, path in example_files(folder).items():
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
    misfits = (
        list(_MISFITS) if takes is None else [data for data in _MISFITS if not takes.is_valid(data)][:_MISFITS_TRIED]
    )
    refused = []
    for data in misfits:
        asked = await asker.ask(data)
        if isinstance(asked.reply, Rejected):
            refused.append(data)
        elif not isinstance(asked.reply, Succeeded):
            said, words = await asker.explain(data, asked.reply)
            tries = asker.alone.spec.retry.max_attempts
            report.failed(
                "bad input",
                f"The input {quoted(data)} {said}. What can never work must be answered with 422 and "
                f'{{"error": {{"message": "…"}}}}: anything else would be tried {tries} times.',
                words,
            )
            raise_if_ended(asker)
            return
    if refused:
        report.ok("bad input", f"Inputs that it cannot take are refused, such as {quoted(refused[0])}")
    elif misfits and takes is not None:
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
            raise_if_ended(asker)


def raise_if_ended(asker: Asker) -> None:
    """Raise Over if the engine has ended: nothing more can be asked."""
    if asker.alone.how_it_ended():
        raise Over


def is_fault(asked: Asked) -> bool:
    """Return whether an answer is the engine's mistake, whatever the input was."""
    return isinstance(asked.reply, Failed | TimedOut | Closed | Unreachable)
