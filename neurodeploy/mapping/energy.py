"""Energy and time of a step on a board, estimated from counted events and the chip's figures; loads of the mesh's links.

Energy is a sum: each event costs what its kind costs. Time is set by the slowest core. Within a step each core works through two
queues in parallel, and the step ends, with a synchronisation of all tiles, when the last queue of the slowest core is empty::

    sending   = accesses + updates + spikes of its neurons, one after the other, + messages out
    receiving = messages in + synaptic operations
    time      = max over cores (sending, receiving) + the longest path through the mesh + synchronisation

That is how SANA-FE (Boyle et al., IEEE TCAD 2025, doi 10.1109/TCAD.2025.3537971) prices events, with its figures for Loihi after
Davies et al. 2018. Congestion of the mesh is not modelled, so the time is too short where one core's messages delay another's, or
where a core's work all comes late in the step; benchmarks/sanafe_check.py measures by how much.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, ProfileError
from neurodeploy.hardware.profile import ROUTINGS, HardwareProfile
from neurodeploy.ir.arrays import ByValue, check_range, freeze
from neurodeploy.mapping.traffic import ENCODINGS, Copies, Flow, Links, Mesh, spike_hops

OUTSIDE = -1
"""Source of input from off the chip: it costs its target core, and hops if it has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCost:
    """Energy and time of one event, >= 0."""

    energy_j: float
    time_s: float

    def __post_init__(self) -> None:
        if not (0 <= self.energy_j < np.inf and 0 <= self.time_s < np.inf):
            raise ProfileError("EventCost", f"{self.energy_j} J and {self.time_s} s are not both finite and 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Cost of one event of each kind on a chip, and of the synchronisation that ends a step.

    Attributes
    ----------
    synop_dense, synop_sparse, synop_convolution : EventCost
        One synapse of an arriving message, by how its axon is stored.
    neuron_access, neuron_update, neuron_spike : EventCost
        A neuron is accessed in every step, updated where its state or input is not zero, and some fire: costs add up.
    message_in, message_out : EventCost
        One (neuron that fires, target core) pair, at the target and at the source.
    hop_east_west, hop_north_south, hop_between_chips : EventCost
        One message over one link of the mesh, or from chip to chip.
    sync_tiles, sync_time_s : tuple
        From so many used tiles on, synchronisation takes so long; ascending, the first from 1 tile.
    """

    synop_dense: EventCost
    synop_sparse: EventCost
    synop_convolution: EventCost
    neuron_access: EventCost
    neuron_update: EventCost
    neuron_spike: EventCost
    message_in: EventCost
    message_out: EventCost
    hop_east_west: EventCost
    hop_north_south: EventCost
    hop_between_chips: EventCost
    sync_tiles: tuple[int, ...]
    sync_time_s: tuple[float, ...]

    def __post_init__(self) -> None:
        steps = list(self.sync_tiles)
        # The last test refuses equal entries too: a number of tiles has one time.
        if len(steps) != len(self.sync_time_s) or steps[:1] != [1] or steps != sorted(set(steps)):
            raise ProfileError("sync_tiles", f"{self.sync_tiles} has to ascend from 1 tile, with one sync_time_s for each")

    def cost(self, kind: str) -> EventCost:
        """The cost of an event by the name of its kind."""
        cost: EventCost = getattr(self, kind)
        return cost

    def sync_s(self, tiles_used: int) -> float:
        """Time to synchronise so many tiles: the table's last entry that they reach; none where nothing is used."""
        reached = [time for tiles, time in zip(self.sync_tiles, self.sync_time_s, strict=True) if tiles <= tiles_used]
        return reached[-1] if reached else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepEvents(ByValue):
    """Events of a step, or of an average one: by core, and messages by flow from core to core.

    Attributes
    ----------
    synops_dense, synops_sparse, synops_convolution : array (n_cores,), float64
        Synapses that arriving messages activate, zeros of a dense axon included.
    neuron_accesses, neuron_updates, spikes : array (n_cores,), float64
        Neurons on the core, those with anything to compute, and those that fire.
    flow_source, flow_target : array (n_flows,), int64
        Indices into the arrays above; `OUTSIDE` for a source off the chip.
    flow_messages : array (n_flows,), float64
        One for each neuron that fires and has a synapse on the target core.
    flow_hops_east_west, flow_hops_north_south, flow_hops_between_chips : array (n_flows,), int64
        Links that one message of the flow crosses.
    tiles_used : int
        Tiles with a neuron on them.
    """

    synops_dense: NDArray[np.float64]
    synops_sparse: NDArray[np.float64]
    synops_convolution: NDArray[np.float64]
    neuron_accesses: NDArray[np.float64]
    neuron_updates: NDArray[np.float64]
    spikes: NDArray[np.float64]
    flow_source: NDArray[np.int64]
    flow_target: NDArray[np.int64]
    flow_messages: NDArray[np.float64]
    flow_hops_east_west: NDArray[np.int64]
    flow_hops_north_south: NDArray[np.int64]
    flow_hops_between_chips: NDArray[np.int64]
    tiles_used: int

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self) if field.name != "tiles_used"]
        for name in names:
            freeze(self, name, np.int64 if name in INTEGER_FIELDS else np.float64)
        for name in names:
            # Arrays named flow_*: one entry for each flow; others: one for each core.
            array, like = getattr(self, name), self.flow_messages if name.startswith("flow_") else self.spikes
            if array.ndim != 1 or array.shape != like.shape:
                raise NetworkError(f"StepEvents.{name}", f"has shape {array.shape}, not {like.shape}")
            low = OUTSIDE if name == "flow_source" else 0  # only a source may lie off the chip
            check_range(self, name, low, self.n_cores - 1 if name in ("flow_source", "flow_target") else np.inf)

    @property
    def n_cores(self) -> int:
        return int(self.spikes.size)

    @property
    def messages_in(self) -> NDArray[np.float64]:
        """(n_cores,): messages that arrive, from outside too."""
        return self._at(self.flow_target)

    @property
    def messages_out(self) -> NDArray[np.float64]:
        """(n_cores,): messages that leave, one for each target core."""
        return self._at(self.flow_source)

    def _at(self, core: NDArray[np.int64]) -> NDArray[np.float64]:
        on_chip = core != OUTSIDE  # bincount takes no negative index
        totals: NDArray[np.float64] = np.bincount(core[on_chip], self.flow_messages[on_chip], self.n_cores).astype(np.float64)
        return totals

    def flow_travel_s(self, figures: Figures) -> NDArray[np.float64]:
        """Travel time of one message of each flow (n_flows,), in seconds."""
        way: NDArray[np.float64] = (
            self.flow_hops_east_west * figures.hop_east_west.time_s
            + self.flow_hops_north_south * figures.hop_north_south.time_s
            + self.flow_hops_between_chips * figures.hop_between_chips.time_s
        )
        return way

    def by_kind(self) -> dict[str, NDArray[np.float64]]:
        """Events of each kind that `Figures` has a cost for: by core, hops by flow."""
        return {
            "synop_dense": self.synops_dense,
            "synop_sparse": self.synops_sparse,
            "synop_convolution": self.synops_convolution,
            "neuron_access": self.neuron_accesses,
            "neuron_update": self.neuron_updates,
            "neuron_spike": self.spikes,
            "message_in": self.messages_in,
            "message_out": self.messages_out,
            "hop_east_west": self.flow_messages * self.flow_hops_east_west,
            "hop_north_south": self.flow_messages * self.flow_hops_north_south,
            "hop_between_chips": self.flow_messages * self.flow_hops_between_chips,
        }


