"""Generates the tables of the documents from the code. `make fix` writes them; `make check` (--check) compares.

A generated part stands between two comments. Text outside of them is written by hand and stays as it is.
"""

import ast
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi.routing import APIRoute
from pydantic import SecretStr
from pydantic_settings import BaseSettings
from tests.support import break_ins

from enginehouse.contracts.base import variable
from enginehouse.contracts.errors import EnginehouseError
from enginehouse.contracts.job import JobErrorCode
from enginehouse.gateway.app import create_app
from enginehouse.gateway.http import routes
from enginehouse.gateway.http.dependencies import admin_of, caller_of
from enginehouse.gateway.settings import GatewaySettings
from enginehouse.registry.http import routes as registry_routes
from enginehouse.registry.http.api import create_api as create_registry_api
from enginehouse.registry.http.dependencies import operator
from enginehouse.registry.settings import RegistrySettings
from enginehouse.runner.settings import RunnerSettings
from enginehouse.sidecar.fake import FakeDapr, FakeSidecar
from enginehouse.web.problems import STATUSES

DOCS = Path(__file__).resolve().parents[2] / "docs"
_TOKEN = "not-a-real-token-of-any-gateway-anywhere"
_END = "<!-- /generated -->"


def _begin(part: str) -> str:
    return f"<!-- generated: {part}. Change the code and run 'make fix'; do not edit this part. -->"


