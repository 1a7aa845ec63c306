"""What a layer needs: the only place that counts.

Synapse memory follows the published formula of Loihi 1 (nengo-loihi, ``block.py: Synapse.bits``), with the numbers of
the profile. A core stores, for each input axon, the list of its synapses on that core, in blocks of at most 64::

    bits of a block = synapses * (weight bits + index bits) + header bits,  rounded up to whole memory units

A sparse list names each target (index bits), so it holds the surviving synapses only; a dense one holds a weight for
every neuron of the slice and no index. The cheaper encoding is taken, slice by slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Layer
from neurodeploy.quantized import QuantizedLayer

Encoding = Literal["dense", "sparse"]
AnyLayer: TypeAlias = "Layer | QuantizedLayer"
Layers: TypeAlias = "tuple[Layer | QuantizedLayer, ...]"
DEFAULT_WEIGHT_BITS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a slice of a layer takes of its core; or, summed, what a layer takes of a chip.

    Attributes
    ----------
    neurons, synapses : int
        Synapses are the weights that are not zero.
    synapse_memory_bits : int
        In the encoding named, all rounding included.
    input_axons : int
        Source neurons with at least one synapse here.
    encoding : "dense" | "sparse"
    """

    neurons: int
    synapses: int
    synapse_memory_bits: int
    input_axons: int
    encoding: Encoding


def axon_bits(n_synapses: NDArray[np.int64], weight_bits: int, index_bits: int, profile: HardwareProfile) -> NDArray[np.int64]:
    """Memory of input axons that have `n_synapses` synapses each; index_bits 0 is the dense encoding.

    >>> from neurodeploy.hardware import load_profile
    >>> axon_bits(np.array([0, 3, 64, 65]), 8, 10, load_profile("loihi1")).tolist()  # 3*18+10=64; 64*18+10 -> 1216
    [0, 64, 1216, 1280]
    """
    block, unit = profile.synapses_per_block.number, profile.memory_unit_bits.number
    header, synapse = profile.block_header_bits.number, weight_bits + index_bits

    def stored(n: NDArray[np.int64]) -> NDArray[np.int64]:
        units: NDArray[np.int64] = -(-(n * synapse + header) // unit)
        return units * unit

    n = np.asarray(n_synapses, dtype=np.int64)
    full, rest = np.divmod(n, block)
    bits: NDArray[np.int64] = full * stored(np.asarray(block)) + np.where(rest > 0, stored(rest), 0)
    return bits


def least_axon_bits(n_synapses: NDArray[np.int64], weight_bits: int, profile: HardwareProfile) -> NDArray[np.int64]:
    """Memory that input axons need on all cores together, however their targets are cut: no index, and rounded up once."""
    unit, n = profile.memory_unit_bits.number, np.asarray(n_synapses, dtype=np.int64)
    blocks = -(-n // profile.synapses_per_block.number)
    units: NDArray[np.int64] = -(-(n * weight_bits + blocks * profile.block_header_bits.number) // unit)
    return units * unit


def index_bits(n_neurons: int, profile: HardwareProfile) -> int:
    """Narrowest allowed index that tells `n_neurons` targets apart."""
    needed = max(1, (n_neurons - 1).bit_length())
    return _narrowest("target index", needed, profile.index_bits.choices, profile.index_bits.where)


def weight_bits(width: int, profile: HardwareProfile) -> int:
    """Narrowest allowed weight of at least `width` bits."""
    return _narrowest("weight", max(1, width), profile.weight_bits.choices, profile.weight_bits.where)


def _narrowest(what: str, needed: int, choices: tuple[int, ...], where: str) -> int:
    for bits in choices:
        if bits >= needed:
            return bits
    raise BudgetError(what, "bits", need=needed, limit=choices[-1], source=where)


def count(n_synapses: NDArray[np.int64], n_neurons: int, bits: int, profile: HardwareProfile) -> Usage:
    """What a slice of `n_neurons` neurons needs, given how many synapses each axon has on it.

    Parameters
    ----------
    n_synapses : array (n_in,)
        Surviving synapses of each source neuron onto the slice, 0..n_neurons.
    n_neurons : int
        Neurons of the slice.
    bits : int
        Width of a weight; rounded up to one that the chip has.
    """
    width = weight_bits(bits, profile)
    axons = int(np.count_nonzero(n_synapses))
    sparse = int(axon_bits(n_synapses, width, index_bits(n_neurons, profile), profile).sum())
    dense = axons * int(axon_bits(np.asarray(n_neurons), width, 0, profile))
    return Usage(
        neurons=n_neurons,
        synapses=int(n_synapses.sum()),
        synapse_memory_bits=min(dense, sparse),
        input_axons=axons,
        encoding="dense" if dense <= sparse else "sparse",
    )


def slice_usage(
    weight: NDArray[np.float64] | NDArray[np.int64] | NDArray[np.bool_], bits: int, profile: HardwareProfile
) -> Usage:
    """What the neurons (rows) of a weight matrix (n_neurons, n_in) need on one core; zeros are no synapses."""
    return count(np.count_nonzero(weight, axis=0), weight.shape[0], bits, profile)


class SynapseCounts:
    """How many synapses each axon has on any run of a layer's neurons, in one subtraction."""

    def __init__(self, layer: AnyLayer) -> None:
        present = layer.weight != 0
        self._running = np.zeros((present.shape[0] + 1, present.shape[1]), dtype=np.int64)
        np.cumsum(present, axis=0, out=self._running[1:])

    def usage(self, start: int, stop: int, bits: int, profile: HardwareProfile) -> Usage:
        """What neurons start..stop-1 need on one core."""
        return count(self._running[stop] - self._running[start], stop - start, bits, profile)

    def axons(self, start: int, stop: int) -> NDArray[np.bool_]:
        """(n_in,): which source neurons have a synapse on neurons start..stop-1."""
        used: NDArray[np.bool_] = self._running[stop] > self._running[start]
        return used


def bits_of(layer: AnyLayer, default: int = DEFAULT_WEIGHT_BITS) -> int:
    """Weight width to count a layer with: its own once it is quantised, `default` before."""
    return layer.weight_bits if isinstance(layer, QuantizedLayer) else default
