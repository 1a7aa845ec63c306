"""Who works on what: threads take parts of a batch or, where there are fewer samples than threads, share a sample."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.graph import Graph
from neurodeploy.simulation.clock import Synapses

NEURONS_A_THREAD = 1 << 12
"""A thread is worth starting for so many neurons, those of all samples together."""
STATES_AT_ONCE = 1 << 17
"""Neurons of a layer that are worked on together, samples times neurons: what is held of them stays in a core's cache."""
SHARED_STATES = 1 << 16
"""Threads share the neurons of a layer, where these are so many, times samples and steps."""
SHARED_PAIRS = 1 << 23
"""They share rows of spikes, where these times the pairs of neurons are so many: below, waking a thread takes longer."""


def useful_threads(n_neurons: int) -> int:
    """As many as there are cores, where there is work for them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, max(1, n_neurons // NEURONS_A_THREAD))


def sizes_of_parts(n_samples: int, network: Graph[Any], threads: int) -> list[int]:
    """Samples in each part of the batch: parts small enough for a cache, and as many for one thread as for another."""
    largest = max(layer.n_neurons for layer in network)
    rounds = -(-n_samples * largest // (STATES_AT_ONCE * threads))
    parts = min(n_samples, rounds * threads)
    return [n_samples // parts + (k < n_samples % parts) for k in range(parts)]


class Team:
    """Threads that share a piece of work, range by range; a team of one works alone."""

    def __init__(self, size: int) -> None:
        self.size, self._others = size, ThreadPoolExecutor(size - 1) if size > 1 else None

    def share(self, work: Callable[[int, int], Any], n: int, *, worth_it: bool) -> list[Any]:
        """What `work(first, last)` gives for ranges that together are 0..n - 1; one, where waking others is not worth it."""
        size = min(self.size, n)
        if self._others is None or size < 2 or not worth_it:
            return [work(0, n)]
        ends = [n * k // size for k in range(size + 1)]
        tasks = [self._others.submit(work, ends[k], ends[k + 1]) for k in range(1, size)]
        return [work(0, ends[1]), *(task.result() for task in tasks)]


class SharedSynapses:
    """Synapses that a team passes spikes through, each of its threads some of the rows."""

    def __init__(self, synapses: Synapses, n_pairs: int, team: Team) -> None:
        self.synapses, self.n_pairs, self.team = synapses, n_pairs, team

    def add(self, spikes: NDArray[Any], arriving: NDArray[np.int32]) -> None:
        """Add what spikes (rows, n_in or more) weigh to what arrives (rows, n_out)."""

        def some(first: int, last: int) -> None:
            self.synapses.add(spikes[first:last], arriving[first:last])

        self.team.share(some, len(spikes), worth_it=len(spikes) * self.n_pairs >= SHARED_PAIRS)
