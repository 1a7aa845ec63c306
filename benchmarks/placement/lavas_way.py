"""How many cores Lava's own compiler would take: each layer alone, halved until every piece fits a core.

Each net object (a layer) first gets a core as if there were no limits; then the compiler "simply divides the net object assigned
to a core in half until the constraints per neurocore is satisfied" (OzU-CAST/LoihiScalingEfficiency, README, seen on Loihi 2).
The compiler itself is not public: along which axis it divides is assumed here, and so is whether all pieces are halved as long as
one does not fit or that one alone. No core holds pieces of two layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from neurodeploy.ir.graph import Population
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedNetwork

Region: TypeAlias = "tuple[tuple[int, int], ...]"
"""A box of a layer's neurons: (start, stop) on each axis of its shape."""

Fits: TypeAlias = Callable[[QuantizedLayer, Region], bool]
"""Whether a core can hold this box of the layer, and nothing else."""


def whole(layer: Population[Any, Any]) -> Region:
    """The box of all of a layer's neurons."""
    return tuple((0, side) for side in layer.shape)


def halves(region: Region) -> tuple[Region, Region]:
    """A box cut across its longest axis, the first of equals; the first half is the larger of an odd number.

    Raises
    ------
    ValueError
        The box is a single neuron.
    """
    axis = int(np.argmax([stop - start for start, stop in region]))
    start, stop = region[axis]
    if stop - start < 2:
        raise ValueError(f"the neuron at {[start for start, _ in region]} cannot be halved")
    middle = start + (stop - start + 1) // 2
    first, second = ((*region[:axis], cut, *region[axis + 1 :]) for cut in ((start, middle), (middle, stop)))
    return first, second


def pieces(layer: QuantizedLayer, fits: Fits, *, evenly: bool = False) -> list[Region]:
    """The boxes that a layer is halved into.

    Parameters
    ----------
    layer : QuantizedLayer
    fits : callable
    evenly : bool
        Halve all pieces as long as one of them does not fit, not that one alone: the reading that takes more cores.

    Raises
    ------
    ValueError
        A single neuron does not fit a core.
    """
    done: list[Region] = []
    waiting = [whole(layer)]
    while waiting:
        fitting = [fits(layer, region) for region in waiting]
        if all(fitting):
            return done + waiting
        if not evenly:
            done += [region for region, ok in zip(waiting, fitting, strict=True) if ok]
        waiting = [half for region, ok in zip(waiting, fitting, strict=True) if evenly or not ok for half in _cut(layer, region)]
    return done


def _cut(layer: QuantizedLayer, region: Region) -> tuple[Region, Region]:
    try:
        return halves(region)
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r}: {error}, and does not fit a core") from error


def cores(network: QuantizedNetwork, fits: Fits, *, evenly: bool = False) -> int:
    """Cores that the network takes in Lava's way; see `pieces`."""
    return sum(len(pieces(layer, fits, evenly=evenly)) for layer in network.layers)
