"""How nouns check themselves and compare.

Nouns with arrays compare by value (`==` on every field, arrays by type, shape and content), do not hash, and
keep their arrays read-only. A noun that exists is legal: it checks itself when it is built.

How nouns show themselves in a notebook: a table, all that stands in it escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from html import escape
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

# -------------------- nouns


class ByValue:
    """`==` for dataclasses that hold arrays: same type, equal fields, arrays equal in dtype, shape and content."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # equal content may still be large: not for dictionary keys

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))  # type: ignore[arg-type]  # of dataclasses only


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return bool(a == b)


def freeze(noun: Any, name: str, dtype: type) -> NDArray[Any]:
    """Replace a field by a read-only copy of its array, in the dtype that the noun promises."""
    given = np.asarray(getattr(noun, name))
    where = f"{type(noun).__name__}.{name}"
    if given.dtype.kind not in "biuf":
        raise NetworkError(where, f"holds {given.dtype}, not numbers")
    if not np.isfinite(given).all():
        raise NetworkError(where, "is not finite")
    with np.errstate(invalid="ignore"):
        array: NDArray[Any] = given.astype(dtype)
    if not np.array_equal(array, given):
        raise NetworkError(where, "is not whole numbers")
    array.flags.writeable = False
    object.__setattr__(noun, name, array)
    return array


def check_range(noun: Any, name: str, low: float, high: float) -> None:
    """Refuse a field with a value outside low..high."""
    array = getattr(noun, name)
    if array.size and (array.min() < low or array.max() > high):
        worst = array.min() if array.min() < low else array.max()
        raise NetworkError(f"{type(noun).__name__}.{name}", f"{worst} is outside {low}..{high}")


# -------------------- markup

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
