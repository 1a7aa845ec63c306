"""A network on Xylo's hidden and readout neurons, and its emulation in integers, bit for bit as XyloSim.

All layers but the last share one population of hidden neurons: what they receive from each other are its recurrent weights. Every
recurrent synapse takes a step, those of the input take none. So a layer answers some steps after the input (`Core.lags`), and
records have that removed: step t is the response to step t of the input. Until its input arrives, a layer does what its biases
make it do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, NetworkError, RequestError, unsupported_kind
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import (
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSubtractiveLIF,
    decaying,
)
from neurodeploy.simulation.kernels import Array, compiled
from neurodeploy.simulation.layer_schedule import PARALLEL_UPDATES, WorkerPool, thread_count
from neurodeploy.simulation.records import OnOverflow, Recorded, SpikeRecord, recorded_layers, report_overflows
from neurodeploy.targets.xylo import (
    HIDDEN_SPIKES,
    INPUT_SPIKES,
    MAX_16,
    MIN_16,
    READOUT_SPIKES,
    RESET,
    SOURCE,
    WEIGHT_MAX,
    WEIGHT_MIN,
    WEIGHT_SHIFT_MAX,
    check_registers,
)

# ---------------------------------------------------------------------------------------------- layers on the chip

REGISTERS = ("vth", "du", "dv", "bias", "max_spikes")
"""Rows of `Core.hidden` and `Core.readout`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Core:
    """The chip's populations with the numbers of a network.

    Attributes
    ----------
    weights : mapping of memory to array (sources, targets), int64
        ``"in"``: input to hidden, ``"rec"``: hidden to hidden, ``"out"``: hidden to readout; what a spike adds to a current.
    hidden, readout : array (5, n), int64
        `REGISTERS` of each neuron.
    places : mapping of layer to slice
        Its neurons among the hidden ones; of the last layer, among the readout neurons.
    lags : mapping of layer to int
        Steps by which it answers later than the input, at least 0.
    """

    weights: Mapping[str, Integers]
    hidden: Integers
    readout: Integers
    places: Mapping[str, slice]
    lags: Mapping[str, int]

    def shift(self, memory: str) -> int:
        """Left shift of the weights of a memory: that of their lowest bit that is set, as far as the chip shifts."""
        together = int(np.bitwise_or.reduce(np.abs(self.weights[memory]), axis=None))
        return min((together & -together).bit_length() - 1, WEIGHT_SHIFT_MAX) if together else 0


def core_of(network: QuantizedNetwork) -> Core:
    """Put the layers of a network onto the chip: the last onto the readout neurons, all others onto the hidden ones.

    Raises
    ------
    NetworkError
        Numbers that no register holds, connections that the chip does not have, paths that bring spikes together which the chip
        keeps apart, or weights that are not int8 on the one shift that their memory has.
    """
    check_registers(network)
    *layers, last = network.layers
    if network.encoder is not None:
        raise NetworkError("network", "has an input population", source=SOURCE, remedy="Give the spikes of its neurons as input.")
    if not layers:
        raise NetworkError(
            f"layer {last.name!r}", "would be read and receive the input, which Xylo sends to hidden neurons alone",
            source=SOURCE, remedy="Put a layer of neurons between the input and the last layer.",
        )  # fmt: skip
    ends = np.cumsum([0, *(layer.n_neurons for layer in layers)]).tolist()
    places = {layer.name: slice(*pair) for layer, pair in zip(layers, pairwise(ends), strict=True)}
    n_hidden, n_readout = ends[-1], last.n_neurons
    weights = {
        "in": np.zeros((network.n_inputs, n_hidden), np.int64), "rec": np.zeros((n_hidden, n_hidden), np.int64),
        "out": np.zeros((n_hidden, n_readout), np.int64),
    }  # fmt: skip
    for layer in network:
        for connection in layer.connections:
            memory = "out" if layer is last else "in" if connection.source == INPUT else "rec"
            if layer is last and connection.source in (INPUT, last.name):
                own = (
                    "Read its membrane without a reset (snnTorch: reset_mechanism='none', return mem), or put a linear layer "
                    "behind it, which is the readout then."
                )
                raise NetworkError(
                    f"layer {layer.name!r}", f"receives {connection.source!r}, and Xylo's readout neurons only hidden ones",
                    source=SOURCE, remedy="Let a hidden layer receive it." if connection.source == INPUT else own,
                )  # fmt: skip
            rows = slice(None) if connection.source == INPUT else places[connection.source]
            columns = slice(None) if layer is last else places[layer.name]
            # two connections from one source are one synapse with the sum of their weights
            weights[memory][rows, columns] += connection.synapse.matrix().T.astype(np.int64)
    hidden = np.concatenate([registers_of(layer, HIDDEN_SPIKES) for layer in layers], axis=1)
    core = Core(
        weights=MappingProxyType(weights), hidden=hidden,
        readout=registers_of(last, READOUT_SPIKES), places=MappingProxyType(places | {last.name: slice(0, n_readout)}),
        lags=MappingProxyType(lags_of(network)),
    )  # fmt: skip
    for memory, name in (("in", "input"), ("rec", "hidden"), ("out", "readout")):
        stored = core.weights[memory] >> core.shift(memory)
        if stored.min(initial=0) < WEIGHT_MIN or stored.max(initial=0) > WEIGHT_MAX:
            raise NetworkError(
                "network", f"its {name} weights {core.weights[memory].min()}..{core.weights[memory].max()} need more than the 8 "
                f"bits of a weight, with one shift of {core.shift(memory)} for all", source=SOURCE,
                remedy="Bring the weights of its layers nearer to each other.",
            )  # fmt: skip
    return core


