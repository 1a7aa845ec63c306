"""In how few lists the synapses of a sparse layer can be, whatever runs of neurons it is cut into.

The synapses that a source has on one slice share a list, an axon and the output axon that leads there. How many can share is
known from the runs that a core could hold: from each neuron on, up to where a core is full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurodeploy.hardware import UNLIMITED, HardwareProfile
from neurodeploy.resources.encodings import Formula
from neurodeploy.wiring import SparseWiring

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_PASSES = 2
"""The output axons that one pass finds leave less room for the runs of the next."""


def least_lists(wiring: SparseWiring, formula: Formula, profile: HardwareProfile, *, is_recurrent: bool) -> tuple[float, float]:
    """Memory of lists and entries, and axons, that the synapses take at least on all cores together.

    Parameters
    ----------
    is_recurrent : bool
        The layer hears itself by this wiring, so that its output axons take of the same cores.
    """
    exists = wiring.weight != 0
    fan_in = np.concatenate([[0], np.cumsum(exists)])[wiring.starts]
    sources = wiring.sources[exists].astype(np.int64)
    targets = np.repeat(np.arange(wiring.n_out), np.diff(fan_in))
    order = np.argsort(sources, kind="stable")
    lists = formula.lists(np.arange(int(np.bincount(sources, minlength=1).max(initial=0)) + 2)) + formula.entry
    lists[0] = 0
    each = np.minimum.accumulate(lists[1:] / np.arange(1, lists.size))  # memory of a synapse where at most n share a list
    sent, memory, axons = np.zeros(wiring.n_out), 0.0, 0.0
    for _ in range(_PASSES if is_recurrent else 1):
        ends = _ends(fan_in, sources, lists, sent, profile)
        share = _sharing(sources[order], targets[order], ends, wiring.n_out)
        memory, axons = float(each[share - 1].sum()), float((1 / share).sum())
        if is_recurrent:
            sent = np.bincount(sources[order], weights=1 / share, minlength=wiring.n_out).astype(np.float64)
    return memory, axons


def _ends(starts: Integers, sources: Integers, lists: Integers, sent: Floats, profile: HardwareProfile) -> Integers:
    """(n_out,): where the longest run ends that begins at each neuron and that a core could hold."""
    n_out = starts.size - 1
    each = profile.number("neuron_state_bits", 0) + sent * profile.number("output_axon_bits", 0)
    room = min(profile.capacity("memory_bits"), UNLIMITED)
    room_lists, most = profile.capacity("synapse_memory_bits"), profile.capacity("neurons")
    room_axons, room_sent = profile.capacity("input_axons"), profile.capacity("output_axons")
    grows = np.diff(lists)
    held = np.zeros(int(sources.max(initial=0)) + 1, dtype=np.int64)
    beside, out = np.concatenate([[0.0], np.cumsum(each)]), np.concatenate([[0.0], np.cumsum(sent)])
    ends, bits, axons, first = np.zeros(n_out, dtype=np.int64), 0, 0, 0
    for last in range(n_out):
        heard = sources[starts[last] : starts[last + 1]]
        now = held[heard]
        bits, axons = bits + int(grows[now].sum()), axons + int(np.count_nonzero(now == 0))
        held[heard] = now + 1
        while first < last and (
            bits > room_lists or bits + beside[last + 1] - beside[first] > room or axons > room_axons
            or last + 1 - first > most or out[last + 1] - out[first] > room_sent
        ):  # fmt: skip
            ends[first] = last
            heard = sources[starts[first] : starts[first + 1]]
            now = held[heard] - 1
            bits, axons = bits - int(grows[now].sum()), axons - int(np.count_nonzero(now == 0))
            held[heard] = now
            first += 1
    ends[first:] = n_out
    return ends


def _sharing(sources: Integers, targets: Integers, ends: Integers, n_out: int) -> Integers:
    """(n_synapses,): how many synapses of its source at most are in a run with each; by source, then by target."""
    keys = sources * n_out + targets
    stop = np.searchsorted(keys, sources * n_out + ends[targets])
    place = np.arange(keys.size)
    here = stop - place  # in the run that begins at each
    first = np.searchsorted(stop, place, side="right")  # of the runs that still hold it, the one that begins first
    level = np.frexp((place - first + 1).astype(np.float64))[1] - 1
    share, most = np.zeros_like(here), here.copy()
    highest = int(level.max(initial=0))
    for n in range(highest + 1):  # `most`: the largest of 2**n from each on
        these = np.flatnonzero(level == n)
        share[these] = np.maximum(most[first[these]], most[place[these] - (1 << n) + 1])
        if n < highest:
            most = np.maximum(most[: most.size - (1 << n)], most[1 << n :])
    return share
