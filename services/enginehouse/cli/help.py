"""Format help pages for any width. The formatter of Typer breaks long words, and needs 50 columns."""

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text
from typer.core import TyperGroup

from enginehouse.cli.console import wrap

WIDEST = 100
_WIDEST_TERM = 30
_GAP = 2
_LEAST = 24
"""Width that the explanations of options need. Where they do not have it beside the options, they stand below."""


_Formatter: Any = TyperGroup.context_class.formatter_class


class HelpFormatter(_Formatter):  # type: ignore[misc]
    """Writes paragraphs and lists of options without breaking a word."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write how the command is called."""
        self._write(f"{prefix or 'Usage: '}{prog} {args}", 0, 4)

    def write_text(self, text: str) -> None:
        """Write paragraphs, which blank lines separate."""
        for number, paragraph in enumerate(text.split("\n\n")):
            if number:
                self.write("\n")
            self._write(" ".join(paragraph.split()), self.current_indent, self.current_indent)

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = _WIDEST_TERM, col_spacing: int = _GAP) -> None:
        """Write terms with their explanations beside them, or below them if the page is narrow."""
        column = min(max((cell_len(term) for term, _ in rows), default=0), col_max)
        start = self.current_indent + column + col_spacing
        is_narrow = self.width - start < _LEAST
        below = self.current_indent + 2 * _GAP if is_narrow else start
        for term, text in rows:
            if is_narrow or cell_len(term) > column:
                self._write(term, self.current_indent, below)
                self._write(text, below, below)
            else:
                self._write(f"{term:<{column + col_spacing}}{text}", self.current_indent, below)

    def _write(self, text: str, first: int, following: int) -> None:
        indent = first
        lines = wrap(Text(text), self.width - first)
        if len(lines) > 1:
            begin = lines[0].plain
            lines = [lines[0], *wrap(Text(text[len(begin) :].lstrip()), self.width - following)]
        for line in lines:
            self.write(f"{' ' * indent}{line.plain}\n")
            indent = following