def registers_of(layer: QuantizedLayer, most: int) -> Integers:
    """`REGISTERS` of a layer's neurons, (5, n)."""
    match neuron := decaying(layer.neuron, f"layer {layer.name!r}"):
        case QuantizedSubtractiveLIF(vth=vth, max_spikes=max_spikes):
            if (max_spikes != most).any():
                raise NetworkError(
                    f"layer {layer.name!r}", f"fires at most {int(max_spikes.max())} spikes in a step, and Xylo's neurons {most}",
                    source=SOURCE, remedy=f"Give it max_spikes of {most}.",
                )  # fmt: skip
        case QuantizedLI():
            vth = np.array(MAX_16)
        case QuantizedLIF():
            raise NetworkError(f"layer {layer.name!r}", RESET, source=SOURCE)
        case _:
            raise unsupported_kind(neuron)
    rows = (vth, neuron.du, neuron.dv, layer.bias, np.array(most))
    return np.stack([np.broadcast_to(row, layer.n_neurons) for row in rows])


def lags_of(network: QuantizedNetwork) -> dict[str, int]:
    """Steps by which each layer answers later than the input.

    A layer that lags by l receives at a step what a source that lags by k fired a step before: what it fired l - k - 1 steps
    before on the network's clock. That has to be the connection's delay. The input arrives within the step: k is -1.
    """
    lags = {INPUT: -1}
    for layer in network:
        for c in layer.connections:
            if c.source == layer.name:
                if c.delay_steps:
                    raise misfit(layer, c.source, "comes back to it later than in the next step")
                continue
            lag = lags[c.source] + 1 - c.delay_steps
            if lags.setdefault(layer.name, lag) != lag:
                raise misfit(layer, c.source, f"arrives {abs(lag - lags[layer.name])} steps off its other input")
        if lags.setdefault(layer.name, 0) < 0:
            raise misfit(layer, layer.connections[0].source, "arrives before the chip can delay it")
    del lags[INPUT]
    return lags


