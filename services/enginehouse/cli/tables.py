"""Print lists and records at any width. Columns know what may be done to them where there is too little room."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from enginehouse.cli.console import ellipsis, harmless, out, say, wrap

Cell = str | Text
Row = Sequence[Cell]

KEEP = 100
"""Worth of a column that is never left out."""

_GAP = 2


class Fit(Enum):
    """What may be done to the cells of a column, and the least width after it."""

    WHOLE = 0
    """Nothing: numbers, states, ids of jobs."""
    MIDDLE = 16
    """Shortened in the middle, because names differ at their ends: `acme--…-embedding`."""
    WORDS = 18
    """Broken into lines between words: prose."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list."""

    name: str
    worth: int = KEEP
    """Where there is too little room, columns are left out from the lowest worth on."""
    fit: Fit = Fit.WHOLE
    right: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns with the width of each."""

    columns: Sequence[Column]
    widths: Sequence[int]

    def head(self, dots: str) -> list[Text]:
        """Return the lines of the header."""
        return self.lines([Text(column.name, "bold") for column in self.columns], dots)

    def lines(self, row: Row, dots: str) -> list[Text]:
        """Return the lines of a row. `dots` stands for what is left out of a word."""
        cells = [
            wrap(_shortened(cell, column, width, dots), width)
            for cell, column, width in zip(row, self.columns, self.widths, strict=True)
        ]
        return [self._line([cell[at] if at < len(cell) else Text() for cell in cells]) for at in range(_height(cells))]

    def _line(self, parts: list[Text]) -> Text:
        line = Text()
        for part, column, width in zip(parts, self.columns, self.widths, strict=True):
            room = " " * (width - part.cell_len)
            line.append_text(Text.assemble(room, part) if column.right else Text.assemble(part, room))
            line.append(" " * _GAP)
        line.rstrip()
        return line


def print_table(columns: Sequence[Column], rows: Iterable[Row], console: Console = out) -> None:
    """Print a list.

    At a terminal too narrow for it, prose is wrapped, names are shortened, and the columns of least worth are left out;
    where that is not enough, each row becomes a record. Elsewhere than at a terminal every row is one whole line.
    """
    table = [[_text(cell) for cell in row] for row in rows]
    if not console.is_terminal:
        lines = [[_one_line(cell) for cell in row] for row in table]
        _print(whole(columns, lines), lines, console)
        return
    dots = ellipsis(console)
    shown = _chosen(columns, table, console.width, dots)
    if shown:
        part = [[row[at] for at in shown] for row in table]
        layout = fit([columns[at] for at in shown], part, console.width, dots)
        assert layout
        _print(layout, part, console)
        _say_what_is_missing([column for at, column in enumerate(columns) if at not in shown], console)
        return
    for number, row in enumerate(table):
        if number:
            console.print()
        print_fields({column.name: cell for column, cell in zip(columns, row, strict=True) if cell}, console)


def print_fields(fields: Mapping[str, Cell], console: Console = out) -> None:
    """Print a record: a line for each name and value. At a terminal, values are wrapped between words."""
    for line in field_lines(fields, console.width if console.is_terminal else None):
        console.print(line, soft_wrap=True)


def field_lines(fields: Mapping[str, Cell], width: int | None) -> Iterator[Text]:
    """Return the lines of a record. A value that has no room beside its name stands below it. None: no limit."""
    names = max(cell_len(name) for name in fields) + _GAP
    for name, value in fields.items():
        text, label = _text(value), Text(set_cell_size(name, names), "dim")
        if width is None:
            yield Text.assemble(label, _one_line(text))
            continue
        lines, indent = wrap(text, width - names), names
        if any(line.cell_len > width - names for line in lines):
            lines, indent = [Text(), *wrap(text, width - _GAP)], _GAP
        for at, line in enumerate(lines):
            whole_line = Text.assemble(Text(" " * indent) if at else label, line)
            whole_line.rstrip()
            yield whole_line


def whole(columns: Sequence[Column], rows: Sequence[Row]) -> Layout:
    """Return the layout in which nothing is wrapped, shortened or left out."""
    return Layout(columns, [max(cell_len(column.name), *_widths(rows, at), 0) for at, column in enumerate(columns)])


def fit(columns: Sequence[Column], rows: Sequence[Row], width: int, dots: str) -> Layout | None:
    """Return the widths at which the rows fit into `width`, or None if these columns need more."""
    wished = whole(columns, rows).widths
    least = [_least(column, [row[at] for row in rows], wished[at]) for at, column in enumerate(columns)]
    room = width - _GAP * (len(columns) - 1) - sum(least)
    if room < 0:
        return None
    wanting = [wish - need for wish, need in zip(wished, least, strict=True)]
    total = sum(wanting)
    given = [want if total <= room else room * want // total for want in wanting]
    layout = Layout(columns, [need + more for need, more in zip(least, given, strict=True)])
    return layout if _tells_apart(layout, rows, dots) else None


def shorten_middle(text: str, width: int, dots: str = "…") -> str:
    """Return text of at most `width` cells. Its middle is left out, and more of the end is kept than of the start."""
    if cell_len(text) <= width:
        return text
    room = max(0, width - len(dots))
    start, end = room // 2, len(text)
    while end > 0 and cell_len(text[end - 1 :]) <= room - start:
        end -= 1
    return (set_cell_size(text, start) + dots + text[end:])[: max(width, 0)]


def _chosen(columns: Sequence[Column], rows: Sequence[Row], width: int, dots: str) -> list[int]:
    """Return the columns that fit: those to keep, and as many others as there is room for, the one of most worth first."""

    def fits(shown: list[int]) -> bool:
        return bool(fit([columns[at] for at in shown], [[row[at] for at in shown] for row in rows], width, dots))

    shown = [at for at, column in enumerate(columns) if column.worth == KEEP]
    if not fits(shown):
        return []
    others = [at for at in range(len(columns)) if at not in shown]
    for at in sorted(others, key=lambda at: -columns[at].worth):
        if fits(more := sorted([*shown, at])):
            shown = more
    return shown


def _least(column: Column, cells: Sequence[Cell], wished: int) -> int:
    header = max(cell_len(word) for word in column.name.split())
    if column.fit is Fit.WHOLE:
        return max(header, *(_width(cell) for cell in cells), 0)
    return min(wished, max(header, int(column.fit.value)))


def _tells_apart(layout: Layout, rows: Sequence[Row], dots: str) -> bool:
    """Whether names that differ still differ after they were shortened."""
    for at, column in enumerate(layout.columns):
        if column.fit is Fit.MIDDLE:
            names = {str(row[at]) for row in rows}
            if len({shorten_middle(name, layout.widths[at], dots) for name in names}) < len(names):
                return False
    return True


def _shortened(cell: Cell, column: Column, width: int, dots: str) -> Text:
    text = _text(cell)
    if column.fit is Fit.WHOLE:
        return text
    # Words of prose that are wider than the column are shortened as well: a broken word can be neither read nor copied.
    words = [text.plain] if column.fit is Fit.MIDDLE else text.plain.split()
    if all(cell_len(word) <= width for word in words):
        return text
    shown = text.plain
    for word in words:
        shown = shown.replace(word, shorten_middle(word, width, dots))
    return Text(shown, text.style)


def _print(layout: Layout, rows: Sequence[Row], console: Console) -> None:
    dots = ellipsis(console)
    for lines in (layout.head(dots), *(layout.lines(row, dots) for row in rows)):
        for line in lines:
            console.print(line, soft_wrap=True)


def _say_what_is_missing(columns: Sequence[Column], console: Console) -> None:
    if columns:
        names = ", ".join(column.name for column in columns)
        say(f"Not shown at this width: {names}.", "dim", console)


def _text(cell: Cell) -> Text:
    """Return a cell as text that cannot control a terminal. Its lines are kept."""
    return harmless(cell)


def _one_line(text: Text) -> Text:
    lines = text.split("\n")
    return Text(" ").join(lines)


def _width(cell: Cell) -> int:
    return max((cell_len(line) for line in str(cell).split("\n")), default=0)


def _widths(rows: Sequence[Row], at: int) -> list[int]:
    return [_width(row[at]) for row in rows] or [0]


def _height(cells: list[list[Text]]) -> int:
    return max((len(cell) for cell in cells), default=0)