INTEGER_FIELDS = {"flow_source", "flow_target", "flow_hops_east_west", "flow_hops_north_south", "flow_hops_between_chips"}
SENDING_EVENTS = ("neuron_access", "neuron_update", "neuron_spike", "message_out")
RECEIVING_EVENTS = ("message_in", "synop_dense", "synop_sparse", "synop_convolution")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEstimate:
    """Estimated energy and time of a step.

    Attributes
    ----------
    energy_j, time_s : float
    energy_j_by_kind : dict of str to float
        By the names of `Figures`; they add up to `energy_j`.
    sending_s, receiving_s : float
        Time of the two queues of the busiest core.
    flight_s : float
        The longest path of a message through the mesh.
    sync_s : float
        Synchronisation at the end. `time_s` is the longer of the two queues, plus flight and synchronisation.
    busiest_core : int
        Index into the events' arrays; from `Traffic.estimate`, the core's number on the board. -1 where there is no core.
    busiest_s_by_kind : dict of str to float
        Time of each kind of event in the longer of its two queues, which sets the time of the step.
    energy_range_j, time_range_s : (float, float) or None
        What the profile says of how far a step may be from the estimate; None where it says nothing.
    is_assumed : bool
        Whether the figures are assumptions.
    """

    energy_j: float
    time_s: float
    energy_j_by_kind: dict[str, float]
    sending_s: float
    receiving_s: float
    flight_s: float
    sync_s: float
    busiest_core: int
    busiest_s_by_kind: dict[str, float]
    energy_range_j: tuple[float, float] | None = None
    time_range_s: tuple[float, float] | None = None
    is_assumed: bool = False


