"""Lists at any width: what tells names apart stays, words stay whole, and a row that has no room becomes a record."""

import io
import re
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from enginehouse.cli import units
from enginehouse.cli.tables import Column, Fit, print_fields, print_table, shorten_middle
from enginehouse.contracts.moments import now

_COLUMNS = (
    Column("id"),
    Column("engine", fit=Fit.MIDDLE),
    Column("attempts", worth=1, right=True),
    Column("age", worth=2),
    Column("what it does", worth=3, fit=Fit.WORDS),
)
_WORD = st.text("abcdefghij", min_size=1, max_size=12)
_ROW = st.tuples(
    st.uuids(version=4).map(str),
    st.tuples(_WORD, _WORD, _WORD).map("--".join),
    st.integers(0, 9).map(str),
    st.just("3 min"),
    st.lists(_WORD, max_size=12).map(" ".join),
)


def terminal(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@settings(max_examples=60)
@given(st.lists(_ROW, min_size=1, max_size=4), st.integers(40, 140))
def test_at_any_width_lines_fit_and_words_are_whole(rows: list[tuple[str, ...]], width: int) -> None:
    console = terminal(width)
    print_table(_COLUMNS, rows, console)
    text = printed(console)
    # A single name that is wider than the terminal stays whole in a record.
    assert [line for line in text.splitlines() if len(line) > width and len(line.split()) > 1] == []
    known = {word for row in [*rows, [column.name for column in _COLUMNS]] for cell in row for word in cell.split()}
    told = re.sub(r"Not shown at this width:[^.]*\.", "", text)
    assert {word for word in told.split() if word not in known and "…" not in word} == set()
    # A row is never cut to what other rows show as well.
    assert all(row[0] in text for row in rows)


def test_names_that_differ_only_in_the_middle_are_not_shortened_to_the_same() -> None:
    console = terminal(30)
    names = [f"acme--invoices-{middle}-of-the-eastern-region" for middle in ("paid", "open")]
    print_table((Column("engine", fit=Fit.MIDDLE), Column("state")), [(name, "active") for name in names], console)
    assert all(name in printed(console) for name in names)


@pytest.mark.parametrize("dots", ["…", ".."])
def test_a_shortened_name_keeps_more_of_its_end(dots: str) -> None:
    assert shorten_middle("northwind--invoices", 19, dots) == "northwind--invoices"
    short = shorten_middle("northwind--invoices", 12, dots)
    assert (len(short), short) == (12, f"north{dots}voices"[:12] if dots == "…" else f"north{dots}oices")


def test_columns_of_least_worth_are_left_out_first_and_named() -> None:
    console = terminal(60)
    print_table(_COLUMNS, [("x" * 36, "acme--ocr", "3", "5 h", "reads")], console)
    assert printed(console).splitlines()[0].split() == ["id", "engine", "age"]
    assert "Not shown at this width: attempts" in printed(console)


def test_outside_of_a_terminal_a_row_is_one_whole_line() -> None:
    console = Console(file=io.StringIO(), width=40, highlight=False)
    print_table(_COLUMNS, [("x" * 36, "acme--" + "o" * 50, "3", "5 h", "reads\n" + "many words " * 20)], console)
    _, row = printed(console).splitlines()
    assert row.split() == ["x" * 36, "acme--" + "o" * 50, "3", "5", "h", "reads", *["many", "words"] * 20]


def test_values_cannot_control_the_terminal() -> None:
    console = terminal(80)
    print_table((Column("id"),), [("a\x1b[2Jb",)], console)
    print_fields({"name": "a\x1b[2Jb", "lines": "one\ntwo"}, console)
    assert "\x1b" not in printed(console)
    assert printed(console).splitlines()[-2:] == ["lines  one", "       two"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "-"),
        (0.0064, "6.4 ms"),
        (3.21, "3.2 s"),
        (45.9, "45 s"),
        (119, "119 s"),
        (185, "3 min"),
        (7_300, "2 h"),
        (200_000, "2 d"),
    ],
)
def test_spans_of_time_are_said_in_one_way(seconds: Any, said: str) -> None:
    assert units.duration(seconds) == said
    if seconds and seconds >= 10:
        assert units.age(now() - timedelta(seconds=seconds)) == said
