"""A placement: the slices of a network on the cores of a chip, what they use there, and the limits that they exceed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NeurodeployError, PlacementError, QuantizeError, counted
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import html_table
from neurodeploy.ir.connectivity import ConvWiring
from neurodeploy.ir.graph import INPUT, LayerGraph
from neurodeploy.ir.network import Network
from neurodeploy.mapping.energy import Traffic, mesh_of
from neurodeploy.mapping.traffic import Links
from neurodeploy.resources.usage import Region, Usage, limited_resources, usage_vector
from neurodeploy.targets import arithmetic_of, check_resets

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A region of a layer on a core, and what it uses there.

    Attributes
    ----------
    core : int
        Numbered from 0 through all chips.
    region : Region
        The neurons, as a box in the layer's grid.
    output_axons : int
        One for each pair of a neuron of the slice and a slice that receives from it.
    """

    layer: str
    core: int
    region: Region
    usage: Usage
    output_axons: int

    @property
    def name(self) -> str:
        """Name in reports: ``hidden[0:64]``."""
        return f"{self.layer}{self.region}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUse:
    """Usage of the chip by a layer, summed over its slices; `fan_in` is the largest of a neuron, `delay_steps` of a synapse."""

    layer: str
    cores: int
    slices: int
    neurons: int
    synapses: int
    synapse_memory_bits: int
    input_axons: int
    output_axons: int
    fan_in: int
    delay_steps: int
    encoding: str
    weight_bits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLimit:
    """A limit of a chip on layers or the input, which no partition into slices satisfies.

    Attributes
    ----------
    resource : str
        Short name, in `LimitOverrun.resource`.
    what : str
        The thing counted, for error texts.
    remedy : str
        What the reader can do, as a sentence.
    """

    resource: str
    what: str
    remedy: str


LAYER_LIMITS: Mapping[str, LayerLimit] = {
    "external_inputs": LayerLimit(
        resource="inputs", what="input neurons", remedy="Make the input smaller, for instance with fewer or larger pixels."
    ),
    "cores_per_layer": LayerLimit(
        resource="cores_per_layer", what="cores for the layer", remedy="Make the layer smaller, or split it into several."
    ),
    "targets_per_layer": LayerLimit(
        resource="targets", what="layers that receive its spikes", remedy="Let one of these layers relay the spikes to others."
    ),
    "fan_in_per_neuron": LayerLimit(
        resource="fan_in", what="synapses onto one neuron",
        remedy="Prune its neurons' inputs, or sum them over intermediate neurons.",
    ),
    "fan_out_per_neuron": LayerLimit(
        resource="fan_out", what="synapses from one neuron",
        remedy="Prune its neurons' outputs (`compress` prunes dense layers), or make the layers that receive its spikes smaller.",
    ),
    "max_delay_steps": LayerLimit(
        resource="delay_steps", what="steps of synaptic delay",
        remedy="Shorten the delay, or insert relay layers (`neurodeploy.balance`).",
    ),
}  # fmt: skip
"""Limits on layers and the input, by the key of a profile that states them."""
WITHOUT_BIASES = "This neuron brings the biases of the layers it leads to. Train the model without them (bias=False)."
"""Remedy for the fan-out of a layer that receives nothing: a frontend adds one neuron that fires at every step."""


