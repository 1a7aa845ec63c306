"""Where cores are drawn: a cell each, tile by tile, chip by chip, as they stand on the board."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurodeploy.board.journeys import mesh_of
from neurodeploy.board.mesh import Mesh
from neurodeploy.hardware import HardwareProfile
from neurodeploy.placement import Placement

Integers = NDArray[np.int64]
_GAP = 1
"""Cells between chips; storeys stand two gaps apart, side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipBox:
    """A chip's cells: `columns` x `rows` of them, the north-western at (x, y)."""

    chip: int
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """The cells of a board, or of the part of it that is used.

    Attributes
    ----------
    cores, x, y : array (n_cores,), int64
        Every core of every chip drawn, and its cell: column from the west, row from the north.
    chips : tuple of ChipBox
    columns, rows : int
        Cells of a chip.
    """

    cores: Integers
    x: Integers
    y: Integers
    chips: tuple[ChipBox, ...]
    columns: int
    rows: int

    @property
    def size(self) -> tuple[int, int]:
        """Cells from west to east, and from north to south."""
        return max(box.x for box in self.chips) + self.columns, max(box.y for box in self.chips) + self.rows


def ground_of(placement: Placement) -> Ground:
    """The cells of the chips that a placement uses, and of those between them."""
    profile = placement.profile
    mesh, per_chip = mesh_of(profile), profile["cores_per_chip"].number
    used = mesh.position(np.unique(np.array(placement.cores, np.int64) // per_chip) * per_chip)
    everywhere = mesh.position(np.arange(mesh.chips) * per_chip)
    inside = np.ones(mesh.chips, dtype=bool)
    for here, all_of_them in zip(used[3:], everywhere[3:], strict=True):
        inside &= (all_of_them >= here.min()) & (all_of_them <= here.max())
    on_tile, columns, rows = _chip_cells(mesh, profile)
    west, north = int(used.chip_x.min()), int(used.chip_y.min())
    storey = (int(used.chip_x.max()) - west + 1) * (columns + _GAP) + _GAP
    chips = tuple(
        ChipBox(
            chip=chip,
            x=(z - int(used.chip_z.min())) * storey + (x - west) * (columns + _GAP),
            y=(y - north) * (rows + _GAP),
        )
        for chip, x, y, z in np.stack([everywhere.chip, *everywhere[3:]])[:, inside].T.tolist()
    )
    on_chip = np.arange(per_chip)
    at = mesh.position(on_chip)
    within = on_chip % on_tile[2]
    x = at.tile_x * on_tile[0] + within % on_tile[0]
    y = at.tile_y * on_tile[1] + within // on_tile[0]
    return Ground(
        cores=np.concatenate([box.chip * per_chip + on_chip for box in chips]),
        x=np.concatenate([box.x + x for box in chips]),
        y=np.concatenate([box.y + y for box in chips]),
        chips=chips, columns=columns, rows=rows,
    )  # fmt: skip


def _chip_cells(mesh: Mesh, profile: HardwareProfile) -> tuple[tuple[int, int, int], int, int]:
    """Cells of a tile (columns, rows, cores in them), and of a chip; a crossbar is drawn as one tile, as square as can be."""
    on_tile = mesh.cores_per_tile if mesh.tile_mesh else profile["cores_per_chip"].number
    wide = math.ceil(math.sqrt(on_tile))
    high = math.ceil(on_tile / wide)
    columns, rows = mesh.columns_and_rows
    return (wide, high, on_tile), columns * wide, rows * high


def main_layer(placement: Placement) -> dict[int, str]:
    """The layer with most neurons on each used core."""
    neurons: dict[int, dict[str, int]] = {}
    for part in placement.slices:
        on_core = neurons.setdefault(part.core, {})
        on_core[part.layer] = on_core.get(part.layer, 0) + part.usage.neurons
    return {core: max(layers, key=lambda name: layers[name]) for core, layers in neurons.items()}
