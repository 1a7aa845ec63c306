"""On how few cores pieces fit when all of them are cut before the first is put anywhere.

What one layer leaves over of its cores, small pieces of any other fill, whichever of the two is laid first. The largest piece
chooses first, each the fullest core that still holds it (best fit decreasing, for several resources at once).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from neurodeploy.layout.filling import Filling
from neurodeploy.layout.schemes import Scheme, Strip, even_cuts
from neurodeploy.resources.regions import Region

Integers = NDArray[np.int64]


def cut(filling: Filling, block: tuple[int, ...], capacity: Integers) -> list[Region]:
    """A layer in even pieces of at most a block; where a core does not hold them, in as many more as it takes."""
    scheme = Scheme.of(filling.grid, block)
    waiting, found = [(strip, block[scheme.axis]) for strip in scheme.strips()], list[Region]()
    while waiting:
        strip, length = waiting.pop()
        pieces = _fitting(filling, strip, length, capacity)
        line = strip.between(strip.start, strip.start + 1)
        if pieces or line.n_neurons == 1:
            found += pieces or list(_lines(strip))
        else:  # not even a line fits a core: it is cut across
            axis = int(np.argmax(line.sides))
            waiting += [(Strip(each, axis), max(1, each.sides[axis] // 2)) for each in _lines(strip)]
    return found


def _fitting(filling: Filling, strip: Strip, length: int, capacity: Integers) -> list[Region]:
    """The strip in the fewest even pieces that cores hold; none if a line is too much."""
    side = strip.stop - strip.start
    parts = -(-side // length)
    while True:
        pieces = [strip.between(strip.start + a, strip.start + b) for a, b in even_cuts(side, -(-side // parts))]
        if all((filling.needs(piece) <= capacity).all() for piece in pieces):
            return pieces
        if parts == side:
            return []
        parts = min(side, -(-side // max(1, -(-side // parts) - 1)))


def _lines(strip: Strip) -> Iterator[Region]:
    return (strip.between(place, place + 1) for place in range(strip.start, strip.stop))


def packed(needs: Integers, capacity: Integers) -> Integers:
    """The core (n_pieces,) of each piece, numbered as they are begun; a piece that no core holds has one to itself.

    Parameters
    ----------
    needs : array (n_pieces, n_resources)
    capacity : array (n_resources,)
    """
    shares = needs / np.maximum(capacity, 1)
    left, cores = np.tile(capacity, (len(needs), 1)), np.zeros(len(needs), dtype=np.int64)
    n_cores = 0
    for piece in np.argsort(-shares.max(axis=1), kind="stable"):
        holds = np.flatnonzero((left[:n_cores] >= needs[piece]).all(axis=1))
        if holds.size:
            core = int(holds[(left[holds] / np.maximum(capacity, 1)).sum(axis=1).argmin()])
        else:
            core, n_cores = n_cores, n_cores + 1
        cores[piece], left[core] = core, left[core] - needs[piece]
    return cores
