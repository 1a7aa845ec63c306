"""Support tables: what the frontends read, and what each module, function or node becomes.

The tables are generated from the dispatch tables of the frontends. A row names every key that leads to one reader; its text is
the first line of the reader's docstring. docs/operators.md and docs/nir.md show them, and a test compares.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from inspect import getdoc
from typing import Any, TypeAlias

from neurodeploy.frontends.nir.discretization import NEURON_READERS
from neurodeploy.frontends.nir.nodes import LINEAR_READERS, SUBGRAPH_END
from neurodeploy.frontends.torch.functions import IDENTITIES, LINEAR_FUNCTIONS, OPERATORS, REARRANGEMENTS, SPIKE_FUNCTIONS
from neurodeploy.frontends.torch.populations import CELL_READERS

SupportRow: TypeAlias = "tuple[str, str]"
"""Names as Markdown code, and what becomes of them."""


def torch_support_table() -> list[SupportRow]:
    """Rows for Norse's cells, torch's functions and tensor methods."""
    cells = {cell.__name__: reader for cell, reader in CELL_READERS.items()}
    hidden = OPERATORS | {name for name in SPIKE_FUNCTIONS if name.endswith("_with_indices")}  # users never type these names
    return [
        *(row for table in (cells, LINEAR_FUNCTIONS, SPIKE_FUNCTIONS) for row in support_rows(table, hidden)),
        (code_list(REARRANGEMENTS), "Rearranges elements: reorders, repeats, leaves out or concatenates them."),
        (code_list(IDENTITIES), "Passes through; dropout in eval mode."),
    ]


def nir_support_table() -> list[SupportRow]:
    """Rows for NIR's nodes."""
    return [*support_rows(LINEAR_READERS, {SUBGRAPH_END}), *support_rows(NEURON_READERS)]


def support_rows(table: Mapping[str, Callable[..., Any]], hidden: Container[str] = ()) -> list[SupportRow]:
    """Return one row for each reader of a dispatch table, without the names in `hidden`."""
    names: dict[Callable[..., Any], list[str]] = {}
    for name, reader in table.items():
        names.setdefault(reader, []).append(name)
    shown = {reader: [name for name in keys if name not in hidden] for reader, keys in names.items()}
    return [(code_list(keys), (getdoc(reader) or "").splitlines()[0]) for reader, keys in shown.items() if keys]


def code_list(names: Iterable[str]) -> str:
    """Return names as Markdown code, in alphabetical order."""
    return ", ".join(f"`{name}`" for name in sorted(names))
