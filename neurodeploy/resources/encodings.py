"""Memory formulas for lists of synapses on a core.

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

from dataclasses import dataclass

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.profile import UNLIMITED, Encoding, HardwareProfile
from neurodeploy.ir.arrays import Integers


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


def power_of_two(n: int) -> int:
    """Smallest power of two that is at least n."""
    return 1 << (n - 1).bit_length()