_SMALLEST_SHARE = 0.1
"""Of a resource: layers that take less are not named where there are too few cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOverrun:
    """A limit that a placement breaks.

    Attributes
    ----------
    layer : str
        A layer on the core in question, the layer (`INPUT` for the network's input) that breaks it, or, of too many cores, the
        layer that takes most of them.
    resource : str
        One of `neurodeploy.resources.usage.RESOURCES`, ``"cores"``, or the `LayerLimit.resource` of a limit on layers.
    core : int or None
        The core in question; None where it is not about one.
    """

    layer: str
    resource: str
    core: int | None
    need: int
    limit: int
    source: str
    remedy: str

    def error(self) -> PlacementError:
        """The error that names the limit, its source and a remedy."""
        of_layers = {limit.resource: limit.what for limit in LAYER_LIMITS.values()} | {"cores": "cores"}
        what = of_layers[self.resource] if self.core is None else f"{self.resource} on core {self.core}"
        where = "the network's input" if self.layer == INPUT else f"layer {self.layer!r}"
        where = "network" if self.resource == "cores" else where
        return PlacementError(where, what, need=self.need, limit=self.limit, source=self.source, remedy=self.remedy)

    def __str__(self) -> str:
        return str(self.error())


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A network on the cores of a chip.

    Attributes
    ----------
    profile : HardwareProfile
    cores_available : int
        Cores that the network may use.
    cores_lower_bound : int
        Each resource's total over what a core has: no placement takes fewer cores.
    weight_bits, n_weights, connectivity : mapping by layer, first layer first
        Width of a weight, number of weights, zeros included (a convolution's count once), and the share that is not zero.
    slices : tuple of Slice
        By core, then by layer; every neuron is in exactly one.
    layer_usage : mapping by key of `LAYER_LIMITS`, then by layer
        What layers take of limits that do not depend on the slices; see `neurodeploy.resources.usage.layer_usage`.
    links : Links or None
        Traffic from slice to slice; None until it is computed.
    is_compressible : bool
        False where no compression makes the network fit: it is then no remedy.
    """

    profile: HardwareProfile
    cores_available: int
    cores_lower_bound: int
    weight_bits: Mapping[str, int]
    n_weights: Mapping[str, int]
    connectivity: Mapping[str, float]
    slices: tuple[Slice, ...]
    layer_usage: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    links: Links | None = None
    is_compressible: bool = True
    cores: tuple[int, ...] = field(init=False, repr=False)
    _totals: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cores = sorted({part.core for part in self.slices})
        row = {core: i for i, core in enumerate(cores)}
        totals = np.zeros((len(cores), len(self.resources)), dtype=np.int64)
        for part in self.slices:
            totals[row[part.core]] += used_by_slice(part, self.profile)
        object.__setattr__(self, "cores", tuple(cores))  # the class is frozen
        object.__setattr__(self, "_totals", totals)

    @property
    def resources(self) -> tuple[str, ...]:
        """Resources that a core of this chip limits."""
        return limited_resources(self.profile)

    @property
    def cores_used(self) -> int:
        return len(self.cores)

    @property
    def chips_used(self) -> int:
        return len({self.chip_of(core) for core in self.cores})

    @property
    def is_on_board(self) -> bool:
        """Whether the board has every core that is used."""
        return self.cores[-1] < self.profile.cores  # `cores` ascends

    def chip_of(self, core: int) -> int:
        """The chip that a core is on."""
        return core // self.profile["cores_per_chip"].number

    def on_core(self, core: int) -> dict[str, int]:
        """Usage of the core's slices together, by resource."""
        used = self._totals[self.cores.index(core)] if core in self.cores else np.zeros(len(self.resources), dtype=np.int64)
        return dict(zip(self.resources, used.tolist(), strict=True))

    def utilization(self, core: int) -> dict[str, float]:
        """`on_core` over the core's limits."""
        return {resource: used / self.profile.capacity(resource, core) for resource, used in self.on_core(core).items()}

    def is_full_of_memory(self, core: int) -> bool:
        """Whether at most a twentieth of a core's memory is free; fewer or narrower synapses than planned leave more."""
        return any(share >= 0.95 for name, share in self.utilization(core).items() if name.endswith("memory_bits"))

    def mean_utilization(self) -> dict[str, float]:
        """Share of each resource that is used on the cores that are, 0..1."""
        return dict(zip(self.resources, (self._totals.sum(axis=0) / self._capacity.sum(axis=0)).tolist(), strict=True))

    def utilizations(self) -> NDArray[np.float64]:
        """(n_cores, n_resources): `utilization` of all `cores` at once."""
        shares: NDArray[np.float64] = self._totals / self._capacity
        return shares

    @property
    def _capacity(self) -> NDArray[np.int64]:
        """(n_cores, n_resources): what each used core has."""
        cores = np.array(self.cores, dtype=np.int64)
        has = [np.array(self.profile[f"{resource}_per_core"].choices) for resource in self.resources]
        return np.stack([values[cores % values.size] for values in has], axis=-1)  # a list repeats chip by chip

    def traffic(self) -> Traffic | None:
        """Spikes from core to core, and what a step costs, as far as the profile has figures for it.

        None without links, or if the placement takes more cores than the board has.
        """
        return None if self.links is None or not self.is_on_board else self._traffic(self.links)

    def _traffic(self, links: Links) -> Traffic:
        homes = np.array([part.core for part in self.slices])
        neurons = np.array([part.usage.neurons for part in self.slices], dtype=np.float64)
        return Traffic(links=links, homes=homes, neurons=neurons, profile=self.profile)

    def to_networkx(self) -> nx.DiGraph:
        """The used cores as a networkx graph, with the spikes between them.

        Returns
        -------
        networkx.DiGraph
            A node for each used core, by its number, with the attributes `chip` (int), `slices` (tuple of names), `usage`
            (dict by resource) and, where the board has the core, `position` (column, row and level of its tile). With links,
            an edge for each pair of cores with traffic, a core with itself included, with `spikes` a step and, on the board,
            `hops` between tiles and `chip_crossings`.
        """
        import networkx as nx

        graph = nx.DiGraph(profile=self.profile.name)
        names: dict[int, list[str]] = {core: [] for core in self.cores}
        for part in self.slices:
            names[part.core].append(part.name)
        for core, used in zip(self.cores, self._totals.tolist(), strict=True):
            usage = dict(zip(self.resources, used, strict=True))
            graph.add_node(core, chip=self.chip_of(core), slices=tuple(names[core]), usage=usage)
        mesh = mesh_of(self.profile) if self.is_on_board else None
        if mesh is not None:
            at, (columns, rows) = mesh.position(np.array(self.cores)), mesh.columns_and_rows
            # Tiles of neighbouring chips adjoin, as in `Mesh`.
            places = np.stack([at.chip_x * columns + at.tile_x, at.chip_y * rows + at.tile_y, at.chip_z], axis=-1)
            for core, place in zip(self.cores, places.tolist(), strict=True):
                graph.nodes[core]["position"] = tuple(place)
        if self.links is not None:
            flow = self._traffic(self.links).flow  # its cores are indices into `cores`
            numbers = np.array(self.cores)
            source, target = numbers[flow.source], numbers[flow.target]
            for a, b, spikes in zip(source.tolist(), target.tolist(), flow.spikes.tolist(), strict=True):
                graph.add_edge(a, b, spikes=spikes)
            if mesh is not None:
                east_west, north_south, crossings = mesh.hops(source, target)
                hops = (east_west + north_south).tolist()
                for a, b, n, crossed in zip(source.tolist(), target.tolist(), hops, crossings.tolist(), strict=True):
                    graph.edges[a, b].update(hops=n, chip_crossings=crossed)
        return graph

    def moved(self, positions: NDArray[np.int64]) -> Placement:
        """The same slices on other cores: those of ``cores[i]`` move to ``positions[i]``."""
        to = dict(zip(self.cores, positions.tolist(), strict=True))
        order = sorted(range(len(self.slices)), key=lambda i: (to[self.slices[i].core], i))  # `slices` is by core, then by layer
        links = self.links
        if links is not None:
            now = np.empty(len(order) + 1, dtype=np.int64)
            now[order], now[-1] = np.arange(len(order)), -1  # the input's index -1 reads the last element, so it stays -1
            copies = links.copies._replace(source=now[links.copies.source], target=now[links.copies.target])
            links = replace(links, source=now[links.source], target=now[links.target], fired=links.fired[order], copies=copies)
        slices = tuple(replace(self.slices[i], core=to[self.slices[i].core]) for i in order)
        return replace(self, slices=slices, links=links)

    def of(self, layer: str) -> LayerUse:
        """Return the usage of a layer, summed over its slices."""
        parts = [part for part in self.slices if part.layer == layer]
        return LayerUse(
            layer=layer,
            cores=len({part.core for part in parts}),
            slices=len(parts),
            neurons=sum(part.usage.neurons for part in parts),
            synapses=sum(part.usage.synapses for part in parts),
            synapse_memory_bits=sum(part.usage.synapse_memory_bits for part in parts),
            input_axons=sum(part.usage.input_axons for part in parts),
            output_axons=sum(part.output_axons for part in parts),
            fan_in=max(part.usage.fan_in for part in parts),
            delay_steps=max(part.usage.delay_steps for part in parts),
            # A slice with several connections joins their encodings by +.
            encoding="+".join(sorted({name for part in parts for name in part.usage.encoding.split("+")})),
            weight_bits=self.weight_bits[layer],
        )

    def overruns(self) -> Iterator[LimitOverrun]:
        """Yield each limit that is exceeded: of cores in all, of a core's resources, of a layer or a neuron."""
        yield from self._too_many_cores()
        yield from self._other_limits()

    def _other_limits(self) -> Iterator[LimitOverrun]:
        capacity = self._capacity
        for row, column in np.argwhere(self._totals > capacity):
            core, resource = self.cores[row], self.resources[column]
            part = next(part for part in self.slices if part.core == core)  # any layer of the core: they exceed it together
            yield LimitOverrun(
                layer=part.layer, resource=resource, core=core, need=int(self._totals[row, column]),
                limit=int(capacity[row, column]), source=self.profile[f"{resource}_per_core"].where,
                remedy=self._remedy(part, resource),
            )  # fmt: skip
        for key, kind in LAYER_LIMITS.items():
            if key not in self.profile:  # not limited by this chip
                continue
            limit = self.profile[key]
            # the layer that takes most first
            for layer, need in sorted(self._usage_by_layer(key).items(), key=lambda item: -item[1]):
                if need > limit.number:
                    brings_biases = key == "fan_out_per_neuron" and not self.of(layer).synapses
                    yield LimitOverrun(
                        layer=layer, resource=kind.resource, core=None, need=need, limit=limit.number, source=limit.where,
                        remedy=WITHOUT_BIASES if brings_biases else kind.remedy,
                    )  # fmt: skip

    def _usage_by_layer(self, key: str) -> Mapping[str, int]:
        """Usage, by layer, of a limit in `LAYER_LIMITS`."""
        match key:
            case "cores_per_layer":
                return {layer: self.of(layer).cores for layer in self.weight_bits}
            case "fan_in_per_neuron":
                return {layer: self.of(layer).fan_in for layer in self.weight_bits}
            case "max_delay_steps":
                return {layer: self.of(layer).delay_steps for layer in self.weight_bits}
            case _:
                return self.layer_usage.get(key, {})

    def _remedy(self, part: Slice, resource: str) -> str:
        if part.region.n_neurons == 1:
            prune = "targets" if resource == "output_axons" else "inputs, or sum them over intermediate neurons"
            return f"This slice is a single neuron and cannot be cut further: prune its {prune}."
        if self.profile.number("cores_per_layer", 0) == 1:
            compress = ", or compress the network to a budget" if self.is_compressible else ""
            return f"{self.profile.name} keeps a layer on one core: make the layer smaller{compress}."
        return "Compress the network to a budget, or allow more cores." if self.is_compressible else "Allow more cores."

    def _too_many_cores(self) -> Iterator[LimitOverrun]:
        used, available = self.cores_used, self.cores_available
        if used > available:
            more = f"allow {used}" if used <= self.profile.cores else "take a larger chip"
            # more cores are a remedy only where no other limit is broken
            options = [f"compress it to {counted(available, 'core')}"] * self.is_compressible
            options += [more] * (next(self._other_limits(), None) is None)
            resource, shares = self.scarcest()
            board = f"{self.profile['chips'].where}, " if self.profile["chips"].number > 1 else ""
            largest = [f"{layer!r} takes {share:.0%}" for layer, share in shares.items() if share >= _SMALLEST_SHARE][:3]
            yield LimitOverrun(
                layer=next(iter(shares)), resource="cores", core=None, need=used, limit=available,
                source=f"{board}{self.profile['cores_per_chip'].where}" if available >= self.profile.cores else "cores allowed",
                remedy=f"Of {resource}, {', '.join(largest)}." + f" {', or '.join(options).capitalize()}." * bool(options),
            )  # fmt: skip

    def scarcest(self) -> tuple[str, dict[str, float]]:
        """Return the resource that the used cores are fullest of, and each layer's share of its use, largest first."""
        mean = self.mean_utilization()
        resource = max(mean, key=mean.__getitem__)
        of_layers = dict.fromkeys(self.weight_bits, 0)
        for part in self.slices:
            of_layers[part.layer] += int(used_by_slice(part, self.profile)[self.resources.index(resource)])
        total = max(sum(of_layers.values()), 1)
        return resource, {layer: used / total for layer, used in sorted(of_layers.items(), key=lambda item: -item[1])}

    def _repr_html_(self) -> str:
        """The verdict and a row a layer, for a notebook."""
        broken = [str(overrun) for overrun in self.overruns()]
        said = f"does not fit: {broken[0]}" if broken else f"fits: {self.cores_used:,} of {self.cores_available:,} cores"
        uses = (self.of(name) for name in self.weight_bits)  # first layer first
        return html_table(
            f"Placement on {self.profile.name}: {said}",
            ["layer", "cores", "slices", "neurons", "synapses", "stored as", "synapse memory, bits", "axons in", "axons out"],
            (
                (
                    use.layer, use.cores, use.slices, use.neurons, use.synapses, f"{use.weight_bits}-bit {use.encoding}",
                    use.synapse_memory_bits, use.input_axons, use.output_axons,
                )
                for use in uses
            ),
        )  # fmt: skip

    @property
    def fits(self) -> bool:
        return not any(True for _ in self.overruns())


def lasting_error(placement: Placement, network: LayerGraph[Any]) -> NeurodeployError | None:
    """What no pruning mends: another reset than the target's, or the first limit on inputs, targets or shared fan-out."""
    if isinstance(network, Network):
        try:
            check_resets(network, arithmetic_of(placement.profile))
        except QuantizeError as error:
            return error

    def lasts(one: LimitOverrun) -> bool:
        if one.resource != "fan_out":
            return one.resource in ("inputs", "targets")
        shared = [c.synapse.fan_out() for _, c in network.targets(one.layer) if isinstance(c.synapse, ConvWiring)]
        return bool(shared) and int(np.sum(shared, axis=0).max()) > one.limit

    return next((one.error() for one in placement.overruns() if lasts(one)), None)


def used_by_slice(part: Slice, profile: HardwareProfile) -> NDArray[np.int64]:
    """Usage of each limited resource (n_resources,) by a slice."""
    return usage_vector(part.usage, part.output_axons, profile)
