"""Which slices talk to which, and how much of it in a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.graph import INPUT
from neurodeploy.nouns import ByValue, freeze
from neurodeploy.records import SpikeRecord
from neurodeploy.resources.counting import Heard, LayerCount
from neurodeploy.resources.regions import Region
from neurodeploy.resources.usage import Layers

Rates: TypeAlias = "Mapping[str, NDArray[np.float64]]"
"""Spikes a step of every neuron of a layer, by layer: one number for all of them or one each."""

ASSUMED_RATE = 0.1
"""Spikes a neuron and step where nothing was measured."""
ENCODINGS = ("dense", "sparse", "convolution")
"""Kinds of list that synaptic operations are told apart by."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Links(ByValue):
    """Traffic from slice to slice in an average step.

    Attributes
    ----------
    source, target : array (n_links,), int64
        Indices into a placement's slices; source -1 for the network's input, which comes from off the chip.
    spikes : array (n_links,), float64
        Messages: one for each neuron of the source that fires and is heard.
    synops : array (n_links,), float64
        Synapses that they meet, zeros of a dense list included.
    encoding : array (n_links,), int64
        How those are stored, as an index into `ENCODINGS`.
    fired : array (n_slices,), float64
        Spikes of each slice's neurons.
    measured : bool
        Whether the rates come from a record, or are assumed.
    """

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    spikes: NDArray[np.float64]
    synops: NDArray[np.float64]
    encoding: NDArray[np.int64]
    fired: NDArray[np.float64]
    measured: bool

    def __post_init__(self) -> None:
        for name in ("source", "target", "encoding"):
            freeze(self, name, np.int64)
        for name in ("spikes", "synops", "fired"):
            freeze(self, name, np.float64)


def measured_rates(record: SpikeRecord) -> Rates:
    """Spikes a step of every neuron in a record, over all its samples and steps."""
    return {name: np.moveaxis(spikes, -1, 1).mean(axis=(0, 1)).reshape(-1) for name, spikes in record.spikes.items()}


def links_of(
    slices: list[tuple[str, Region]], layers: Layers, counts: Mapping[str, LayerCount], rates: Rates | None = None
) -> Links:
    """Who hears whom, slice by slice.

    Parameters
    ----------
    slices : list of (layer, region)
    rates : mapping, optional
        Spikes a step by layer, and of the network's input under ``"input"``; `ASSUMED_RATE` for a layer that is not there.
    """
    known = {} if rates is None else rates
    rate = {layer.name: _each(known.get(layer.name, np.array(ASSUMED_RATE)), layer.n_neurons) for layer in layers}
    numbers, homes = _homes(slices, layers, counts)
    found: list[tuple[NDArray[np.int64], int, NDArray[np.float64], NDArray[np.float64], int]] = []
    fired = np.zeros(len(slices))
    for target, (name, region) in enumerate(slices):
        count = counts[name]
        fired[target] = rate[name].reshape(count.grid)[region.box].sum()
        parts = zip(count.heard(region), count.by_connection(region), count.fan_outs(region), strict=True)
        for heard, (_, _, _, encoding), fan_out in parts:
            meets = np.full(heard.mask.shape, region.n_neurons) if encoding == "dense" else fan_out
            if heard.source == INPUT:
                spikes = _each(known.get(INPUT, np.array(ASSUMED_RATE)), math.prod(heard.shape))
                sent = spikes.reshape(heard.shape)[heard.box.box] * heard.mask
                from_, messages, synops = np.array([-1]), np.array([sent.sum()]), np.array([(sent * meets).sum()])
            else:
                source = heard.source
                from_, messages, synops = _heard_from(heard, numbers[source], homes[source], rate[source], meets)
            found.append((from_, target, messages, synops, ENCODINGS.index(encoding) if encoding in ENCODINGS else 0))
    lengths = [from_.size for from_, *_ in found]
    return Links(
        source=_joined([from_ for from_, *_ in found]).astype(np.int64),
        target=np.repeat([target for _, target, *_ in found], lengths),
        spikes=_joined([sent for _, _, sent, *_ in found]),
        synops=_joined([synops for *_, synops, _ in found]),
        encoding=np.repeat([kind for *_, kind in found], lengths),
        fired=fired,
        measured=rates is not None,
    )


def _joined(arrays: list[NDArray[np.float64]] | list[NDArray[np.int64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *arrays])


def _homes(
    slices: list[tuple[str, Region]], layers: Layers, counts: Mapping[str, LayerCount]
) -> tuple[dict[str, NDArray[np.int64]], dict[str, NDArray[np.int32]]]:
    """By layer: the numbers of its slices, and for every neuron which of them it stands in."""
    of_layer: dict[str, list[int]] = {layer.name: [] for layer in layers}
    for number, (name, _) in enumerate(slices):
        of_layer[name].append(number)
    homes = {}
    for layer in layers:
        home = np.zeros(counts[layer.name].grid, dtype=np.int32)
        for local, number in enumerate(of_layer[layer.name]):
            home[slices[number][1].box] = local
        homes[layer.name] = home
    return {name: np.array(numbers, dtype=np.int64) for name, numbers in of_layer.items()}, homes


def _heard_from(
    heard: Heard, numbers: NDArray[np.int64], home: NDArray[np.int32], rate: NDArray[np.float64], meets: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The slices of a source that a region hears, what each sends it in a step, and the synapses that this meets."""
    local = home.reshape(heard.shape)[heard.box.box][heard.mask]
    sent = rate.reshape(heard.shape)[heard.box.box][heard.mask]
    spikes, synops = (np.bincount(local, values, len(numbers)) for values in (sent, sent * meets[heard.mask]))
    which = np.unique(local)
    return numbers[which], spikes[which], synops[which]


def _each(rate: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """(n,): a rate for each neuron, of one for all of them or one each."""
    return np.broadcast_to(np.ravel(rate), n)
