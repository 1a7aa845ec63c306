"""Where it goes: which neurons stand on which core, and what they take there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from neurodeploy.errors import PlacementError
from neurodeploy.hardware import HardwareProfile, Limit
from neurodeploy.resources import Usage

RESOURCES = ("neurons", "synapse_memory_bits", "input_axons", "output_axons")
"""What a core has a limit of; the profile's key is the name with ``_per_core``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Neurons start..stop-1 of a layer, on a core, and what they use there.

    Attributes
    ----------
    core : int
        Numbered from 0 through all chips.
    output_axons : int
        One for each neuron and core that its spikes go to.
    """

    layer: str
    core: int
    start: int
    stop: int
    usage: Usage
    output_axons: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUse:
    """What a layer uses of the chip, summed over its slices; axons count once a core."""

    layer: str
    cores: int
    neurons: int
    synapses: int
    synapse_memory_bits: int
    input_axons: int
    output_axons: int
    encoding: str
    weight_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """A limit that a placement breaks.

    Attributes
    ----------
    layer : str
        The layer that stands where it breaks.
    resource : str
        One of `RESOURCES`, or ``"cores"``.
    core : int or None
        The core in question; None where there are too many of them.
    """

    layer: str
    resource: str
    core: int | None
    need: int
    limit: int
    source: str
    remedy: str

    def error(self) -> PlacementError:
        """The overrun as the error that says so."""
        what = "cores for the network" if self.core is None else f"{self.resource} on core {self.core}"
        return PlacementError(
            f"layer {self.layer!r}", what, need=self.need, limit=self.limit, source=self.source, remedy=self.remedy
        )

    def __str__(self) -> str:
        return str(self.error())


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A network on the cores of a chip.

    Attributes
    ----------
    profile : HardwareProfile
    cores_available : int
        Cores that the network was given.
    cores_lower_bound : int
        No placement takes fewer: the totals of neurons, axons and index-free synapse bits over what a core has.
    weight_bits, n_weights : mapping by layer, first layer first
        Width of a weight, and how many there are, zeros included.
    slices : tuple of Slice
        By core, then by layer; every neuron stands in exactly one.
    """

    profile: HardwareProfile
    cores_available: int
    cores_lower_bound: int
    weight_bits: dict[str, int]
    n_weights: dict[str, int]
    slices: tuple[Slice, ...]

    @property
    def cores_used(self) -> int:
        return len({part.core for part in self.slices})

    def on_core(self, core: int) -> dict[str, int]:
        """What the core's slices use together, by resource."""
        parts = [part for part in self.slices if part.core == core]
        return {resource: sum(use_of(part, resource) for part in parts) for resource in RESOURCES}

    def utilization(self, core: int) -> dict[str, float]:
        """`on_core` over the core's limits."""
        return {resource: used / limit_of(self.profile, resource).number for resource, used in self.on_core(core).items()}

    def of(self, layer: str) -> LayerUse:
        """What a layer uses in all."""
        parts = [part for part in self.slices if part.layer == layer]
        return LayerUse(
            layer=layer,
            cores=len({part.core for part in parts}),
            neurons=sum(part.usage.neurons for part in parts),
            synapses=sum(part.usage.synapses for part in parts),
            synapse_memory_bits=sum(part.usage.synapse_memory_bits for part in parts),
            input_axons=sum(part.usage.input_axons for part in parts),
            output_axons=sum(part.output_axons for part in parts),
            encoding="+".join(sorted({str(part.usage.encoding) for part in parts})),
            weight_bits=self.weight_bits[layer],
        )

    def overruns(self) -> Iterator[Overrun]:
        """Each broken limit: too many cores, or a core with too much on it."""
        used, given = self.cores_used, self.cores_available
        if used > given:
            last = max(self.slices, key=lambda part: part.core)
            more = f"give it {used}" if used <= self.profile.cores else "take a larger chip"
            yield Overrun(
                layer=last.layer, resource="cores", core=None, need=used, limit=given,
                source=f"cores given; {self.profile.cores_per_chip.where}",
                remedy=f"Compress it under a budget of {given} cores, or {more}.",
            )  # fmt: skip
        for core in sorted({part.core for part in self.slices}):
            for resource, need in self.on_core(core).items():
                limit = limit_of(self.profile, resource)
                if need > limit.number:
                    part = next(part for part in self.slices if part.core == core)
                    yield Overrun(
                        layer=part.layer, resource=resource, core=core, need=need, limit=limit.number, source=limit.where,
                        remedy="Compress it under a budget, or split it over more cores.",
                    )  # fmt: skip

    @property
    def fits(self) -> bool:
        return not any(True for _ in self.overruns())


def limit_of(profile: HardwareProfile, resource: str) -> Limit:
    """What a core of the chip has of a resource."""
    limit: Limit = getattr(profile, f"{resource}_per_core")
    return limit


def use_of(part: Slice, resource: str) -> int:
    """What a slice takes of a resource of its core."""
    return part.output_axons if resource == "output_axons" else int(getattr(part.usage, resource))
