"""How far `estimate_step` is from SANA-FE, which simulates a placed network event by event.

uv run --group sanafe python benchmarks/sanafe_check.py              # every net, a table
uv run --group sanafe python benchmarks/sanafe_check.py --cycle      # also with SANA-FE's cycle-accurate mesh, minutes
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import sanafe
from numpy.typing import NDArray

from neurodeploy.energy import EventCost, Figures, StepEvents, estimate_step

CORES_PER_TILE, TILES_NORTH_SOUTH = 4, 4
LOIHI_TILES = 32
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
    """Run input spikes (n_in, n_steps) through layers in a row, on SANA-FE's Loihi; inputs stand on cores, and cost nothing there."""
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


def _input_group(net: sanafe.Network, cores: list, input_core: NDArray[np.int64], spikes: NDArray[np.bool_]) -> sanafe.NeuronGroup:
    group = net.create_neuron_group("input", len(spikes), soma_hw_name="loihi_inputs[0]")
    units = dict.fromkeys(np.unique(input_core).tolist(), 0)
    for neuron, core, train in zip(group, input_core.tolist(), spikes, strict=True):
        unit = f"loihi_inputs[{units[core]}]"  # a unit plays one neuron's spikes
        neuron.set_attributes(soma_hw_name=unit, model_attributes={"spikes": train.astype(int).tolist()})
        neuron.map_to_core(cores[core])
        units[core] += 1
    return group


def _layer_group(net: sanafe.Network, cores: list, layer: PlacedLayer, name: str) -> sanafe.NeuronGroup:
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


def _read(run: dict, layers: Sequence[PlacedLayer], spikes: NDArray[np.bool_]) -> SimulatedSteps:
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


def count_events(
    layers: Sequence[PlacedLayer], input_core: NDArray[np.int64], run: SimulatedSteps, step: slice
) -> StepEvents:
    """The events of an average step among those of `run`, by core and flow, counted from its spikes and the arrays alone."""
    everywhere = [input_core, *(layer.core for layer in layers)]
    used = np.unique(np.concatenate(everywhere))
    at = [np.searchsorted(used, core) for core in everywhere]
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


LOIHI = Figures(
    synop_dense=EventCost(energy_j=35.5e-12, time_s=3.8e-9),
    synop_sparse=EventCost(energy_j=33.6e-12, time_s=4.7e-9),
    synop_convolution=EventCost(energy_j=24.0e-12, time_s=3.1e-9),
    neuron_access=EventCost(energy_j=51.2e-12, time_s=6.0e-9),
    neuron_update=EventCost(energy_j=21.6e-12, time_s=3.7e-9),
    neuron_spike=EventCost(energy_j=69.3e-12, time_s=30.0e-9),
    message_in=EventCost(energy_j=0.0, time_s=16.0e-9),
    message_out=EventCost(energy_j=111.0e-12, time_s=5.1e-9),
    hop_east_west=EventCost(energy_j=3.0e-12, time_s=4.1e-9),
    hop_north_south=EventCost(energy_j=4.2e-12, time_s=6.5e-9),
    hop_between_chips=EventCost(energy_j=0.0, time_s=0.0),
    sync_tiles=(1, 2, 4, 29),
    sync_time_s=(0.6e-6, 1.0e-6, 1.4e-6, 1.8e-6),
)
"""SANA-FE's loihi.yaml, as hardware_profiles/loihi1.yaml is to carry it."""
