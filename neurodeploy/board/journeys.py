"""How far spikes travel on a board, over which links, and what a step costs in energy and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurodeploy.board.energy import EventCost, Figures, StepEstimate, StepEvents, estimate_step
from neurodeploy.board.links import ENCODINGS, Links
from neurodeploy.board.mesh import Mesh
from neurodeploy.board.traffic import Flow, spike_hops
from neurodeploy.hardware import HardwareProfile

_EVENTS = (
    "synop_dense", "synop_sparse", "synop_convolution", "neuron_access", "neuron_update", "neuron_spike", "message_in",
    "message_out", "hop_east_west", "hop_north_south", "hop_between_chips",
)  # fmt: skip


def mesh_of(profile: HardwareProfile) -> Mesh:
    """Where the cores of a profile's board stand."""
    chips = profile["chips"].number
    return Mesh(
        chips=chips,
        chip_mesh=profile["chip_mesh"].choices if "chip_mesh" in profile else (chips,),
        cores_per_chip=profile["cores_per_chip"].number,
        cores_per_tile=profile.number("cores_per_tile", 1),
        tile_mesh=profile["tile_mesh"].choices if "tile_mesh" in profile else (),
    )


def figures_of(profile: HardwareProfile) -> Figures | None:
    """What events cost on a chip; None where the profile does not say what a synaptic operation takes.

    An event that the profile prices neither in energy nor in time counts as free; `unpriced` lists them.
    """
    if "synop_sparse_energy" not in profile:
        return None
    waits = "sync_tiles" in profile and "sync_time" in profile
    tiles, times = (profile["sync_tiles"].choices, profile["sync_time"].choices) if waits else ((1,), (0,))
    costs = {
        event: EventCost(energy_j=_figure(profile, f"{event}_energy") * 1e-12, time_s=_figure(profile, f"{event}_time") * 1e-9)
        for event in _EVENTS
    }
    return Figures(**costs, sync_tiles=tiles, sync_time_s=tuple(time * 1e-9 for time in times))


def unpriced(profile: HardwareProfile) -> tuple[str, ...]:
    """Events that a profile gives no energy for."""
    return tuple(event for event in _EVENTS if f"{event}_energy" not in profile)


def _figure(profile: HardwareProfile, key: str) -> float:
    return profile[key].figure if key in profile else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Traffic:
    """The spikes of an average step on a board.

    Attributes
    ----------
    links : Links
        From slice to slice.
    homes, neurons : array (n_slices,)
        The core that each slice stands on, and how many neurons it has.
    """

    links: Links
    homes: NDArray[np.int64]
    neurons: NDArray[np.float64]
    profile: HardwareProfile

    @property
    def flow(self) -> Flow:
        """From core to core, the input left out; cores by their place among those that are used."""
        inside = self.links.source >= 0
        _, place = np.unique(self.homes, return_inverse=True)
        pairs = np.stack([place[self.links.source[inside]], place[self.links.target[inside]]])
        n_cores = int(place.max()) + 1
        keys, which = np.unique(pairs[0] * n_cores + pairs[1], return_inverse=True)
        spikes = np.bincount(which, self.links.spikes[inside], keys.size).astype(np.float64)
        return Flow(source=keys // n_cores, target=keys % n_cores, spikes=spikes)

    def spike_hops(self) -> float:
        """Spikes x hops a step: tiles crossed, a crossing from chip to chip at its price."""
        return spike_hops(self.flow, np.unique(self.homes), mesh_of(self.profile))

    def between_chips(self) -> float:
        """Spikes a step that leave their chip."""
        chip = self.homes // self.profile["cores_per_chip"].number
        inside = self.links.source >= 0
        crosses = chip[self.links.source[inside]] != chip[self.links.target[inside]]
        return float(self.links.spikes[inside][crosses].sum())

    def on_links(self) -> NDArray[np.float64]:
        """(chips, rows, columns, 4): spikes a step over the links of each tile to its east, west, south and north.

        A spike goes along its row first and then along its column, within a chip; chips that it crosses are left out.
        """
        return link_loads(self.flow, np.unique(self.homes), mesh_of(self.profile))

    def events(self) -> StepEvents:
        """What happens on each used core in a step."""
        links, mesh = self.links, mesh_of(self.profile)
        cores, place = np.unique(self.homes, return_inverse=True)
        target, inside = place[links.target], links.source >= 0
        source = np.where(inside, place[links.source], -1)
        synops = [_summed(target, links.synops * (links.encoding == n), cores.size) for n in range(len(ENCODINGS))]
        east, north, chips = mesh.hops(cores[np.where(inside, source, target)], cores[target])
        neurons = _summed(place, self.neurons, cores.size)
        return StepEvents(
            synops_dense=synops[0], synops_sparse=synops[1], synops_convolution=synops[2], neuron_accesses=neurons,
            neuron_updates=neurons, spikes=_summed(place, links.fired, cores.size), flow_source=source, flow_target=target,
            flow_messages=links.spikes, flow_hops_east_west=east, flow_hops_north_south=north, flow_hops_between_chips=chips,
            tiles_used=np.unique(cores // mesh.cores_per_tile).size,
        )  # fmt: skip

    def estimate(self) -> StepEstimate | None:
        """Energy and time of a step by the profile's figures; None where it has none. Every neuron counts as updated."""
        figures = figures_of(self.profile)
        return None if figures is None else estimate_step(self.events(), figures)


def _summed(where: NDArray[np.int64], what: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return np.bincount(where, what, n).astype(np.float64)


def link_loads(flow: Flow, position: NDArray[np.int64], mesh: Mesh) -> NDArray[np.float64]:
    """`Traffic.on_links` of logical cores that stand on physical cores `position`."""
    columns, rows = mesh.columns_and_rows
    at = mesh.position(position)
    a, b = flow.source, flow.target
    same = at.chip[a] == at.chip[b]
    a, b, spikes = a[same], b[same], flow.spikes[same]
    loads = np.zeros((mesh.chips, rows + 1, columns + 1, 4))
    for axis, (here, there, fixed) in enumerate(
        ((at.tile_x[a], at.tile_x[b], at.tile_y[a]), (at.tile_y[a], at.tile_y[b], at.tile_x[b]))
    ):
        for back in (0, 1):
            goes = there < here if back else there > here
            start, stop = (there + 1, here + 1) if back else (here, there)
            for sign, end in ((1.0, start), (-1.0, stop)):
                index = (end, fixed) if axis else (fixed, end)
                np.add.at(loads, (at.chip[a][goes], index[0][goes], index[1][goes], 2 * axis + back), sign * spikes[goes])
    loads[..., 0:2] = loads[..., 0:2].cumsum(axis=2)
    loads[..., 2:4] = loads[..., 2:4].cumsum(axis=1)
    return loads[:, :rows, :columns]
