"""What the readers of a table say of themselves: a row for each, with the names that it goes by; so README's tables are made."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from inspect import getdoc
from typing import Any

Row = tuple[str, str]
"""What goes in, by name, and what becomes of it."""


def rows_of(table: Mapping[str, Callable[..., Any]], unnamed: Container[str] = ()) -> list[Row]:
    """A row for each reader: the names that lead to it, but those `unnamed`, and the first line of its docstring."""
    names: dict[Callable[..., Any], list[str]] = {}
    for name, reader in table.items():
        names.setdefault(reader, []).append(name)
    shown = {reader: [name for name in by if name not in unnamed] for reader, by in names.items()}
    return [(listed(by), (getdoc(reader) or "").splitlines()[0]) for reader, by in shown.items() if by]


def listed(names: Iterable[str]) -> str:
    """Names as Markdown has code, in alphabetical order."""
    return ", ".join(f"`{name}`" for name in sorted(names))
