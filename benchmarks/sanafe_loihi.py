"""A placed network in SANA-FE, event by event on its model of Loihi; and the same events, counted for `estimate_step`.

SANA-FE is GPL-3, lives in the dependency group `sanafe`, and is imported here alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import sanafe
import yaml
from numpy.typing import NDArray

from neurodeploy.mapping.energy import EventCost, Figures, StepEvents, queues_s

CORES_PER_TILE, TILES_NORTH_SOUTH = 4, 4
UNITS = {"dense": "loihi_dense_synapse", "sparse": "loihi_sparse_synapse", "convolution": "loihi_conv_synapse"}


@dataclass(frozen=True, kw_only=True)
class PlacedLayer:
    """A layer as arrays, each neuron on a core.

    Attributes
    ----------
    weight : array (n_out, n_in)
    core : array (n_out,), int
        Number of the core on the chip, 4 to a tile.
    encoding : array (n_out,) of "dense" | "sparse" | "convolution"
        How the slice that the neuron stands in stores its axons; one encoding a core.
    threshold, leak : float
        SANA-FE's membranes keep `leak` of their potential a step and fire above `threshold`.
    """

    weight: NDArray[np.float64]
    core: NDArray[np.int64]
    encoding: NDArray[np.str_]
    threshold: float
    leak: float = 0.9

    def synapses(self) -> NDArray[np.bool_]:
        """(n_out, n_in): what is stored: a dense slice keeps a weight for all its neurons wherever one is not zero."""
        stored = self.weight != 0
        for core in np.unique(self.core):
            here = (self.core == core) & (self.encoding == "dense")
            stored[here] = stored[here].any(axis=0)
        return stored


@dataclass(frozen=True, kw_only=True)
class SimulatedSteps:
    """What SANA-FE measured, step by step.

    Attributes
    ----------
    energy_j, time_s : array (n_steps,)
    fired, updated : list of array (n, n_steps), bool
        By layer, the input first.
    energy_j_by_part : dict of str to array (n_steps,)
        SANA-FE's own sums: synapse, soma, network.
    """

    energy_j: NDArray[np.float64]
    time_s: NDArray[np.float64]
    fired: list[NDArray[np.bool_]]
    updated: list[NDArray[np.bool_]]
    energy_j_by_part: dict[str, NDArray[np.float64]]


def simulate_in_sanafe(
    layers: Sequence[PlacedLayer],
    input_core: NDArray[np.int64],
    spikes: NDArray[np.bool_],
    *,
    timing: str = "detailed",
) -> SimulatedSteps:
    """Run input spikes (n_in, n_steps) through layers in a row on SANA-FE's Loihi; inputs stand on cores, at no cost."""
    chip_plan = sanafe.load_loihi()
    net, cores = sanafe.Network(), chip_plan.cores()
    groups = [_input_group(net, cores, input_core, spikes)]
    for depth, layer in enumerate(layers):
        groups.append(_layer_group(net, cores, layer, f"layer_{depth:03}"))
        target, source = np.nonzero(layer.synapses())
        weight = {"weight": layer.weight[target, source].tolist()}
        groups[-2].connect_neurons_sparse(groups[-1], weight, list(zip(source.tolist(), target.tolist(), strict=True)))
    chip = sanafe.SpikingChip(chip_plan)
    chip.load(net)
    run = chip.sim(
        spikes.shape[1], timing_model=timing, processing_threads=1, spike_trace=True, potential_trace=True, perf_trace=True
    )
    return _read(run, layers, spikes)


def _input_group(net: Any, cores: list[Any], input_core: NDArray[np.int64], spikes: NDArray[np.bool_]) -> Any:
    group = net.create_neuron_group("input", len(spikes), soma_hw_name="loihi_inputs[0]")
    units = dict.fromkeys(np.unique(input_core).tolist(), 0)
    for neuron, core, train in zip(group, input_core.tolist(), spikes, strict=True):
        unit = f"loihi_inputs[{units[core]}]"  # a unit plays one neuron's spikes
        neuron.set_attributes(soma_hw_name=unit, model_attributes={"spikes": train.astype(int).tolist()})
        neuron.map_to_core(cores[core])
        units[core] += 1
    return group