def estimate_step(events: StepEvents, figures: Figures) -> StepEstimate:
    """Estimate energy and time of a step with these events on a chip with these figures.

    The busiest core changes from step to step, so the time of the average step is shorter than the mean time of the steps, by up
    to a fifth where few neurons fire. If the steps are known one by one, estimate each and take the mean; energies agree.
    """
    counts = events.by_kind()
    energy = {kind: float(n.sum()) * figures.cost(kind).energy_j for kind, n in counts.items()}
    sending, receiving = queues_s(events, figures)
    busy = np.maximum(sending, receiving)
    core = int(busy.argmax()) if busy.size else -1
    # A flow that is seen in one step of ten has a tenth of a message, and lengthens the average by a tenth of its way.
    flight = np.minimum(events.flow_messages, 1) * events.flow_travel_s(figures)
    flight_s = float(flight.max(initial=0.0))
    sync_s = figures.sync_s(events.tiles_used)
    return StepEstimate(
        energy_j=sum(energy.values()),
        time_s=float(busy.max(initial=0.0)) + flight_s + sync_s,
        energy_j_by_kind=energy,
        sending_s=float(sending[core]) if busy.size else 0.0,
        receiving_s=float(receiving[core]) if busy.size else 0.0,
        flight_s=flight_s,
        sync_s=sync_s,
        busiest_core=core,
        busiest_s_by_kind={} if core < 0 else {
            kind: float(counts[kind][core]) * figures.cost(kind).time_s
            for kind in (SENDING_EVENTS if sending[core] > receiving[core] else RECEIVING_EVENTS)
        },
    )  # fmt: skip


