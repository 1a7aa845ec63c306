"""Which neurons of a layer are meant: a box in its grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.graph import Population
from neurodeploy.wiring import ConvWiring


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """The neurons of a box: starts[axis]..stops[axis] - 1 along each axis of a layer's `grid`."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def run(cls, start: int, stop: int) -> Region:
        """Neurons start..stop-1 of a layer that is a row of them."""
        return cls((start,), (stop,))

    @classmethod
    def whole(cls, grid: tuple[int, ...]) -> Region:
        """All of a grid."""
        return cls((0,) * len(grid), grid)

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in zip(self.starts, self.stops, strict=True))

    @property
    def n_neurons(self) -> int:
        return math.prod(self.sides)

    @property
    def box(self) -> tuple[slice, ...]:
        """The region as an index into an array of the grid's shape."""
        return tuple(slice(start, stop) for start, stop in zip(self.starts, self.stops, strict=True))

    def neurons(self, grid: tuple[int, ...]) -> NDArray[np.int64]:
        """(n_neurons,): the neurons' numbers in the layer, ascending."""
        numbers: NDArray[np.int64] = np.arange(math.prod(grid)).reshape(grid)[self.box].reshape(-1)
        return numbers

    @property
    def words(self) -> str:
        """As a person says it: ``neurons 0..63``, ``channels 0..7, rows 0..15, columns 0..31``."""
        names = ("neurons",) if len(self.starts) == 1 else ("channels", "rows", "columns")
        return ", ".join(f"{name} {a}..{b - 1}" for name, a, b in zip(names, self.starts, self.stops, strict=True))

    def __str__(self) -> str:
        """As an index is written: ``[0:64]``, ``[0:8, 0:16, 0:32]``."""
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in zip(self.starts, self.stops, strict=True)) + "]"


def grid_of(layer: Population[Any, Any]) -> tuple[int, ...]:
    """The shape in which a layer is cut: channels, rows and columns where a convolution ends on it, else a row of neurons."""
    return layer.shape if any(isinstance(c.synapse, ConvWiring) for c in layer.connections) else (layer.n_neurons,)
