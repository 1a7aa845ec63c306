"""In how few lists the synapses of a sparse layer can be, whatever runs of neurons it is cut into.

The synapses that a source has on one slice share a list, an axon and the output axon that leads there. Which runs a core could
hold is known: from each neuron on, up to where a core is full. Of the ways to part the layer into such runs the cheapest is found
(a shortest path); and a source is heard by no fewer slices than it takes such runs to hold all its targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurodeploy.hardware.profile import UNLIMITED, HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.connectivity import SparseWiring
from neurodeploy.resources.usage import Formula

_PASSES = 2
"""The output axons that one pass finds leave less room for the runs of the next."""


def least_lists(wiring: SparseWiring, formula: Formula, profile: HardwareProfile, *, is_recurrent: bool) -> tuple[float, float]:
    """Memory of lists and entries, and axons, that the synapses take at least on all cores together.

    Where axons share a core's memory, the two are least together: the memory may be less where there are more axons.

    Parameters
    ----------
    is_recurrent : bool
        The layer hears itself by this wiring, so that its output axons take of the same cores.
    """
    synapses = _Synapses.of(wiring, formula, profile)
    sent, memory, axons = np.zeros(wiring.n_out), 0.0, 0.0
    beside = profile.number("output_axon_bits", 0) if profile.capacity("memory_bits") < UNLIMITED else 0
    for _ in range(_PASSES if is_recurrent else 1):
        ends = _ends(synapses, sent, profile)
        hearers = _hearers(synapses, ends)
        axons = float(hearers.sum())
        memory = max(_cheapest(synapses, ends, beside) - beside * axons, 0.0)
        if is_recurrent:
            sent = hearers
    return memory, axons


@dataclass(frozen=True, slots=True, kw_only=True)
class _Synapses:
    """Those there are, by target; and how they are stored.

    Attributes
    ----------
    starts : array (n_out + 1,)
        Where each target's begin.
    sources : array (n_synapses,)
    order : array (n_synapses,)
        By source, then by target.
    targets, first : array (n_synapses,) and (n_in + 1,)
        The targets in that order, and where each source's begin.
    lists, dense : array (most + 1,) and (n_out + 1,)
        Memory of a list of so many synapses with its entry: by their indices, or with a weight for each neuron of a run.
    """

    starts: Integers
    sources: Integers
    order: Integers
    targets: Integers
    first: Integers
    lists: Integers
    dense: Integers

    @classmethod
    def of(cls, wiring: SparseWiring, formula: Formula, profile: HardwareProfile) -> _Synapses:
        exists = wiring.weight != 0
        starts = np.concatenate([[0], np.cumsum(exists)])[wiring.starts]
        sources = wiring.sources[exists].astype(np.int64)
        order = np.argsort(sources, kind="stable")
        targets = np.repeat(np.arange(wiring.n_out), np.diff(starts))[order]
        each = np.bincount(sources, minlength=wiring.n_in)
        lists = formula.lists(np.arange(int(each.max(initial=0)) + 2), _index(profile)) + formula.entry
        dense = formula.lists(np.arange(wiring.n_out + 1)) + formula.entry
        lists[0] = dense[0] = 0
        first = np.concatenate([[0], np.cumsum(each)])
        return cls(starts=starts, sources=sources, order=order, targets=targets, first=first, lists=lists, dense=dense)


def _index(profile: HardwareProfile) -> int:
    """Bits of an index at least, where lists are either dense or have one."""
    names = set(profile["encodings"].names)
    return min(profile["index_bits"].choices) if "sparse" in names and names <= {"dense", "sparse", "convolution"} else 0


def _ends(synapses: _Synapses, sent: Floats, profile: HardwareProfile) -> Integers:
    """(n_out,): where the longest run ends that begins at each neuron and that a core could hold."""
    starts, sources, dense = synapses.starts, synapses.sources, synapses.dense
    n_out = starts.size - 1
    each = profile.number("neuron_state_bits", 0) + sent * profile.number("output_axon_bits", 0)
    room = min(profile.capacity("memory_bits"), UNLIMITED)
    room_lists, most = profile.capacity("synapse_memory_bits"), profile.capacity("neurons")
    room_axons, room_sent = profile.capacity("input_axons"), profile.capacity("output_axons")
    grows = np.diff(synapses.lists)
    held = np.zeros(int(sources.max(initial=0)) + 1, dtype=np.int64)
    beside, out = np.concatenate([[0.0], np.cumsum(each)]), np.concatenate([[0.0], np.cumsum(sent)])
    ends, indexed, axons, first = np.zeros(n_out, dtype=np.int64), 0, 0, 0
    for last in range(n_out):
        heard = sources[starts[last] : starts[last + 1]]
        now = held[heard]
        indexed, axons = indexed + int(grows[now].sum()), axons + int(np.count_nonzero(now == 0))
        held[heard] = now + 1
        while first < last and (
            (bits := min(indexed, axons * int(dense[last + 1 - first]))) > room_lists
            or bits + beside[last + 1] - beside[first] > room or axons > room_axons
            or last + 1 - first > most or out[last + 1] - out[first] > room_sent
        ):  # fmt: skip
            ends[first] = last
            heard = sources[starts[first] : starts[first + 1]]
            now = held[heard] - 1
            indexed, axons = indexed - int(grows[now].sum()), axons - int(np.count_nonzero(now == 0))
            held[heard] = now
            first += 1
    ends[first:] = n_out
    return ends


def _hearers(synapses: _Synapses, ends: Integers) -> Floats:
    """(n_in,): runs that it takes at least to hold all targets of a source: each from the first that the last did not hold."""
    n_in, n_out = synapses.first.size - 1, ends.size
    owner = np.repeat(np.arange(n_in), np.diff(synapses.first))
    after = np.searchsorted(owner * n_out + synapses.targets, owner * n_out + ends[synapses.targets])
    hearers = np.zeros(n_in)
    source = np.flatnonzero(np.diff(synapses.first))
    at = synapses.first[source]
    while at.size:
        hearers[source] += 1
        at = after[at]
        more = at < synapses.first[source + 1]
        at, source = at[more], source[more]
    return hearers


def _cheapest(synapses: _Synapses, ends: Integers, beside: int) -> float:
    """Memory of lists, entries, and so many bits an axon beside them, with the layer parted into runs at the least cost."""
    starts, sources, dense, first = synapses.starts, synapses.sources, synapses.dense, synapses.first[:-1].copy()
    grows, n_out = np.diff(synapses.lists), ends.size
    held = np.zeros(first.size, dtype=np.int64)
    indexed, axons = np.zeros(n_out), np.zeros(n_out)  # what each neuron adds to the run before it
    least = np.full(n_out + 1, np.inf)
    least[0], reached = 0.0, 0
    for begin in range(n_out):
        end = int(ends[begin])
        for last in range(reached, end):
            now = held[sources[starts[last] : starts[last + 1]]]
            indexed[last], axons[last] = grows[now].sum(), np.count_nonzero(now == 0)
            held[sources[starts[last] : starts[last + 1]]] += 1
        reached = max(reached, end)
        heard = axons[begin:end].cumsum()
        cost = np.minimum(indexed[begin:end].cumsum(), heard * dense[1 : end - begin + 1]) + beside * heard
        np.minimum(least[begin + 1 : end + 1], least[begin] + cost, out=least[begin + 1 : end + 1])
        here = sources[starts[begin] : starts[begin + 1]]
        held[here] -= 1
        first[here] += 1
        more = held[here]
        place = np.arange(more.sum()) - np.repeat(more.cumsum() - more, more)  # in what is left of each list
        moved = synapses.targets[np.repeat(first[here], more) + place]
        indexed[begin:end] += np.bincount(moved - begin, grows[place] - grows[place + 1], end - begin)
        axons[begin:end] += np.bincount(moved[place == 0] - begin, minlength=end - begin)
    return float(least[n_out])