def queues_s(events: StepEvents, figures: Figures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Time that each core takes to send and to receive: two arrays (n_cores,), in seconds."""
    counts, none = events.by_kind(), np.zeros(events.n_cores)  # `none`: the sum of no arrays is still an array
    sending = sum((counts[kind] * figures.cost(kind).time_s for kind in SENDING_EVENTS), none)
    receiving = sum((counts[kind] * figures.cost(kind).time_s for kind in RECEIVING_EVENTS), none)
    return sending, receiving


EVENTS = (
    "synop_dense", "synop_sparse", "synop_convolution", "neuron_access", "neuron_update", "neuron_spike", "message_in",
    "message_out", "hop_east_west", "hop_north_south", "hop_between_chips",
)  # fmt: skip


def mesh_of(profile: HardwareProfile) -> Mesh:
    """The geometry of a profile's board."""
    chips = profile["chips"].number
    return Mesh(
        chips=chips,
        chip_mesh=profile["chip_mesh"].choices if "chip_mesh" in profile else (chips,),  # by default chips lie in a row
        cores_per_chip=profile["cores_per_chip"].number,
        cores_per_tile=profile.number("cores_per_tile", 1),  # without tiles each core is its own
        tile_mesh=profile["tile_mesh"].choices if "tile_mesh" in profile else (),
    )


def figures_of(profile: HardwareProfile) -> Figures | None:
    """Costs of events on a chip; None where the profile has none for a synaptic operation.

    An event without energy and time in the profile counts as free; `unpriced` lists them.
    """
    if "synop_sparse_energy" not in profile:
        return None
    # Without both figures synchronisation takes no time.
    waits = "sync_tiles" in profile and "sync_time" in profile
    tiles, times = (profile["sync_tiles"].choices, profile["sync_time"].choices) if waits else ((1,), (0,))

    def figure(key: str) -> float:
        return profile[key].figure if key in profile else 0.0

    costs = {
        event: EventCost(energy_j=figure(f"{event}_energy") * 1e-12, time_s=figure(f"{event}_time") * 1e-9) for event in EVENTS
    }
    return Figures(**costs, sync_tiles=tiles, sync_time_s=tuple(time * 1e-9 for time in times))  # profiles state pJ and ns


def unpriced(profile: HardwareProfile) -> tuple[str, ...]:
    """Events that a profile gives no energy for."""
    return tuple(event for event in EVENTS if f"{event}_energy" not in profile)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """Spikes of an average step on a board.

    Attributes
    ----------
    links : Links
        From slice to slice.
    homes, neurons : array (n_slices,)
        Core of each slice, and its number of neurons.
    """

    links: Links
    homes: NDArray[np.int64]
    neurons: NDArray[np.float64]
    profile: HardwareProfile

    @property
    def flow(self) -> Flow:
        """Spikes from core to core without the network's input; cores numbered among those that are used."""
        inside = self.links.source >= 0
        _, place = np.unique(self.homes, return_inverse=True)
        pairs = np.stack([place[self.links.source[inside]], place[self.links.target[inside]]])
        n_cores = int(place.max()) + 1
        # A key for each pair of cores: links between the same pair add up.
        keys, which = np.unique(pairs[0] * n_cores + pairs[1], return_inverse=True)
        spikes = np.bincount(which, self.links.spikes[inside], keys.size).astype(np.float64)
        return Flow(source=keys // n_cores, target=keys % n_cores, spikes=spikes)

    def spike_hops(self) -> float:
        """Spikes x hops a step, crossings from chip to chip weighted by their cost."""
        return spike_hops(self.flow, np.unique(self.homes), mesh_of(self.profile))

    def multicast_hops(self) -> float:
        """Spikes x hops a step if the copies of a spike crossed each link of their routes once, as routers that copy have it."""
        return multicast_hops(self.links.copies, self.homes, mesh_of(self.profile))

    @property
    def routings(self) -> tuple[str, ...]:
        """How the chip sends a spike to several cores: names in `ROUTINGS`, none where its profile does not say."""
        return self.profile["routings"].names if "routings" in self.profile else ()

    @property
    def routing(self) -> str:
        """`routings` as a clause."""
        return " ".join(ROUTINGS[name] for name in self.routings) or "how this chip sends copies is not known"

    def between_chips(self) -> float:
        """Spikes a step that leave their chip."""
        chip = self.homes // self.profile["cores_per_chip"].number
        inside = self.links.source >= 0
        crosses = chip[self.links.source[inside]] != chip[self.links.target[inside]]
        return float(self.links.spikes[inside][crosses].sum())

    def on_links(self) -> NDArray[np.float64]:
        """(used chips, rows, columns, 4): spikes a step over the links of each tile to its east, west, south and north.

        Spikes travel along the row first, then along the column; only spikes within a chip are counted.
        """
        return link_loads(self.flow, np.unique(self.homes), mesh_of(self.profile))

    @property
    def busiest_link(self) -> float | None:
        """Spikes a step over the busiest link within a chip; None for a crossbar, which has no links between tiles."""
        return float(self.on_links().max(initial=0.0)) if mesh_of(self.profile).tile_mesh else None

    def events(self) -> StepEvents:
        """Events on each used core in a step."""
        links, mesh = self.links, mesh_of(self.profile)
        cores, place = np.unique(self.homes, return_inverse=True)
        target, inside = place[links.target], links.source >= 0
        source = np.where(inside, place[links.source], -1)  # -1 is `OUTSIDE`

        def summed(where: NDArray[np.int64], what: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(where, what, cores.size).astype(np.float64)

        # In the order of ENCODINGS.
        synops = [summed(target, links.synops * (links.encoding == n)) for n in range(len(ENCODINGS))]
        # Input is priced as if it came from its target core: no hops, since nothing says where it enters the board.
        east, north, chips = mesh.hops(cores[np.where(inside, source, target)], cores[target])
        # Which neurons have nothing to update is not known from rates, so all count as updated.
        neurons = summed(place, self.neurons)
        return StepEvents(
            synops_dense=synops[0], synops_sparse=synops[1], synops_convolution=synops[2], neuron_accesses=neurons,
            neuron_updates=neurons, spikes=summed(place, links.fired), flow_source=source, flow_target=target,
            flow_messages=links.spikes, flow_hops_east_west=east, flow_hops_north_south=north, flow_hops_between_chips=chips,
            tiles_used=np.unique(cores // mesh.cores_per_tile).size,
        )  # fmt: skip

    def estimate(self) -> StepEstimate | None:
        """Energy and time of a step by the profile's figures; None where it has none. Every neuron counts as updated."""
        figures = figures_of(self.profile)
        if figures is None:
            return None
        estimate = estimate_step(self.events(), figures)

        def between(key: str, value: float) -> tuple[float, float] | None:
            if key not in self.profile:
                return None
            least, greatest = self.profile[key].factors
            return least * value, greatest * value

        return replace(
            estimate,
            busiest_core=int(np.unique(self.homes)[estimate.busiest_core]) if estimate.busiest_core >= 0 else -1,
            energy_range_j=between("energy_range", estimate.energy_j),
            time_range_s=between("time_range", estimate.time_s),
            is_assumed=self.profile["synop_sparse_energy"].assumed,
        )


def multicast_hops(copies: Copies, position: NDArray[np.int64], mesh: Mesh) -> float:
    """`Traffic.multicast_hops` of slices on physical cores `position`: spikes x the links of the union of their routes.

    A route leads along x, then along y, then from level to level. So the union is, for each spike, a stretch of the source's
    row, in each column of a target a stretch of that column, and at each tile of a target a stretch of levels.
    """
    if copies.group.size == 0:
        return 0.0
    total, points = 0.0, mesh.points(position)
    if not mesh.tile_mesh:  # a crossbar: one hop to each core
        there = np.unique(np.stack([copies.group, position[copies.target]]), axis=1)
        total += float(copies.spikes[there[0]] @ (there[1] != position[copies.source[there[0]]]))
    places = [np.unique(line, return_inverse=True) for line in points.T]
    prefixes = [copies.group]
    for values, index in places:
        prefixes.append(prefixes[-1] * values.size + index.ravel()[copies.target])
    order = np.unique(prefixes[-1], return_index=True)[1]  # sorted by group, column, row and level
    group, target = copies.group[order], copies.target[order]
    for line, prefix in zip(points.T, prefixes, strict=False):
        first = np.flatnonzero(np.diff(prefix[order], prepend=-1))
        here, there = line[copies.source[group[first]]], line[target]
        stretch = np.maximum(here, np.maximum.reduceat(there, first)) - np.minimum(here, np.minimum.reduceat(there, first))
        total += float(copies.spikes[group[first]] @ stretch)
    return total


def link_loads(flow: Flow, position: NDArray[np.int64], mesh: Mesh) -> NDArray[np.float64]:
    """`Traffic.on_links` of logical cores on physical cores `position`."""
    columns, rows = mesh.columns_and_rows
    at = mesh.position(position)
    a, b = flow.source, flow.target
    used, chip = np.unique(at.chip, return_inverse=True)  # a board may have far more chips than the network takes
    same = chip[a] == chip[b]
    a, b, spikes = a[same], b[same], flow.spikes[same]
    loads = np.zeros((len(used), rows + 1, columns + 1, 4))  # one more row and column: a run may end one past the last tile
    for axis, (here, there, fixed) in enumerate(
        # Along x in the source's row, then along y in the target's column.
        ((at.tile_x[a], at.tile_x[b], at.tile_y[a]), (at.tile_y[a], at.tile_y[b], at.tile_x[b]))
    ):
        for back in (0, 1):
            goes = there < here if back else there > here
            start, stop = (there + 1, here + 1) if back else (here, there)  # a link belongs to the tile that a spike leaves
            # +1 where a run of tiles begins and -1 behind its end: the cumulative sums below fill in what lies between.
            for sign, end in ((1.0, start), (-1.0, stop)):
                index = (end, fixed) if axis else (fixed, end)
                np.add.at(loads, (chip[a][goes], index[0][goes], index[1][goes], 2 * axis + back), sign * spikes[goes])
    loads[..., 0:2] = loads[..., 0:2].cumsum(axis=2)
    loads[..., 2:4] = loads[..., 2:4].cumsum(axis=1)
    return loads[:, :rows, :columns]
