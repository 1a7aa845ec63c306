"""The chip from above, for a page: a cell a core, or a cell a chip where cores would be too many to tell apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodeploy.placement import Placement, Slice
from neurodeploy.plot.ground import Ground, ground_of
from neurodeploy.plot.style import colours_of, shades

MOST_CORES = 4_096
"""Cores that are drawn one by one: 32 chips of Loihi."""
_CELL, _MARGIN = 18, 16
_THINNEST = 0.08
"""Share of a cell that a stripe has at least, so that it is seen."""
_NAMED = 6
"""So many slices of a cell are told by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A core, or a chip, on the map: where it is drawn, in stripes of which colours, and what is told of it."""

    x: int
    y: int
    name: str
    stripes: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipMap:
    """What the page draws, and what it tells about each cell (`facts`, as JSON)."""

    width: int
    height: int
    of_chips: bool
    cells: tuple[Cell, ...]
    frames: tuple[tuple[int, int, int, int, str], ...]
    legend: tuple[tuple[str, str], ...]
    facts: dict[str, Any]


def chip_map(placement: Placement) -> ChipMap:
    """The cells of a placement, used ones and those beside them on the same chips."""
    ground, names = ground_of(placement), list(placement.n_pairs)
    colours = dict(zip(names, colours_of(len(names)), strict=True))
    of_chips = len(ground.cores) > MOST_CORES
    here, stands = (_by_chip if of_chips else _by_core)(placement, ground)
    parts: dict[int, list[Slice]] = {}
    for part in placement.slices:
        parts.setdefault(stands[part.core], []).append(part)
    cells = tuple(
        Cell(x=x, y=y, name=name, stripes=_stripes(parts.get(number, []), colours)) for number, (x, y, name) in here.items()
    )
    frames = () if of_chips else tuple(
        (box.x * _CELL, box.y * _CELL + _MARGIN, ground.columns * _CELL, ground.rows * _CELL, f"chip {box.chip}")
        for box in ground.chips
    )  # fmt: skip
    return ChipMap(
        width=max([cell.x + _CELL for cell in cells] + [x + wide for x, _, wide, _, _ in frames]),
        height=max([cell.y + _CELL for cell in cells] + [y + high for _, y, _, high, _ in frames]), of_chips=of_chips,
        cells=cells, frames=frames, legend=tuple(colours.items()), facts=_facts(placement, list(here), parts, stands),
    )  # fmt: skip


def _by_core(placement: Placement, ground: Ground) -> tuple[dict[int, tuple[int, int, str]], dict[int, int]]:
    places = zip(ground.cores.tolist(), ground.x.tolist(), ground.y.tolist(), strict=True)
    many = placement.profile["chips"].number > 1
    here = {
        core: (x * _CELL, y * _CELL + _MARGIN, f"core {core:,}" + (f" on chip {placement.chip_of(core):,}" if many else ""))
        for core, x, y in sorted(places, key=lambda place: (place[2], place[1]))
    }
    return here, {core: core for core in placement.cores}


def _by_chip(placement: Placement, ground: Ground) -> tuple[dict[int, tuple[int, int, str]], dict[int, int]]:
    columns, rows = sorted({box.x for box in ground.chips}), sorted({box.y for box in ground.chips})
    here = {
        box.chip: (columns.index(box.x) * _CELL, rows.index(box.y) * _CELL + _MARGIN, f"chip {box.chip:,}")
        for box in sorted(ground.chips, key=lambda box: (box.y, box.x))
    }
    return here, {core: placement.chip_of(core) for core in placement.cores}


def _stripes(parts: list[Slice], colours: dict[str, str]) -> tuple[tuple[str, float, float], ...]:
    """A colour with where it begins and how wide it is, for each layer in a cell, by its share of the neurons there."""
    if not parts:
        return (("", 0.0, float(_CELL)),)
    neurons = Counter[str]()
    for part in parts:
        neurons[part.layer] += part.usage.neurons
    shares = {name: max(n / sum(neurons.values()), _THINNEST) for name, n in neurons.most_common()}
    start, stripes = 0.0, []
    for name, share in shares.items():
        wide = _CELL * share / sum(shares.values())
        stripes.append((colours[name], round(start, 2), round(wide, 2)))
        start += wide
    return tuple(stripes)


def _facts(placement: Placement, here: list[int], parts: dict[int, list[Slice]], stands: dict[int, int]) -> dict[str, Any]:
    """What the page's script knows: for each cell its shares of every resource, and lines to be told on hover."""
    shares, rows = placement.utilizations(), dict[int, list[int]]()
    for row, core in enumerate(placement.cores):
        rows.setdefault(stands[core], []).append(row)
    cells = []
    for number in here:
        mine = shares[rows[number]] if number in rows else np.zeros((0, len(placement.resources)))
        cells.append({
            "share": [round(float(value), 4) for value in mine.mean(axis=0)] if len(mine) else None,
            "told": _told(placement, mine, parts.get(number, [])),
        })  # fmt: skip
    return {"resources": list(placement.resources), "scale": list(shades(9)), "cells": cells}


def _told(placement: Placement, mine: np.ndarray[Any, np.dtype[np.float64]], parts: list[Slice]) -> list[str]:
    if not parts:
        return ["not used"]
    said = [f"{part.name}, {part.usage.neurons:,} neurons" for part in parts[:_NAMED]]
    if len(parts) > _NAMED:
        said.append(f"and {len(parts) - _NAMED:,} slices more")
    if len(mine) > 1:
        said.append(f"{len(mine):,} cores used; on average")
    exact = placement.on_core(parts[0].core) if len(mine) == 1 else {}
    for resource, share in zip(placement.resources, mine.mean(axis=0).tolist(), strict=True):
        limit = placement.profile.capacity(resource, parts[0].core)
        count = f" ({exact[resource]:,} of {limit:,})" if exact else ""
        said.append(f"{resource.replace('_', ' ')}: {share:.1%}{count}")
    return said