def _layer_group(net: Any, cores: list[Any], layer: PlacedLayer, name: str) -> Any:
    group = net.create_neuron_group(
        name,
        len(layer.core),
        model_attributes={"threshold": layer.threshold, "leak_decay": layer.leak},
        soma_hw_name="loihi_lif",
        default_dendrite_hw_name="loihi_dendrites",
        log_spikes=True,
        log_potential=True,
    )
    for neuron, core, encoding in zip(group, layer.core.tolist(), layer.encoding.tolist(), strict=True):
        neuron.set_attributes(default_synapse_hw_name=UNITS[encoding])
        neuron.map_to_core(cores[core])
    return group


def _read(run: dict[str, Any], layers: Sequence[PlacedLayer], spikes: NDArray[np.bool_]) -> SimulatedSteps:
    n_steps = spikes.shape[1]
    fired = [spikes, *(np.zeros((len(layer.core), n_steps), dtype=bool) for layer in layers)]
    for step, neurons in enumerate(run["spike_trace"]):
        for neuron in neurons:
            fired[int(neuron.group_name.removeprefix("layer_")) + 1][neuron.neuron_offset, step] = True
    potential = np.array(run["potential_trace"]).reshape(n_steps, -1).T
    starts = np.cumsum([0, *(len(layer.core) for layer in layers)])
    updated = [np.zeros_like(spikes)]
    for depth, layer in enumerate(layers):
        charged = potential[starts[depth] : starts[depth + 1]] != 0
        reached = layer.synapses().astype(float) @ fired[depth] > 0  # a message of this step is integrated in the next
        updated.append(np.pad((charged | reached)[:, :-1], ((0, 0), (1, 0))) | fired[depth + 1])
    trace = {name: np.array(values) for name, values in run["perf_trace"].items()}
    ours, theirs = sum(part.sum(axis=0) for part in updated) + spikes.sum(axis=0), trace["updated"]
    assert np.array_equal(ours, theirs), f"updated neurons counted twice over: {ours} here, {theirs} in SANA-FE"
    parts = {part: trace[f"{part}_energy"] for part in ("synapse", "soma", "network")}
    return SimulatedSteps(
        energy_j=trace["total_energy"], time_s=trace["sim_time"], fired=fired, updated=updated, energy_j_by_part=parts
    )


