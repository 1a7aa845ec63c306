"""Who talks to whom, and how far spikes travel.

A `Flow` is what was measured or assumed, from core to core; `Talk` is the same as neighbour lists, both directions in one,
because a spike pays as much on the way there as on the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from neurodeploy.board.mesh import Floats, Integers, Mesh
from neurodeploy.errors import RequestError
from neurodeploy.nouns import ByValue, freeze


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flow(ByValue):
    """Who talks to whom: sparse traffic between logical cores.

    Parameters
    ----------
    source, target : NDArray[np.int64]
        Logical cores (n_edges,), from 0. A pair may stand twice; a core that talks to itself costs nothing.
    spikes : NDArray[np.float64]
        Spikes a step from source to target (n_edges,), >= 0.
    """

    source: Integers
    target: Integers
    spikes: Floats

    def __post_init__(self) -> None:
        source, target, spikes = (
            freeze(self, "source", np.int64),
            freeze(self, "target", np.int64),
            freeze(self, "spikes", np.float64),
        )
        if not source.ndim == target.ndim == spikes.ndim == 1 or not source.size == target.size == spikes.size:
            raise RequestError(
                "Flow", f"{source.shape}, {target.shape} and {spikes.shape} are not one number each for every edge"
            )
        if source.size and min(source.min(), target.min()) < 0:
            raise RequestError("Flow", f"core {min(source.min(), target.min())} is not a core")
        if source.size and spikes.min() < 0:
            raise RequestError("Flow.spikes", f"{spikes.min()} is less than none")


def spike_hops(flow: Flow, position: Integers, mesh: Mesh) -> float:
    """Spikes x hops a step of logical cores that stand on physical cores `position`, chip crossings at their price."""
    return float(flow.spikes @ mesh.cost(position[flow.source], position[flow.target]))


class Talk(NamedTuple):
    """Neighbour lists: that of core i is ``core[first[i]:first[i + 1]]``, with `spikes` to each; `owner` repeats i along it."""

    first: Integers
    core: Integers
    spikes: Floats
    owner: Integers

    @property
    def n_cores(self) -> int:
        return self.first.size - 1

    def between(self, a: Integers, b: Integers) -> Floats:
        """Spikes a step between cores `a` and cores `b`, one by one, both directions together."""
        keys, wanted = self.owner * self.n_cores + self.core, a * self.n_cores + b
        found = np.minimum(np.searchsorted(keys, wanted), max(keys.size - 1, 0))
        return np.where(keys[found] == wanted, self.spikes[found], 0.0) if keys.size else np.zeros(wanted.shape)


class Crowd(NamedTuple):
    """Some cores and their neighbour lists, one after another: `core` and `spikes` with `row`, the owner's place in `members`."""

    members: Integers
    core: Integers
    spikes: Floats
    row: Integers


def talk_of(flow: Flow, n_cores: int) -> Talk:
    """Neighbour lists of a flow; what a core says to itself is left out, for it travels nowhere."""
    other = (flow.source != flow.target) & (flow.spikes > 0)
    source, target, spikes = flow.source[other], flow.target[other], flow.spikes[other]
    ends = (np.concatenate([source, target]), np.concatenate([target, source]))
    both = csr_array((np.concatenate([spikes, spikes]), ends), shape=(n_cores, n_cores))
    both.sum_duplicates()
    first = both.indptr.astype(np.int64)
    return Talk(first, both.indices.astype(np.int64), both.data, np.repeat(np.arange(n_cores), np.diff(first)))


def crowd(talk: Talk, members: Integers) -> Crowd:
    """Neighbour lists of `members` alone."""
    lengths = talk.first[members + 1] - talk.first[members]
    ends = np.cumsum(lengths)
    edges = np.arange(lengths.sum()) + np.repeat(talk.first[members] - ends + lengths, lengths)
    return Crowd(members, talk.core[edges], talk.spikes[edges], np.repeat(np.arange(members.size), lengths))


def travel(talk: Talk, points: Floats) -> float:
    """Spikes x hops a step when core i stands at ``points[i]``."""
    return sum(
        float(talk.spikes @ np.abs(points[talk.owner, axis] - points[talk.core, axis])) for axis in range(points.shape[1])
    ) / 2  # fmt: skip


def strangers(talk: Talk, rng: np.random.Generator) -> Iterator[Integers]:
    """Sets of cores of which no two talk to each other, without end; who has been in few sets so far comes first.

    Each set is drawn in rounds of Luby (1986): whoever ranks above all neighbours is in, and its neighbours are out.
    """
    some = np.flatnonzero(np.diff(talk.first))
    starts = talk.first[some]
    turns = np.zeros(talk.n_cores)
    while True:
        rank = rng.random(talk.n_cores) - turns
        chosen, undecided = np.zeros(talk.n_cores, bool), np.ones(talk.n_cores, bool)
        for _ in range(4):
            rank[~undecided] = -np.inf
            above = undecided.copy()
            if some.size:
                above[some] &= rank[some] > np.maximum.reduceat(rank[talk.core], starts)
            chosen |= above
            undecided &= ~above
            if some.size:
                undecided[some] &= ~np.logical_or.reduceat(above[talk.core], starts)
        turns[chosen] += 1
        yield np.flatnonzero(chosen)
