"""Resources of a core, the usage of a slice, and regions: boxes of neurons in a layer's grid.

`neurodeploy.resources.counting` measures regions.

Synapse memory has a formula for each encoding.
A core stores, for each input axon, the list of its synapses on that core, in blocks::

    bits of a block = synapses * (weight bits + delay bits + index bits) + header bits,  rounded up to memory units

This is Loihi 1's published formula (nengo-loihi, ``block.py: SynapseConfig.bits_per_axon``) with the profile's numbers; a chip
without blocks, headers and units has lists of plain words. Encodings, by the names that a profile lists:

- ``dense``: a weight for every neuron of the slice in each list, and no index.
- ``sparse``: the synapses that exist, each with the index of its target.
- ``convolution``: an input axon is a pixel, its channel travels with the spike; pixels with the same list of weights share it
  (nengo-loihi, ``conv.py: conv2d_loihi_weights``, ``block.py: set_population_weights``). See
  `neurodeploy.resources.convolution_lists`.
- ``crossbar``: a weight for every pair of an axon and a neuron of the slice, without blocks.
- ``dynapcnn``: kernels of whole powers of two (sinabs, ``dynapcnn_layer.py``): c * 2^(ceil(log2(kx ky)) + ceil(log2 f)) weights.

Where input axons are stored in the same memory, the axon's entry counts with its list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import BudgetError, unsupported_kind
from neurodeploy.hardware.profile import UNLIMITED, Encoding, HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.connectivity import is_convolution
from neurodeploy.ir.graph import INPUT, LayerGraph, Population
from neurodeploy.ir.network import LI, LIF, Layer, SubtractiveLIF
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedSigmaDelta, QuantizedSubtractiveLIF

if TYPE_CHECKING:  # counting measures regions, and needs this module
    from neurodeploy.resources.counting import LayerCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A profile's numbers for lists of synapses, at one weight width.

    Attributes
    ----------
    synapse_bits : int
        Weight and delay of one synapse, in bits.
    block : int
        Most synapses in a block.
    header, unit : int
        Overhead of a block, and unit of memory allocation, in bits.
    entry : int
        Bits of the axon that points to the list, where it is stored in the same memory; else 0.
    """

    synapse_bits: int
    block: int
    header: int
    unit: int
    entry: int

    @classmethod
    def of(cls, profile: HardwareProfile, width: int, *, is_delayed: bool = False) -> Formula:
        """Formula of a chip for weights of `width` bits; delayed synapses store their delay too."""
        # As wide as the longest delay of the chip: 6 bits for Loihi's 62 steps.
        delay = profile.number("max_delay_steps", 0).bit_length() if is_delayed else 0
        return cls(
            synapse_bits=width + delay, block=profile.number("synapses_per_block", UNLIMITED),
            header=profile.number("block_header_bits", 0), unit=profile.number("memory_unit_bits", 1),
            entry=profile.number("input_axon_bits", 0),
        )  # fmt: skip

    def lists(self, n_synapses: Integers, index_bits: int | Integers = 0) -> Integers:
        """Memory in bits of lists with `n_synapses` each, without their axons' entries; 0 for an empty list."""
        n = np.asarray(n_synapses, dtype=np.int64)
        # Full blocks and a shorter last one, each rounded up to memory units by itself (nengo-loihi, `bits_per_axon`).
        full, rest = np.divmod(n, self.block)
        synapse = self.synapse_bits + index_bits
        bits: Integers = np.where(rest > 0, self._stored(rest * synapse), 0)
        # Without blocks `full` is 0, and the bits of a block would not fit 64 bits.
        return bits + full * self._stored(np.asarray(self.block * synapse)) if self.block < UNLIMITED else bits

    def _stored(self, bits: Integers) -> Integers:
        units: Integers = -(-(bits + self.header) // self.unit)  # -(-a // b) rounds up, in integers
        return units * self.unit

    def least(self, n_synapses: Integers, index_bits: int = 0) -> Integers:
        """Lower bound on the memory in bits of axons with `n_synapses` on all cores together, for any partition of targets."""
        n = np.asarray(n_synapses, dtype=np.int64)
        # Cutting a list adds headers and rounding and takes none away, so one uncut list rounded once is a lower bound.
        blocks = -(-n // self.block) if self.block < UNLIMITED else (n > 0).astype(np.int64)
        units: Integers = -(-(n * (self.synapse_bits + index_bits) + blocks * self.header) // self.unit)
        return units * self.unit + self.entry * (n > 0)


def axon_bits(n_synapses: Integers, weight_bits: int, index_bits: int, profile: HardwareProfile) -> Integers:
    """Memory in bits of input axons with `n_synapses` synapses each, entries included; index_bits 0 is the dense encoding.

    >>> from neurodeploy.hardware.loading import load_profile
    >>> axon_bits(np.array([0, 3, 64, 65]), 8, 10, load_profile("loihi1")).tolist()  # 3*18+10=64; 64*18+10 -> 1216
    [0, 64, 1216, 1280]
    """
    formula = Formula.of(profile, weight_bits)
    return formula.lists(n_synapses, index_bits) + formula.entry * (np.asarray(n_synapses) > 0)


def index_bits(n_neurons: int, profile: HardwareProfile) -> int:
    """Narrowest index width of the chip that distinguishes `n_neurons` targets.

    Raises
    ------
    BudgetError
        The chip has none that wide.
    """
    # A list onto a single neuron has an index, too: a sparse list without one is the dense encoding.
    needed = max(1, (n_neurons - 1).bit_length())
    return _narrowest("target index", needed, profile, "index_bits")


def most_targets(profile: HardwareProfile) -> int:
    """Most neurons that the indices of a sparse list distinguish; `UNLIMITED` on a chip without such lists."""
    return 1 << profile["index_bits"].choices[-1] if "sparse" in profile["encodings"].names else UNLIMITED


def weight_bits(width: int, profile: HardwareProfile) -> int:
    """Narrowest weight width of the chip that has at least `width` bits.

    Raises
    ------
    BudgetError
        The chip has none that wide.
    """
    most = profile["weight_bits"].choices[-1]
    return _narrowest("weight", max(1, width), profile, "weight_bits", f"Take weights of at most {most} bit{'s' * (most > 1)}.")


def _narrowest(what: str, needed: int, profile: HardwareProfile, key: str, remedy: str = "") -> int:
    choices = profile[key].choices
    for bits in choices:
        if bits >= needed:
            return bits
    raise BudgetError(what, "bits", need=needed, limit=choices[-1], source=profile[key].where, remedy=remedy)


def list_bits(n_synapses: Integers, n_neurons: int, formula: Formula, profile: HardwareProfile) -> tuple[int, Encoding]:
    """Memory in bits of a slice of `n_neurons` neurons in its cheapest encoding, and the name of that encoding.

    `n_synapses` (n_in,) has the synapses of each axon onto the slice.
    """
    allowed, n = profile["encodings"].names, np.asarray(n_synapses, dtype=np.int64)
    axons = int(np.count_nonzero(n))
    bits: dict[Encoding, int] = {}
    if "dynapcnn" in allowed:
        # The chip keeps a kernel for every input, synapses or not.
        bits["dynapcnn"] = n.size * power_of_two(n_neurons) * formula.synapse_bits
    if "crossbar" in allowed:
        # A weight for every pair, but no row for axons without synapses.
        bits["crossbar"] = axons * n_neurons * formula.synapse_bits
    if "dense" in allowed:
        bits["dense"] = axons * int(formula.lists(np.asarray(n_neurons)))
    if "sparse" in allowed:
        addressed = min(n_neurons, profile.capacity("neurons"))  # a slice with more neurons breaks another limit
        bits["sparse"] = int(formula.lists(n, index_bits(addressed, profile)).sum())
    # Ties go to the encoding that comes first above.
    best = min(bits, key=lambda name: bits[name])
    return bits[best] + axons * formula.entry, best


def expected_lists(
    sizes: Integers, how_many: Integers, n_neurons: int, connectivity: float, formula: Formula, profile: HardwareProfile
) -> tuple[int, int, int, str]:
    """Expected memory bits, input axons and synapses of a slice, rounded up, and its cheapest encoding.

    Parameters
    ----------
    sizes, how_many : array (n_sizes,)
        `how_many` axons have a list of `sizes` synapses each before pruning.
    n_neurons : int
        Neurons of the slice.
    connectivity : float
        Probability of each weight to be kept, 0..1.
    """
    alive = float(how_many @ (1 - (1 - connectivity) ** sizes))
    allowed = profile["encodings"].names
    bits: dict[str, float] = {}
    if "dynapcnn" in allowed:
        bits["dynapcnn"] = int(how_many.sum()) * power_of_two(n_neurons) * formula.synapse_bits
    if "crossbar" in allowed:
        bits["crossbar"] = alive * n_neurons * formula.synapse_bits
    if "dense" in allowed:
        bits["dense"] = alive * int(formula.lists(np.asarray(n_neurons)))
    if "sparse" in allowed:
        index = index_bits(n_neurons, profile)
        bits["sparse"] = sum(
            int(m) * expected_bits(int(n), 1, connectivity, formula, index) for n, m in zip(sizes, how_many, strict=True)
        )
    best = min(bits, key=lambda name: bits[name])
    memory = math.ceil(bits[best] + alive * formula.entry)
    return memory, math.ceil(alive), round(float(sizes @ how_many) * connectivity), best


# Planning asks for the same lengths again and again, and the distribution is slow.
@lru_cache(maxsize=1 << 14)
def expected_bits(n: int, atoms: int, chance: float, formula: Formula, index: int) -> float:
    """Expected bits of `atoms` lists padded to one length, the longest of as many binomial draws of n weights."""
    if chance >= 1:
        return float(formula.lists(np.asarray(n * atoms), index))
    # imported here: only plans need it. The same as scipy.stats.binom.cdf, which takes as long to import as half of torch.
    from scipy.special import bdtr

    lengths = np.arange(n + 1)
    # The longest of `atoms` draws is at most n with probability cdf(n)**atoms; differences give its distribution.
    shares = np.diff(bdtr(lengths, n, chance) ** atoms, prepend=0.0)
    return float(shares @ formula.lists(lengths * atoms, index))


def power_of_two(n: int) -> int:
    """Smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()


AnyLayer: TypeAlias = "Layer | QuantizedLayer"
Layers: TypeAlias = "tuple[Layer | QuantizedLayer, ...]"

RESOURCES = (
    "neurons", "memory_bits", "synapse_memory_bits", "neuron_memory_bits", "input_axons", "output_axons", "slices", "biases",
    "synapse_formats", "neuron_profiles", "threshold_profiles",
)  # fmt: skip
"""Amounts that add up over the slices of a core. A chip limits a resource if its profile has the key ``<resource>_per_core``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Resource usage of a slice of a layer on its core, without output axons.

    Attributes
    ----------
    neurons, synapses : int
        Synapses are connected pairs of neurons; a shared weight of a convolution counts at every position.
    synapse_memory_bits : int
        In the named encoding, with all rounding, and with the axons' entries where they share the memory.
    input_axons : int
        Sources with at least one synapse here: neurons, or pixels where a convolution's lists are shared.
    encoding : str
        Names of the encodings of its connections, joined by ``+``.
    fan_in : int
        Synapses onto the neuron with the most.
    delay_steps : int
        Longest wait of a spike in one of its synapses.
    neuron_memory_bits : int
        Memory for neuron state.
    biases, synapse_formats, neuron_profiles, threshold_profiles : int
        Number of distinct ones that the slice needs on its core.
    """

    neurons: int
    synapses: int
    synapse_memory_bits: int
    input_axons: int
    encoding: str
    fan_in: int = 0
    delay_steps: int = 0
    neuron_memory_bits: int = 0
    biases: int = 0
    synapse_formats: int = 1
    neuron_profiles: int = 1
    threshold_profiles: int = 0

    def of(self, resource: str, output_axons: int, profile: HardwareProfile) -> int:
        """Usage of one of `RESOURCES` by the slice with `output_axons` (neuron, target slice) pairs."""
        match resource:
            case "output_axons":
                return output_axons
            case "slices":
                return 1
            case "memory_bits":
                # One memory for all, as on Loihi 2. Input axons are in synapse_memory_bits already.
                sent = output_axons * profile.number("output_axon_bits", 0)
                return self.synapse_memory_bits + self.neurons * profile.number("neuron_state_bits", 0) + sent
            case _:  # all others are fields of this class
                return int(getattr(self, resource))


def limited_resources(profile: HardwareProfile) -> tuple[str, ...]:
    """The `RESOURCES` that the profile limits, in their order."""
    return tuple(resource for resource in RESOURCES if profile.capacity(resource) < UNLIMITED)


def usage_vector(usage: Usage, output_axons: int, profile: HardwareProfile) -> Integers:
    """A usage in the order of `limited_resources`: (n_resources,)."""
    return np.array([usage.of(resource, output_axons, profile) for resource in limited_resources(profile)], dtype=np.int64)


def count(n_synapses: Integers, n_neurons: int, bits: int, profile: HardwareProfile) -> Usage:
    """Usage of a slice of `n_neurons` neurons with one dense or sparse connection.

    Parameters
    ----------
    n_synapses : array (n_in,)
        Synapses from each source neuron onto the slice, 0..n_neurons.
    bits : int
        Width of a weight; rounded up to one that the chip has.
    """
    memory, encoding = list_bits(n_synapses, n_neurons, Formula.of(profile, weight_bits(bits, profile)), profile)
    return Usage(
        neurons=n_neurons,
        synapses=int(np.sum(n_synapses)),
        synapse_memory_bits=memory,
        input_axons=int(np.count_nonzero(n_synapses)),
        encoding=encoding,
    )


def slice_usage(weight: NDArray[np.float64] | Integers | NDArray[np.bool_], bits: int, profile: HardwareProfile) -> Usage:
    """Usage of a slice with the weights (n_neurons, n_in); zeros are no synapses."""
    return count(np.count_nonzero(weight, axis=0), weight.shape[0], bits, profile)


def bits_of(layer: AnyLayer, default: int) -> int:
    """Width of the layer's weights: its own if it is quantised, `default` before."""
    return layer.weight_bits if isinstance(layer, QuantizedLayer) else default


@dataclass(frozen=True, slots=True, order=True)
class Region:
    """A box of neurons: starts[axis]..stops[axis] - 1 along each axis of a layer's grid (`grid_of`)."""

    starts: tuple[int, ...]
    stops: tuple[int, ...]

    @classmethod
    def run(cls, start: int, stop: int) -> Region:
        """Neurons start..stop-1 of a layer with a grid of one axis."""
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
        """Numbers of the neurons in the layer, ascending: (n_neurons,)."""
        # Neurons are numbered in C order, as `reshape(-1)` of torch and NumPy does.
        along = [np.arange(start, stop) for start, stop in zip(self.starts, self.stops, strict=True)]
        numbers: NDArray[np.int64] = np.ravel_multi_index(np.ix_(*along), grid).reshape(-1)
        return numbers

    @property
    def words(self) -> str:
        """Text for reports: ``neurons 0..63``, ``channels 0..7, rows 0..15, columns 0..31``."""
        # Grids have one axis or three; see `grid_of`.
        names = ("neurons",) if len(self.starts) == 1 else ("channels", "rows", "columns")
        return ", ".join(f"{name} {a}..{b - 1}" for name, a, b in zip(names, self.starts, self.stops, strict=True))

    def __str__(self) -> str:
        """Python index: ``[0:64]``, ``[0:8, 0:16, 0:32]``."""
        return "[" + ", ".join(f"{start}:{stop}" for start, stop in zip(self.starts, self.stops, strict=True)) + "]"


def grid_of(layer: Population[Any, Any]) -> tuple[int, ...]:
    """Shape in which a layer is cut: (channels, rows, columns) if a convolution leads into it, else (n_neurons,)."""
    # Pixels of a convolution share lists, so boxes of the image are its natural slices. A matrix gives the axes no meaning.
    return layer.shape if any(is_convolution(c.synapse) for c in layer.connections) else (layer.n_neurons,)


def layer_usage(
    network: LayerGraph[Any], counts: Mapping[str, LayerCount], profile: HardwareProfile
) -> dict[str, dict[str, int]]:
    """Usage under the limits that no partition into slices can change, by key of the profile, then by layer.

    Returns
    -------
    mapping
        ``"external_inputs"``: neurons of the network's input, under `INPUT`. ``"targets_per_layer"``: layers that receive
        a layer's spikes. ``"fan_out_per_neuron"``: synapses from the neuron of a layer that has most. Only keys that the
        profile states.
    """
    usage: dict[str, dict[str, int]] = {}
    if "external_inputs" in profile:
        usage["external_inputs"] = {INPUT: network.n_inputs}
    if "targets_per_layer" in profile:
        sources = [{c.source for c in layer.connections} for layer in network.layers]
        usage["targets_per_layer"] = {layer.name: sum(layer.name in each for each in sources) for layer in network.layers}
    if "fan_out_per_neuron" in profile:
        fan_out: dict[str, NDArray[np.float64]] = {}
        for count in counts.values():
            whole = Region.whole(count.grid)
            for of, n_synapses in zip(count.sources(whole), count.fan_outs(whole), strict=True):
                # Targets may number a source's neurons differently, as a row or as an image: add in the row's order.
                total, here = fan_out.setdefault(of.source, np.zeros(math.prod(of.shape))), np.zeros(of.shape)
                here[of.box.box] = n_synapses
                total += here.reshape(-1)
        # The input's axons are not neurons of the chip.
        most = {name: math.ceil(total.max() - 1e-9) for name, total in fan_out.items() if name != INPUT}
        usage["fan_out_per_neuron"] = {layer.name: most.get(layer.name, 0) for layer in network.layers}
    return usage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourceNeurons:
    """Neurons of one source that have synapses onto a region.

    Attributes
    ----------
    source : str
        Name of the layer, or `INPUT`.
    shape : tuple of int
        Shape in which the source's neurons are numbered: (n,) or (channels, rows, columns).
    box : Region
        Box in that shape with all of them.
    mask : array of the box's shape, bool
        Which neurons of the box.
    """

    source: str
    shape: tuple[int, ...]
    box: Region
    mask: NDArray[np.bool_]


def limits_settings(profile: HardwareProfile) -> bool:
    """Whether the neurons of a core may have only so many different decays or thresholds."""
    return bool({"neuron_profiles", "threshold_profiles"} & set(limited_resources(profile)))


def distinct_decays(layer: AnyLayer, region: Region, profile: HardwareProfile) -> int:
    """Different pairs of decays of a region's neurons, as ``neuron_profiles`` counts them; 1 where the chip does not limit it.

    Those of floats are compared as registers of ``decay_bits`` have them.
    """
    match neuron := layer.neuron:
        case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedLI():
            return _distinct(layer, region, profile, neuron.du, neuron.dv)
        case LIF() | SubtractiveLIF() | LI():
            unity = 1 << profile.number("decay_bits", 30)
            return _distinct(layer, region, profile, np.rint(neuron.current_decay * unity), np.rint(neuron.voltage_decay * unity))
        case QuantizedSigmaDelta():
            return 1  # it has no decays
        case _:
            raise unsupported_kind(neuron)


def distinct_thresholds(layer: AnyLayer, region: Region, profile: HardwareProfile) -> int:
    """Different thresholds of a region's neurons, as ``threshold_profiles`` counts them; 0 where none fires."""
    grid = grid_of(layer)
    match neuron := layer.neuron:
        case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedSigmaDelta():
            return _distinct(layer, region, profile, neuron.vth)
        case LIF() | SubtractiveLIF():
            # quantising scales neurons to one threshold, but where a convolution shares the weights of some that differ
            of_channel = np.broadcast_to(neuron.threshold, layer.n_neurons).reshape(grid[0], -1)
            differ = len(grid) == 3 and np.ptp(of_channel, axis=1).any()
            return _distinct(layer, region, profile, neuron.threshold) if differ else 1
        case QuantizedLI() | LI():
            return 0
        case _:
            raise unsupported_kind(neuron)


def _distinct(layer: AnyLayer, region: Region, profile: HardwareProfile, *numbers: NDArray[Any]) -> int:
    """How many different combinations of these numbers the region's neurons have; 1 where the chip does not limit it."""
    arrays = [array for array in numbers if array.shape]  # an array () is one number for all neurons
    if not arrays or not limits_settings(profile):
        return 1
    settings = np.stack([array.reshape(grid_of(layer))[region.box].reshape(-1) for array in arrays])
    return int(np.unique(settings, axis=1).shape[1])  # columns, not single numbers, are compared