def used_cores(layers: Sequence[PlacedLayer], input_core: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers of the cores that inputs or neurons stand on, ascending: what index 0, 1, ... of `count_events` means."""
    return np.unique(np.concatenate([input_core, *(layer.core for layer in layers)]))


def count_events(layers: Sequence[PlacedLayer], input_core: NDArray[np.int64], run: SimulatedSteps, step: slice) -> StepEvents:
    """The events of an average step among those of `run`, by core and flow, counted from its spikes and the arrays alone."""
    used = used_cores(layers, input_core)
    at = [np.searchsorted(used, core) for core in (input_core, *(layer.core for layer in layers))]
    counts = {name: np.zeros(used.size) for name in ("accesses", "updates", "spikes", *UNITS)}
    flows = np.zeros((used.size, used.size))
    for depth, layer in enumerate(layers):
        rate, here = run.fired[depth][:, step].mean(axis=1), at[depth + 1]
        counts["accesses"] += np.bincount(here, minlength=used.size)
        counts["updates"] += np.bincount(here, run.updated[depth + 1][:, step].mean(axis=1), used.size)
        counts["spikes"] += np.bincount(here, run.fired[depth + 1][:, step].mean(axis=1), used.size)
        stored = layer.synapses()
        for encoding in UNITS:
            counts[encoding] += np.bincount(here, (stored @ rate) * (layer.encoding == encoding), used.size)
        for core in np.unique(here):
            flows[:, core] += np.bincount(at[depth], rate * stored[here == core].any(axis=0), used.size)
    source, target = np.nonzero(flows)
    return StepEvents(
        synops_dense=counts["dense"], synops_sparse=counts["sparse"], synops_convolution=counts["convolution"],
        neuron_accesses=counts["accesses"], neuron_updates=counts["updates"], spikes=counts["spikes"],
        flow_source=source, flow_target=target, flow_messages=flows[source, target],
        **hops(used[source], used[target]), tiles_used=np.unique(used // CORES_PER_TILE).size,
    )  # fmt: skip


def hops(source: NDArray[np.int64], target: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Links between cores of Loihi's mesh, 8 x 4 tiles, numbered from north to south first."""
    (x, y), (to_x, to_y) = (np.divmod(core // CORES_PER_TILE, TILES_NORTH_SOUTH) for core in (source, target))
    return {
        "flow_hops_east_west": abs(to_x - x),
        "flow_hops_north_south": abs(to_y - y),
        "flow_hops_between_chips": np.zeros_like(source),
    }


def sanafe_figures() -> Figures:
    """The figures that SANA-FE itself reckons with, read from its loihi.yaml."""
    chip = yaml.safe_load((files("sanafe.examples") / "loihi.yaml").read_text(encoding="utf-8"))["architecture"]
    tile = chip["tile"][0]
    core = tile["core"][0]
    units = {unit["name"]: unit["attributes"] for part in core.values() if isinstance(part, list) for unit in part}

    def cost(attributes: dict[str, Any], event: str) -> EventCost:
        return EventCost(energy_j=float(attributes[f"energy_{event}"]), time_s=float(attributes[f"latency_{event}"]))

    sync = {int(tiles): float(time) for tiles, time in chip["attributes"]["latency_sync"].items()}
    return Figures(
        **{f"synop_{encoding}": cost(units[unit], "process_spike") for encoding, unit in UNITS.items()},
        neuron_access=cost(units["loihi_lif"], "access_neuron"),
        neuron_update=cost(units["loihi_lif"], "update_neuron"),
        neuron_spike=cost(units["loihi_lif"], "spike_out"),
        message_in=cost(units["loihi_in"], "message_in"),
        message_out=cost(units["loihi_out"], "message_out"),
        hop_east_west=cost(tile["attributes"], "east_hop"),
        hop_north_south=cost(tile["attributes"], "north_hop"),
        hop_between_chips=EventCost(energy_j=0.0, time_s=0.0),  # one chip
        sync_tiles=tuple(sync),
        sync_time_s=tuple(sync.values()),
    )


def saturated_mesh_s(events: StepEvents, cores: NDArray[np.int64], figures: Figures) -> float:
    """Least time in which SANA-FE's default timing, "detailed", lets a step's messages through its mesh.

    There a message with h hops weighs 1 / (h + 2) on each of its h + 1 links, its core's own included, while it is under way or
    waits for its target; and it is held back for the mean time to receive one, times its links' mean weight. By Little's law
    the weights w of links then obey T w = K w, where K[a, b] sums messages * time to receive / ((h + 1)(h + 2)) over the flows
    that take both a and b: a step that saturates the mesh takes K's largest eigenvalue.
    """
    messages = events.flow_messages
    if not messages.sum():
        return 0.0
    mean_s = queues_s(events, figures)[1].sum() / messages.sum()
    numbers: dict[tuple[int, int, str], int] = {}
    ways = [
        [numbers.setdefault(link, len(numbers)) for link in _links(int(source), int(target))]
        for source, target in zip(cores[events.flow_source], cores[events.flow_target], strict=True)
    ]
    weight = np.zeros((len(numbers), len(numbers)))
    for way, number in zip(ways, messages, strict=True):
        weight[np.ix_(way, way)] += number * mean_s / (len(way) * (len(way) + 1))
    return float(abs(np.linalg.eigvals(weight)).max())


def tail_in_turn_s(events: StepEvents, figures: Figures) -> float:
    """The busiest core's time where it receives nothing while it works through the neurons behind its last spike.

    So SANA-FE's "cycle" timing has it: that stretch, one event to it, is all of a core's neurons where none fires, and half of
    them, on average, where one does.
    """
    sending, receiving = queues_s(events, figures)
    return float(np.maximum(sending, np.where(receiving > 0, receiving + sending / (events.spikes + 1), 0)).max())


def _links(source: int, target: int) -> list[tuple[int, int, str]]:
    """The links of a way through the mesh, east-west first: each tile with the side that a message comes in from."""
    (x, y), (to_x, to_y) = (divmod(core // CORES_PER_TILE, TILES_NORTH_SOUTH) for core in (source, target))
    way = [(x, y, f"core {source}")]
    while x != to_x:
        x, side = (x + 1, "west") if to_x > x else (x - 1, "east")
        way.append((x, y, side))
    while y != to_y:
        y, side = (y + 1, "south") if to_y > y else (y - 1, "north")
        way.append((x, y, side))
    return way