def _cell(text: str) -> str:
    # Outside of code, `<` would begin a tag and vanish.
    text = text if "`" in text else text.replace("<", "\\<")
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    rows = [[_cell(cell) for cell in row] for row in body]
    head = list(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of a gateway. Nothing is started and no file is made."""
    settings = GatewaySettings(
        ledger_url=SecretStr("sqlite:///nothing-is-opened.db"),
        tenants_dir=DOCS,
        dapr_api_token=SecretStr(_TOKEN),
        app_api_token=SecretStr(_TOKEN),
        proof_key=SecretStr(_TOKEN),
    )
    return create_app(settings, FakeSidecar(FakeDapr(), "gateway")).openapi()


def registry_openapi() -> dict[str, Any]:
    """Return the OpenAPI document of a registry. Nothing is started and no file is made."""
    return create_registry_api(
        RegistrySettings(engines_dir=DOCS, tenants_dir=DOCS, webhook_secrets_dir=DOCS, work_dir=DOCS)
    ).openapi()


def every_route(package: ModuleType = routes) -> list[APIRoute]:
    """Return all routes of a package, those that its document does not show as well."""
    names = [f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    found = [route for name in names for route in importlib.import_module(name).router.routes]
    return [route for route in found if isinstance(route, APIRoute)]


def _who_may(route: APIRoute) -> str:
    asked = {dependency.call for dependency in route.dependant.dependencies}
    if admin_of in asked or operator in asked:
        return "administrators"
    return "every tenant" if caller_of in asked else "everybody"


def callers(package: ModuleType = routes) -> dict[tuple[str, str], str]:
    """Return the callers that each call's route lets in, by method and path."""
    return {
        (method, re.sub(r":\w+}", "}", route.path)): _who_may(route)
        for route in every_route(package)
        for method in route.methods or ()
        if route.include_in_schema
    }


_Call = tuple[str, str, dict[str, Any]]
"""The method, the path and the OpenAPI description of a call."""


def http_tables(package: ModuleType = routes, document: Callable[[], dict[str, Any]] = openapi) -> str:
    """Return a table of calls for each group, after the answers that all of them share."""
    may = callers(package)
    groups: dict[str, list[_Call]] = defaultdict(list)
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            groups[operation["tags"][0]].append((method.upper(), path, operation))
    with_key = [call for calls in groups.values() for call in calls if may[call[0], call[1]] != "everybody"]
    described = [{*operation["responses"]} for *_, operation in with_key]
    # A call that passes on an engine's own answers describes none: `default`.
    shared = set.intersection(*(answers for answers in described if "default" not in answers))
    parts = [f"Every call with a key can also answer {_listed(sorted(shared))}."]
    for group, calls in groups.items():
        rows = [_http_row(call, may[call[0], call[1]], shared) for call in calls]
        parts += [f"## {group.capitalize()}", _table(["method", "path", "what it does", "who may", "answers"], rows)]
    return "\n\n".join(parts)


def _http_row(call: _Call, who: str, shared: set[str]) -> list[str]:
    method, path, operation = call
    answers = sorted({*operation["responses"]} - (shared if who != "everybody" else set()))
    return [method, f"`{path}`", operation["description"], who, ", ".join(answers)]


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _errors(kind: type[EnginehouseError] = EnginehouseError) -> Iterator[type[EnginehouseError]]:
    if kind.__module__.startswith(("enginehouse.contracts", "enginehouse.gateway")):
        yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def problems_table() -> str:
    """Return a table of all problems that have a status of their own."""
    statuses = {kind: next(STATUSES[parent] for parent in kind.__mro__ if parent in STATUSES) for kind in _errors()}
    # An error that only has the status of all errors is caught before it reaches a caller.
    shown = {kind: status for kind, status in statuses.items() if status != 500 or kind is EnginehouseError}
    rows = [
        [f"`{kind.code}`", str(status), "yes" if kind.retryable else "no", (kind.__doc__ or "").strip(), kind.advice]
        for kind, status in sorted(shown.items(), key=lambda item: (item[1], item[0].code))
    ]
    return _table(["code", "status", "retry can help", "meaning", "what to do"], rows)


def job_errors_table() -> str:
    """Return a table of the codes in the `error` of a job, each with the text that stands below it in the code."""
    (kind,) = ast.parse(inspect.getsource(JobErrorCode)).body
    assert isinstance(kind, ast.ClassDef)
    rows = [
        [f"`{ast.literal_eval(member.value)}`", ast.literal_eval(text.value)]
        for member, text in itertools.pairwise(kind.body)
        if isinstance(member, ast.Assign) and isinstance(text, ast.Expr)
    ]
    if len(rows) != len(JobErrorCode):
        raise ValueError("each member of JobErrorCode needs a text below it that says what it means")
    return _table(["code", "meaning"], rows)


_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
_TYPES = {"integer": "whole number", "number": "number", "boolean": "`true` or `false`", "string": "text"}


def _kind(schema: dict[str, Any]) -> str:
    """Return the type in words, with its bounds."""
    if "anyOf" in schema:
        schema = next(option for option in schema["anyOf"] if option.get("type") != "null")
    if "enum" in schema:
        return _listed([f"`{value}`" for value in schema["enum"]])
    if schema["type"] == "array":
        return f"JSON list of {_kind(schema['items'])}"
    if schema.get("format") in ("path", "password"):
        return {"path": "path", "password": "secret"}[schema["format"]]
    if choice := re.fullmatch(r"\^\(([\w|]+)\)\$", schema.get("pattern", "")):
        return _listed([f"`{value}`" for value in choice[1].split("|")])
    words = [_TYPES[schema["type"]]]
    words += [text.format(f"{schema[bound]:,}") for bound, text in _BOUNDS.items() if bound in schema]
    if "pattern" in schema:
        words.append(f"matches `{schema['pattern']}`")
    return ", ".join(words)


_UNITS = {"_bytes": [(1024**2, "MiB"), (1024, "KiB")], "_seconds": [(86_400, "days"), (3_600, "h"), (60, "min")]}


def _default(name: str, schema: dict[str, Any], required: bool) -> str:
    if required:
        return "**required**"
    value = schema.get("default")
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if not isinstance(value, (int, float)):
        return f"`{value}`"
    size = next(
        (
            f" ({value / unit:g} {word})"
            for ending, units in _UNITS.items()
            for unit, word in units
            if name.endswith(ending) and value >= unit and value % unit == 0
        ),
        "",
    )
    return f"`{value:.12g}`{size}"


def settings_table(settings: type[BaseSettings]) -> str:
    """Return a table of every setting of a class. No secret has a value as its default, so the table shows none."""
    schema = settings.model_json_schema(by_alias=False)
    required = {*schema.get("required", ())}
    rows = [
        [
            f"`{variable(settings, name)}`",
            _kind(field),
            _default(name, field, name in required),
            field.get("description", ""),
        ]
        for name, field in schema["properties"].items()
    ]
    return _table(["variable", "type", "default", "description"], rows)


def break_ins_table() -> str:
    """Return a table of every attempt of `make isolation`."""
    found = break_ins.listed()
    of_redis = sum(one.attempt.name.startswith(break_ins.REDIS) for one in found)
    rows = [
        [one.attempt.name, one.attempt.layer, f"[`{one.path.name}`](../{one.path.relative_to(break_ins.ROOT)})"]
        for one in found
    ]
    return f"{len(rows)} attempts, {of_redis} of them commands to Redis.\n\n" + _table(
        ["attempt", "layer that must stop it", "test"], rows
    )


PARTS: dict[str, dict[str, Callable[[], str]]] = {
    "http.md": {"calls": http_tables, "problems": problems_table, "job errors": job_errors_table},
    "settings.md": {
        "gateway": lambda: settings_table(GatewaySettings),
        "registry": lambda: settings_table(RegistrySettings),
        "runner": lambda: settings_table(RunnerSettings),
    },
    "break-ins.md": {"attempts": break_ins_table},
    "registry.md": {"calls": lambda: http_tables(registry_routes, registry_openapi)},
}
"""The generated parts of each document."""


def generate(document: Path) -> str:
    """Return the text of a document with its parts generated anew. Raise ValueError if a part has no place in it."""
    text = document.read_text()
    for part, make in PARTS[document.name].items():
        before, begin, rest = text.partition(_begin(part))
        _, end, after = rest.partition(_END)
        if not begin or not end:
            raise ValueError(f"{document.name} needs a line {_begin(part)!r}, and {_END!r} after it")
        text = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return text


def main() -> int:
    """Write the documents, or say which one is out of date."""
    for name in PARTS:
        document = DOCS / name
        wanted = generate(document)
        if sys.argv[1:] != ["--check"]:
            document.write_text(wanted)
        elif document.read_text() != wanted:
            print(f"docs/{name} is out of date: the code says something else. Run 'make fix'", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
