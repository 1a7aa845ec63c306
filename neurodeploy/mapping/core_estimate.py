"""Size of a network before it is laid out: whether memory and cores allow a layout, and about how many cores it will take.

The estimate has closed forms only. Each layer is cut into equal blocks, selected for all layers together from coarse tables
(`neurodeploy.mapping.partition`); the volume of their slices, with the output axons that lead to their targets, is the number of
cores. No slice is packed, so the time does not grow with their number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurodeploy.errors import NetworkError, unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import check_memory
from neurodeploy.ir.connectivity import ConvWiring, DenseWiring, SparseWiring
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.packing import BlockAnnealing, axon_share
from neurodeploy.mapping.partition import BlockOptions, BlockSelection, block_options
from neurodeploy.mapping.placement import LAYER_LIMITS
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import AnyLayer, Layers, grid_of, limited_resources

MAX_UNFIT_CORES = 20_000
"""Networks whose neurons need more cores than this, and than the board has, are refused before anything is counted."""
BYTES_A_NEURON, BYTES_A_WEIGHT, BYTES_AN_INPUT = 14, 10, 56
"""Peak of memory while a layer is counted, beyond the network itself: for a neuron, a weight, and an input of a matrix."""
BYTES_KEPT_A_NEURON, BYTES_KEPT_A_WEIGHT = 4, 4
"""Memory that a layer keeps while others are counted: the slice of each neuron, and running counts of a matrix."""
ESTIMATE_STEP = 1.5
"""Growth of the number of blocks along a side from one option of the estimate to the next."""
ESTIMATE_SAMPLES = 16
"""Slices of a row that the estimate counts for each cut: rows may differ along themselves."""
ESTIMATE_CAUTIONS = (1.0, 0.5, 0.0)
"""Cautions of the block selection that the estimate tries; the layout tries them too."""
ESTIMATE_ERROR = 0.05
"""Difference from the cores of the layout, as a share of them, that most networks of benchmarks/RESULTS.md keep within."""


def layer_bytes(layer: AnyLayer) -> tuple[int, int]:
    """Bytes that counting a layer takes at its peak, and those of them that stay."""
    peak, kept = layer.n_neurons * BYTES_A_NEURON, layer.n_neurons * BYTES_KEPT_A_NEURON
    for connection in layer.connections:
        synapse: DenseWiring | SparseWiring | ConvWiring = connection.synapse
        peak += synapse.weight.size * BYTES_A_WEIGHT
        match synapse:
            case DenseWiring():
                peak += synapse.n_in * BYTES_AN_INPUT
                kept += synapse.weight.size * BYTES_KEPT_A_WEIGHT
            case SparseWiring() | ConvWiring():  # only the sources of a slice are looked at
                pass
            case _:
                raise unsupported_kind(synapse)
    return peak, kept


def check_size(network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int) -> None:
    """Raise `NetworkError`, before anything is counted, for a network too large to be laid out."""
    layers: Layers = network.layers
    needs = {layer.name: layer_bytes(layer) for layer in layers}
    largest = max(layers, key=lambda layer: needs[layer.name][0])
    peak, kept = needs[largest.name]
    total = peak + sum(one for _, one in needs.values()) - kept
    inputs = sum(connection.synapse.n_in for connection in largest.connections)
    check_memory(
        f"layer {largest.name!r}",
        f"to count {largest.n_neurons:,} neurons, {largest.n_weights:,} weights and {inputs:,} inputs", total,
    )  # fmt: skip
    a_core, n_neurons = profile.capacity("neurons"), network.n_neurons
    if (needed := -(-n_neurons // a_core)) > max(cores, MAX_UNFIT_CORES):
        largest = max(layers, key=lambda layer: layer.n_neurons)
        raise NetworkError(
            f"layer {largest.name!r}", f"neurons of the network on {cores:,} core{'s' * (cores > 1)}", need=n_neurons,
            limit=cores * a_core, source=profile["neurons_per_core"].where,
            remedy=f"It does not fit, and the {needed:,} cores or more that it needs are not laid out one by one. "
            f"Use a chip with at least {needed:,} cores, or remove neurons.",
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreEstimate:
    """About how many cores a network takes, from closed forms.

    Attributes
    ----------
    cores, cores_available, cores_lower_bound : int
        As of `Placement`; `cores` is within `ESTIMATE_ERROR` of those of the layout for most networks;
        pruned convolutions and large recurrent layers may be further off (benchmarks/RESULTS.md, "Placement: estimate").
    binding : str
        The resource of which the layers take most.
    layer_cores : mapping of layer to float
        Cores' worth of `binding` that each layer takes.
    too_large : str
        Layer of which not even one neuron fits a core; empty if there is none. A layout gives each such neuron a core of its
        own, so `cores` is too low by any factor then.
    unchecked : tuple of str
        Limits of the chip that only a layout looks at: on neurons, layers and the input.
    """

    profile: HardwareProfile
    cores: int
    cores_available: int
    cores_lower_bound: int
    binding: str
    layer_cores: Mapping[str, float]
    too_large: str = ""
    unchecked: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the network fits by the estimate; within `ESTIMATE_ERROR` of the cores there are only a layout can tell."""
        return self.cores <= self.cores_available and not self.too_large

    @property
    def is_close(self) -> bool:
        """Whether the cores there are lie within `ESTIMATE_ERROR` of the estimate, or one core below it and above the bound."""
        missing = self.cores - self.cores_available
        return abs(missing) <= ESTIMATE_ERROR * self.cores_available or (
            missing == 1 and self.cores_lower_bound <= self.cores_available
        )

    @property
    def sentences(self) -> list[str]:
        """The verdict, and the resource of which the layers take most."""
        largest = max(self.layer_cores, key=self.layer_cores.__getitem__)
        share = self.layer_cores[largest] / max(sum(self.layer_cores.values()), 1e-9)
        about = f"about {self.cores:,} of {self.cores_available:,} cores by an estimate"
        if self.too_large:
            said = (
                f"Now: does not fit. Not even one neuron of layer {self.too_large!r} fits a core, so cores cannot be estimated; "
                f"lower bound: {self.cores_lower_bound:,} of {self.cores_available:,}."
            )
        elif self.is_close:
            said = f"Now: close. It takes {about}, which may be 5 % off or more: only a layout tells."
        else:
            said = f"Now: {'fits' if self.fits else 'does not fit'}, {about}; lower bound: {self.cores_lower_bound:,}."
        others = [f"Not looked at, since cores alone are estimated: the limits on {', '.join(self.unchecked)}."]
        of = f"Fullest: {self.binding}. Of it" if self.fits else f"Of {self.binding}"
        return [said, f"{of}, {largest!r} takes {share:.0%}.", *(others if self.unchecked else [])]

    def to_json(self) -> dict[str, Any]:
        """The keys of ``neurodeploy inspect --fast --json``."""
        return {
            "plan": "estimate", "profile": self.profile.name, "target": self.profile.target, "fits": self.fits,
            "cores": {
                "used": None if self.too_large else self.cores, "available": self.cores_available,
                "lower_bound": self.cores_lower_bound,
            },
            "binding": self.binding, "layers": [{"layer": name, "cores": round(n, 3)} for name, n in self.layer_cores.items()],
            "too_large": self.too_large or None, "unchecked": list(self.unchecked),
        }  # fmt: skip