def misfit(layer: QuantizedLayer, source: str, how: str) -> NetworkError:
    """Return the error for an input that arrives at another step than the network has it."""
    return NetworkError(
        f"layer {layer.name!r}", f"its input from {source!r} {how}: Xylo's synapses have no delays, a path takes a step a layer",
        source=SOURCE, remedy="Give all paths to it the same number of layers, and its synapses no delay.",
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- compiled


@compiled
def step_samples(
    spikes: Array, inputs: Any, recurrent: Any, outgoing: Any, hidden: Array, readout: Array, fired: Array, v: Array,
    saturations: Array, start: int, stop: int,
) -> None:  # fmt: skip
    """Run samples start..stop - 1 from rest.

    Parameters
    ----------
    spikes : array (batch, n_steps, n_in), int32
    inputs, recurrent, outgoing : (first synapse of each source, targets, weights)
        Sorted by source, then target: arrays (n + 1,), (n_synapses,), (n_synapses,), int32.
    hidden, readout : array (5, n), int32
        `REGISTERS`.
    fired, v : array (batch, n_steps, n_hidden + n_readout), uint8 and int32
        Filled with spikes, and membranes after them.
    saturations : array (batch, n_hidden + n_readout), int64
        Filled with the number of steps in which a state of a neuron left its 16 bits.
    """
    n = hidden.shape[1]
    for b in range(start, stop):
        i = np.zeros(fired.shape[2], np.int32)
        membranes, full = np.zeros(fired.shape[2], np.int32), np.zeros(fired.shape[2], np.uint8)
        before = np.zeros(n, np.int32)
        for t in range(fired.shape[1]):
            full[:] = 0
            add_spikes(spikes[b, t], inputs, i[:n], full[:n])
            add_spikes(before, recurrent, i[:n], full[:n])
            add_spikes(before, outgoing, i[n:], full[n:])
            step_neurons(i[:n], membranes[:n], hidden, fired[b, t, :n], full[:n])
            step_neurons(i[n:], membranes[n:], readout, fired[b, t, n:], full[n:])
            before[:] = fired[b, t, :n]
            v[b, t] = membranes
            saturations[b] += full


@compiled
def saturated_16(state: Any) -> Any:
    """Keep a sum within 16 bits, signed."""
    return min(max(state, MIN_16), MAX_16)


@compiled
def add_spikes(spikes: Array, synapses: Any, i: Array, full: Array) -> None:
    """Add weighted spikes to the currents, one synapse after the other: the order counts where they saturate."""
    starts, targets, weights = synapses
    for source in range(spikes.shape[0]):
        if spikes[source] != 0:
            for k in range(starts[source], starts[source + 1]):
                total = i[targets[k]] + spikes[source] * weights[k]
                i[targets[k]] = saturated_16(total)
                full[targets[k]] |= total != i[targets[k]]


@compiled
def leak(state: Any, shift: Any) -> Any:
    """Return what a state loses in a step."""
    lost = state >> shift
    return lost if lost != 0 or state == 0 else 1


@compiled
def step_neurons(i: Array, v: Array, registers: Array, fired: Array, full: Array) -> None:
    """Advance neurons by a step: their currents leak, their membranes take them, and fire."""
    for k in range(v.shape[0]):
        i[k] -= leak(i[k], registers[1, k])
        # a leak of -32768, as of a membrane that forgets at once, is its own negative in 16 bits
        lost = leak(v[k], registers[2, k])
        change = i[k] - lost if lost != MIN_16 else i[k] + MIN_16
        biased = saturated_16(change) + registers[3, k]
        total = v[k] + saturated_16(biased)
        within = saturated_16(total)
        full[k] |= (change != saturated_16(change)) | (biased != saturated_16(biased)) | (total != within)
        n = min(max(within, 0) // registers[0, k], registers[4, k])
        fired[k], v[k] = n, within - n * registers[0, k]


# ---------------------------------------------------------------------------------------------- runs

VALUES_PER_BLOCK = 1 << 24
"""Neurons times steps times samples that run together: their spikes and membranes take 80 MiB."""


def run_emulator(
    network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output",
    on_overflow: OnOverflow = "wrap", threads: int | None = None,
) -> SpikeRecord:  # fmt: skip
    """Run each sample from rest; `neurodeploy.targets.simulate.simulate` is the entry that checks its arguments.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps)
        Whole numbers 0..15.
    on_overflow : "wrap" | "raise" | "warn"
        What to do after steps in which a state left its 16 bits and was saturated, besides counting them.

    Raises
    ------
    DataError
        Other input.
    SimulationError
        A state was saturated, and `on_overflow` is ``"raise"``.
    """
    if on_overflow not in ("wrap", "raise", "warn"):
        raise RequestError("on_overflow", f"{on_overflow!r} is none of 'wrap', 'raise' and 'warn'")
    core, recorded = core_of(network), recorded_layers(network, record)
    batch, n_steps = len(spikes), spikes.shape[-1]
    n_total = core.hidden.shape[1] + core.readout.shape[1]
    per_block = max(1, VALUES_PER_BLOCK // (n_total * (n_steps + max(core.lags.values()))))
    blocks = (spikes[first : first + per_block] for first in range(0, batch, per_block))
    parts = [run_core(core, steps_of(network, core, block), threads) for block in blocks]
    whole = [recorded_parts(network, core, fired, v, n_steps, recorded) for fired, v, _ in parts]
    saturations = np.concatenate([part[2] for part in parts]).sum(axis=0)
    overflows = {layer.name: int(of_layer(network, core, saturations, layer).sum()) for layer in network}
    report_overflows(overflows, on_overflow, "16 bits", "it was saturated")
    joined = [{name: np.concatenate([part[k][name] for part in whole]) for name in whole[0][k]} for k in range(3)]
    return SpikeRecord(end="emulator", spikes=joined[0], v=joined[1], counts=joined[2], overflows=overflows, steps=n_steps)


def steps_of(network: QuantizedNetwork, core: Core, spikes: NDArray[Any]) -> NDArray[np.int32]:
    """Input as the chip gets it: (batch, steps, n_in), and as many more steps as the last layer lags.

    Raises
    ------
    DataError
        Numbers of spikes outside 0..15.
    """
    if spikes.min() < 0 or spikes.max() > INPUT_SPIKES:
        raise DataError(
            "input spikes", f"{int(spikes.min())}..{int(spikes.max())} in a step are not within 0..{INPUT_SPIKES}", source=SOURCE,
            remedy="Scale them down, or spread them over more steps.",
        )  # fmt: skip
    steps = np.moveaxis(spikes.reshape(len(spikes), network.n_inputs, -1), -1, 1)
    return np.pad(steps, ((0, 0), (0, max(core.lags.values())), (0, 0))).astype(np.int32)


def run_core(core: Core, steps: NDArray[np.int32], threads: int | None = None) -> tuple[Array, Array, Array]:
    """Spikes and membranes (batch, steps, hidden then readout neurons), and saturations (batch, neurons), on the chip's clock."""
    n_total = core.hidden.shape[1] + core.readout.shape[1]
    fired = np.zeros((*steps.shape[:2], n_total), np.uint8)
    v, saturations = np.zeros(fired.shape, np.int32), np.zeros((len(steps), n_total), np.int64)
    inputs, recurrent, outgoing = (synapse_list(core.weights[memory]) for memory in ("in", "rec", "out"))
    hidden, readout = core.hidden.astype(np.int32), core.readout.astype(np.int32)

    def run(first: int, last: int) -> None:
        step_samples(steps, inputs, recurrent, outgoing, hidden, readout, fired, v, saturations, first, last)

    pool = WorkerPool(threads or thread_count(len(steps) * n_total))
    pool.map_ranges(run, len(steps), parallel=fired.size >= PARALLEL_UPDATES)
    return fired, v, saturations


def synapse_list(weights: Integers) -> tuple[Array, Array, Array]:
    """Return the weights (sources, targets) that are not zero: first of each source, targets, weights."""
    sources, targets = np.nonzero(weights)
    starts = np.searchsorted(sources, np.arange(len(weights) + 1))
    return starts.astype(np.int32), targets.astype(np.int32), weights[sources, targets].astype(np.int32)


def recorded_parts(
    network: QuantizedNetwork, core: Core, fired: Array, v: Array, n_steps: int, recorded: tuple[str, ...]
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """Spikes and membranes of recorded layers, (batch, \\*shape, n_steps), and counts of all, on the network's clock."""
    spikes, membranes, counts = {}, {}, {}
    for layer in network:
        lag = core.lags[layer.name]
        own = of_layer(network, core, fired, layer)[:, lag : lag + n_steps]
        counts[layer.name] = own.sum(axis=1, dtype=np.int32).reshape(-1, *layer.shape)
        if layer.name in recorded:
            shape = (len(fired), *layer.shape, n_steps)
            spikes[layer.name] = np.moveaxis(own, 1, -1).reshape(shape)
            state = of_layer(network, core, v, layer)[:, lag : lag + n_steps]
            membranes[layer.name] = np.moveaxis(state, 1, -1).reshape(shape)
    return spikes, membranes, counts


def of_layer(network: QuantizedNetwork, core: Core, values: Array, layer: QuantizedLayer) -> Array:
    """Values of a layer's neurons out of those of all, along the last axis."""
    place, first = core.places[layer.name], core.hidden.shape[1] if layer is network.output else 0
    return values[..., first + place.start : first + place.stop]
