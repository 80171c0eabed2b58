"""Horizontal bars as SVG, written by hand: three groups need no plotting library."""

from collections.abc import Sequence
from html import escape

_WIDTH, _LABEL, _ROW, _TITLE, _GAP = 760, 220, 26, 30, 14
_OURS, _OTHERS = "#2f6f8f", "#a9b0b8"


def bars(groups: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> str:
    """A group per title, each to its own scale. The first bar of each is ours."""
    parts, y = [], 8
    for title, rows in groups:
        parts.append(f'<text x="8" y="{y + 18}" font-weight="bold">{escape(title)}</text>')
        y += _TITLE
        largest = max(value for _, value in rows)
        for number, (label, value) in enumerate(rows):
            colour = _OTHERS if number else _OURS
            width = (_WIDTH - _LABEL - 90) * value / largest
            text = f"{value:,.0f}" if largest >= 100 else f"{value:.1f}"
            parts += [
                f'<text x="{_LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(label)}</text>',
                f'<rect x="{_LABEL}" y="{y + 2}" width="{width:.0f}" height="{_ROW - 7}" fill="{colour}"/>',
                f'<text x="{_LABEL + width + 6:.0f}" y="{y + 16}">{text}</text>',
            ]
            y += _ROW
        y += _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y}" viewBox="0 0 {_WIDTH} {y}"'
    style = 'font-family="system-ui, sans-serif" font-size="13" fill="#333"'
    return "\n".join([f"{head} {style}>", f'<rect width="{_WIDTH}" height="{y}" fill="#fff"/>', *parts, "</svg>", ""])
