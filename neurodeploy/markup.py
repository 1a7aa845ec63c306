"""How nouns show themselves in a notebook: a table, all that stands in it escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MOST_ROWS = 60


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; whole numbers get their commas and stand right, shares between 0 and 1 are percentages.

    Of more than `MOST_ROWS` rows the first are shown, and how many more there are.
    """
    body = [[_cell(value) for value in row] for row in rows]
    more = len(body) - MOST_ROWS
    if more > 0:
        body[MOST_ROWS:] = [[f"<td colspan={len(headings)}>and {more:,} more</td>"]]
    head = "".join(f"<th style='text-align: left'>{escape(heading)}</th>" for heading in headings)
    lines = "".join(f"<tr>{''.join(cells)}</tr>" for cells in body)
    said = f"<caption style='text-align: left; caption-side: top'>{escape(caption)}</caption>"
    return f"<table>{said}<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def paragraphs(lines: Iterable[str]) -> str:
    """A paragraph a line."""
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"<td style='text-align: right'>{value:,}</td>"
    if isinstance(value, float):
        return f"<td style='text-align: right'>{value:.1%}</td>"
    return f"<td style='text-align: left'>{escape(str(value))}</td>"
