"""`enginehouse engines info` and `update`: ask every replica of many engines at once."""

import json
from typing import Annotated

import typer
from rich.text import Text

from enginehouse.cli.connection import connected
from enginehouse.cli.console import print_json, say
from enginehouse.cli.homes import HomeOption
from enginehouse.cli.inputs import read_input
from enginehouse.cli.options import JsonOption
from enginehouse.cli.tables import Cell, Column, Fit, print_table
from enginehouse.client import EngineAnswer

_COLUMNS = (
    Column("engine", fit=Fit.MIDDLE),
    Column("version", worth=1),
    Column("replica", worth=2),
    Column("status"),
    Column("answer", worth=4, fit=Fit.WORDS),
)

SelectorArgument = Annotated[
    str,
    typer.Argument(
        metavar="SELECTOR",
        help="Such as tenant=acme,name=sentiment,version=v2,label.team=nlp; every part must hold. Default: all of yours.",
        show_default=False,
    ),
]


def info(selector: SelectorArgument = "", home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Ask every replica of the selected engines what it says of itself (GET /info). Exits with 1 if one did not answer."""
    with connected(home) as client:
        found = client.engines_info(selector)
    _print(found, as_json)


def update(
    selector: SelectorArgument,
    data: Annotated[
        str | None,
        typer.Option(
            "-d", "--data", metavar="JSON", help="JSON, @FILE with JSON, or - for standard input. Default: {}."
        ),
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send JSON to POST /update of every replica of the selected engines, such as to load another model. Exits with 1 if one failed."""
    value = {} if data is None else read_input(data, [], option="--data")
    with connected(home) as client:
        found = client.update_engines(selector, value)
    _print(found, as_json)


def _print(found: list[EngineAnswer], as_json: bool) -> None:
    if as_json:
        print_json([engine.model_dump(mode="json") for engine in found])
    elif not found:
        say("No engine of yours is selected. 'enginehouse engines' lists them.")
    else:
        print_table(_COLUMNS, [row for engine in found for row in _rows(engine)])
    if not found or any(engine.problem or any(not _is_well(one.status) for one in engine.replicas) for engine in found):
        raise typer.Exit(1)


def _rows(engine: EngineAnswer) -> list[tuple[Cell, ...]]:
    version = engine.version or "-"
    rows: list[tuple[Cell, ...]] = [
        (
            engine.engine,
            version,
            one.replica,
            Text(str(one.status or "-"), "green" if _is_well(one.status) else "red"),
            one.problem or (one.body if isinstance(one.body, str) else json.dumps(one.body, ensure_ascii=False)),
        )
        for one in engine.replicas
    ]
    if engine.problem:
        rows.append((engine.engine, version, "-", Text(engine.code or "-", "red"), engine.problem))
    return rows


def _is_well(status: int | None) -> bool:
    return status is not None and 200 <= status < 300
