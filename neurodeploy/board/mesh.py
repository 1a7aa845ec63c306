"""Where the cores of a board stand, and what a spike pays from one to another.

Every distance here is a Manhattan distance between points: a core's point holds its column and row on the board and the chips
crossed on the way there, each crossing worth `chip_hop_cost` hops. What lays cores out needs these points and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import RequestError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Position(NamedTuple):
    """Where cores stand: the chip, the tile's column and row on it, the chip's column, row and storey on the board."""

    chip: Integers
    tile_x: Integers
    tile_y: Integers
    chip_x: Integers
    chip_y: Integers
    chip_z: Integers


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """Where the cores of a board stand.

    Cores count from 0, chip after chip; on a chip tile after tile, row by row from the north-west; chips on the board likewise,
    column fastest, then row, then storey. Cores of one tile are no hop apart. Tiles of one chip are their Manhattan distance
    apart. Chips stand edge to edge: their tile meshes adjoin east-west and north-south, and a spike that crosses from one
    to the next pays `chip_hop_cost` on top of the hop. A storey up or down pays `chip_hop_cost` alone: it leads to the same tile.
    A chip with a crossbar instead of a mesh is one tile, only that two of its cores are one hop apart, and so are
    cores of two chips, beside the chips crossed.

    This is a model of distance, not of the router: no congestion, no detour by way of the few links at a chip's edge.

    Parameters
    ----------
    chips : int
        Chips on the board, >= 1.
    chip_mesh : tuple of int
        Places for chips along x, y and z, one to three numbers whose product is `chips` or more; the last places may be empty.
    cores_per_chip, cores_per_tile : int
        Cores on a chip and on a tile, >= 1.
    tile_mesh : tuple of int
        Tiles of a chip along x (columns) and y (rows); the last ones may be empty. ``()`` for a crossbar.
    chip_hop_cost : float
        What it costs to cross from chip to chip, in hops within a chip, >= 0. The default, the width of a Loihi chip, is
        an assumption: makers do not publish the figure.
    """

    chips: int
    chip_mesh: tuple[int, ...]
    cores_per_chip: int
    cores_per_tile: int
    tile_mesh: tuple[int, ...]
    chip_hop_cost: float = 8.0

    def __post_init__(self) -> None:
        for name in ("chips", "cores_per_chip", "cores_per_tile"):
            if getattr(self, name) < 1:
                raise RequestError(f"Mesh.{name}", f"{getattr(self, name)} is not 1 or more")
        if not 1 <= len(self.chip_mesh) <= 3 or min(self.chip_mesh) < 1:
            raise RequestError("Mesh.chip_mesh", f"{self.chip_mesh} is not one to three numbers of 1 or more")
        if self.chips > prod(self.chip_mesh):
            raise RequestError("Mesh.chip_mesh", "chips", need=self.chips, limit=prod(self.chip_mesh))
        if self.tile_mesh and (len(self.tile_mesh) != 2 or min(self.tile_mesh) < 1):
            raise RequestError("Mesh.tile_mesh", f"{self.tile_mesh} is neither () nor two numbers of 1 or more")
        tiles = -(-self.cores_per_chip // self.cores_per_tile)
        if self.tile_mesh and tiles > prod(self.tile_mesh):
            raise RequestError("Mesh.tile_mesh", "tiles", need=tiles, limit=prod(self.tile_mesh))
        if not 0 <= self.chip_hop_cost < float("inf"):
            raise RequestError("Mesh.chip_hop_cost", f"{self.chip_hop_cost} is not a number of hops")

    @property
    def n_cores(self) -> int:
        return self.chips * self.cores_per_chip

    @property
    def columns_and_rows(self) -> tuple[int, int]:
        """Tiles of one chip along x and y; a crossbar is one tile."""
        return (self.tile_mesh[0], self.tile_mesh[1]) if self.tile_mesh else (1, 1)

    def position(self, core: Integers) -> Position:
        """Chip, tile and the chip's place of each core; any shape."""
        chip, on_chip = np.divmod(np.asarray(core, np.int64), self.cores_per_chip)
        tile = on_chip // self.cores_per_tile if self.tile_mesh else np.zeros_like(on_chip)
        tile_y, tile_x = np.divmod(tile, self.columns_and_rows[0])
        along_x, along_y = (*self.chip_mesh, 1)[:2]
        return Position(chip, tile_x, tile_y, chip % along_x, chip // along_x % along_y, chip // (along_x * along_y))

    def hops(self, a: Integers, b: Integers) -> tuple[Integers, Integers, Integers]:
        """Hops from cores `a` to cores `b`: east-west, north-south, from chip to chip. A crossbar's hop is told as east-west."""
        here, there = self.position(a), self.position(b)
        columns, rows = self.columns_and_rows
        between_x, between_y = here.chip_x - there.chip_x, here.chip_y - there.chip_y
        east_west = np.abs(between_x * columns + here.tile_x - there.tile_x)
        north_south = np.abs(between_y * rows + here.tile_y - there.tile_y)
        if not self.tile_mesh:
            east_west = (np.asarray(a) != np.asarray(b)).astype(np.int64)
            north_south = np.zeros_like(east_west)
        return east_west, north_south, np.abs(between_x) + np.abs(between_y) + np.abs(here.chip_z - there.chip_z)

    def cost(self, a: Integers, b: Integers) -> Floats:
        """Hops from cores `a` to cores `b`, those from chip to chip at their price."""
        east_west, north_south, between_chips = self.hops(a, b)
        total: Floats = east_west + north_south + self.chip_hop_cost * between_chips
        return total

    def points(self, core: Integers) -> Floats:
        """Points whose Manhattan distances are the costs (n_cores, 3), but for a crossbar's hop, which all pairs pay alike."""
        at = self.position(core)
        columns, rows = self.columns_and_rows if self.tile_mesh else (0, 0)
        price = self.chip_hop_cost
        return np.stack(
            [at.chip_x * (columns + price) + at.tile_x, at.chip_y * (rows + price) + at.tile_y, at.chip_z * price], axis=-1
        )
