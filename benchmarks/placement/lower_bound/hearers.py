"""By how many slices a neuron is heard at least, and what these cost: bounds on both, for every place in a layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.placement.lower_bound.possible import Possible
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, Wiring

Weights: TypeAlias = "tuple[float, ...]"


def image_of(grid: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a layer; a row of neurons is an image of one row."""
    return (grid[1], grid[2]) if len(grid) == 3 else (1, grid[0])


def is_known(wiring: Wiring, slices: Possible, image: tuple[int, int]) -> bool:
    """Whether anything is known of which slices hear a neuron."""
    is_image = isinstance(wiring, ConvWiring) and wiring.input_shape[1:] == image
    return slices.are_all and (is_image or isinstance(wiring, DenseWiring))


def fewest_hearers(image: tuple[int, int], hearers: Iterable[tuple[Wiring, Possible]]) -> Floats:
    """(rows, columns): slices that hear a neuron there at least, as none could hold more of what it reaches.

    Parameters
    ----------
    hearers : iterable of (wiring, Possible)
        One for each connection that the layer is heard by.
    """
    fewest = np.zeros(image)
    for wiring, slices in hearers:
        if not is_known(wiring, slices, image):
            continue
        for (r, q), where in _places(wiring, image):
            fewest[where] += np.ceil(_hearers(wiring, slices, r, q, is_counted=True).min(initial=np.inf) - 1e-9)
    return fewest


def least_windows(values: Floats) -> Floats:
    """(..., rows + 1, columns + 1): the least sum of values (..., rows, columns) in any window of so many rows and columns."""
    *front, height, width = values.shape
    least = np.zeros((*front, height + 1, width + 1))
    running = np.concatenate([np.zeros((*front, 1, width)), values.cumsum(axis=-2)], axis=-2)
    for y in range(1, height + 1):
        rows = running[..., y:, :] - running[..., :-y, :]
        flat = np.unique(rows.reshape(-1, *rows.shape[-2:]).round(15), axis=1) if len(front) < 2 and height > 32 else rows
        rows = flat.reshape(*front, -1, width)
        across = np.concatenate([np.zeros((*rows.shape[:-1], 1)), rows.cumsum(axis=-1)], axis=-1)
        for x in range(1, width + 1):
            least[..., y, x] = (across[..., x:] - across[..., :-x]).min(axis=(-2, -1))
    return least


def least_cost(
    image: tuple[int, int], wiring: Wiring, slices: Possible, cost: Floats, prices: Floats, part_of: tuple[Floats, Floats]
) -> Floats:
    """(n_prices, rows, columns): what the slices that hear a neuron cost at least, its part of it, at prices of being heard.

    The cost of an output neuron is parted evenly among its synapses. So each source neuron pays for a known number
    of outputs, whatever slices they are in; it has them cheapest, or in few slices: a price on each of these weighs one
    against the other.

    Parameters
    ----------
    cost : array (n_slices,)
        Of what the slice covers, by its layer's measure.
    part_of : two arrays (output rows,) and (output columns,)
        What an output row and an output column count in that measure.
    """
    least = np.zeros((len(prices), *image))
    for (r, q), where in _places(wiring, image, part_of):
        pays = _share(wiring) * sum(r) * sum(q)
        heard = _hearers(wiring, slices, r, q, is_counted=False)
        corner = _cheapest(pays * cost, heard)
        least[:, where] = (corner[0] + prices[:, None] * corner[1]).min(axis=1)[:, None]
    return least


def _cheapest(cost: Floats, heard: Floats) -> NDArray[np.float64]:
    """(2, n): the pairs of which none is dearer and heard more often than another."""
    order = np.lexsort((cost, heard))
    lowest = np.minimum.accumulate(cost[order])
    first = np.concatenate([[True], lowest[1:] < lowest[:-1]])
    return np.stack([cost[order][first], heard[order][first]])


def _share(wiring: Wiring) -> float:
    """Outputs a source neuron that a row and a column of synapses stand for."""
    if isinstance(wiring, ConvWiring):
        return wiring.weight.shape[0] / wiring.groups / wiring.weight.shape[1]
    return wiring.n_out / wiring.n_in


def _places(
    wiring: Wiring, image: tuple[int, int], part_of: tuple[Floats, Floats] | None = None
) -> list[tuple[tuple[Weights, Weights], NDArray[np.bool_]]]:
    """Alike neurons: what part of each output row and column they pay for, and where they are (rows, columns)."""
    if not isinstance(wiring, ConvWiring):
        return [(((1.0,), (1.0,)), np.ones(image, dtype=np.bool_))]
    rows, columns = (_paid(wiring, axis, None if part_of is None else part_of[axis]) for axis in (0, 1))
    found = []
    for r in sorted({*rows} - {()}):
        for q in sorted({*columns} - {()}):
            where = np.outer([row == r for row in rows], [column == q for column in columns])
            found.append(((r, q), where))
    return found


def _paid(wiring: ConvWiring, axis: int, part_of: Floats | None) -> list[Weights]:
    """For each input row (0) or column (1): of the outputs that it reaches, its part of each, the largest first."""
    sees, inside = wiring.input_positions(axis), wiring.is_inside_input(axis)
    paid: list[list[float]] = [[] for _ in range(wiring.input_shape[1 + axis])]
    for output, place in np.argwhere(inside):
        paid[int(sees[output, place])].append(float((1.0 if part_of is None else part_of[output]) / inside[output].sum()))
    return [tuple(sorted((round(part, 12) for part in parts), reverse=True)) for parts in paid]


def _hearers(wiring: Wiring, slices: Possible, r: Weights, q: Weights, *, is_counted: bool) -> Floats:
    """(n_slices,): by how many slices of each kind a neuron is heard at least, if by no others.

    `is_counted`: outputs are counted as they are, not by the part of them that the neuron pays for.
    """
    if not isinstance(wiring, ConvWiring):
        return wiring.n_out / slices.neurons
    per_group = wiring.weight.shape[0] // wiring.groups
    parts = [np.ones(len(side)) if is_counted else np.array(side) for side in (r, q)]
    rows, columns = (np.concatenate([[0.0], np.cumsum(part)]) for part in parts)
    c, y, x = slices.sides.T
    held = np.minimum(c, per_group) * rows[np.minimum(y, len(r))] * columns[np.minimum(x, len(q))]
    whole = per_group * rows[-1] * columns[-1]
    hearers: Floats = whole / held
    return hearers