def largest_block(option: BlockOptions) -> tuple[int, ...]:
    """Block of a layer's slices where they are fewest and fit a core; that of the smallest slice where none fits."""
    fits = option.own.max(axis=1) <= 1
    place = np.where(fits, option.pieces, np.inf).argmin() if fits.any() else option.neurons.argmin()
    return tuple(option.blocks[place].tolist())


def estimated_cores(
    layers: Layers, counts: Mapping[str, LayerCount], profile: HardwareProfile, available: int, bound: int
) -> CoreEstimate:
    """Estimate the cores of layers that are counted.

    Parameters
    ----------
    available, bound : int
        Cores that the network may use, and the lower bound on those that it takes.
    """
    options = {
        layer.name: block_options(counts[layer.name], grid_of(layer), profile, ESTIMATE_STEP, ESTIMATE_SAMPLES)
        for layer in layers
    }
    n_neurons, axon, names = {layer.name: layer.n_neurons for layer in layers}, axon_share(profile), limited_resources(profile)
    slices, best = BlockAnnealing(options, n_neurons, axon), dict[str, Any]()
    for caution in ESTIMATE_CAUTIONS:
        blocks = {name: one.block for name, one in BlockSelection(options, n_neurons, axon, caution).select(0).items()}
        shares = slices.shares(blocks)
        if not best or sum(each.max() for each in shares.values()) < sum(each.max() for each in best.values()):
            best = shares
    least = {name: option.own[option.neurons.argmin()].max() for name, option in options.items()}
    # slices of a layer on one core receive an input once, so what binds is told from the fewest slices that fit
    fewest = slices.shares({name: largest_block(option) for name, option in options.items()})
    binds = int(np.sum(list(fewest.values()), axis=0).argmax())
    longest = max(connection.delay_steps for layer in layers for connection in layer.connections)
    has_long_delays = longest > profile.number("max_delay_steps", longest)
    return CoreEstimate(
        profile=profile, cores=max(math.ceil(sum(each.max() for each in best.values()) - 1e-9), bound), cores_available=available,
        cores_lower_bound=bound, binding=names[binds], layer_cores={name: float(each[binds]) for name, each in fewest.items()},
        too_large=next((name for name, share in least.items() if share > 1), ""),
        unchecked=tuple(
            kind.resource for key, kind in LAYER_LIMITS.items()
            if key in profile and (key != "max_delay_steps" or has_long_delays)
        ),
    )  # fmt: skip
