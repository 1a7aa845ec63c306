"""Boards and flows small enough to be worked on paper."""

from __future__ import annotations

import numpy as np

from neurodeploy.mapping.traffic import Flow, Mesh


def board(chips: int = 1, chip_mesh: tuple[int, ...] = (1,), tiles: tuple[int, ...] = (4, 2), per_tile: int = 2) -> Mesh:
    """By default one chip of 4 x 2 tiles of two cores."""
    cores = per_tile * (tiles[0] * tiles[1] if tiles else 8)
    return Mesh(
        chips=chips, chip_mesh=chip_mesh, cores_per_chip=cores, cores_per_tile=per_tile, tile_mesh=tiles, chip_hop_cost=10.0
    )


def flow_of(*edges: tuple[int, int, float]) -> Flow:
    columns = np.array(edges, np.float64).reshape(-1, 3)
    return Flow(source=columns[:, 0].astype(np.int64), target=columns[:, 1].astype(np.int64), spikes=columns[:, 2])
