"""What every core of a placement holds, from the integers alone: synapses unrolled, axons and lists one by one.

It uses nothing of `neurodeploy.resources`, which it checks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import ceil, log2
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from shared_lists import bits_of_list, shared_bits

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.connectivity import ConvWiring, SparseWiring, Wiring
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.placement import Placement, Slice

if TYPE_CHECKING:
    from neurodeploy.resources.usage import Region

AnyNetwork = Network | QuantizedNetwork


def unrolled(synapse: Wiring) -> NDArray[np.float64]:
    """The weight (n_out, n_in) of every pair of neurons, zero where there is no synapse."""
    if isinstance(synapse, ConvWiring):
        return _slid(synapse)
    if isinstance(synapse, SparseWiring):
        weight = np.zeros((synapse.n_out, synapse.n_in))
        for neuron in range(synapse.n_out):
            for n in range(synapse.starts[neuron], synapse.starts[neuron + 1]):
                weight[neuron, synapse.sources[n]] = synapse.weight[n]
        return weight
    return np.asarray(synapse.weight, dtype=np.float64)


def _slid(conv: ConvWiring) -> NDArray[np.float64]:
    channels, height, width = conv.input_shape
    weight = np.zeros((*conv.output_shape, channels, height, width))
    f_group, c_group = conv.weight.shape[0] // conv.groups, conv.weight.shape[1]
    for (f, c, i, j), value in np.ndenumerate(conv.weight):
        for y, x in np.ndindex(conv.output_shape[1:]):
            row = y * conv.stride[0] - conv.padding[0] + i * conv.dilation[0]
            column = x * conv.stride[1] - conv.padding[1] + j * conv.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                weight[f, y, x, f // f_group * c_group + c, row, column] = value
    return weight.reshape(conv.n_out, conv.n_in)


def grid(network: AnyNetwork, layer: str) -> tuple[int, ...]:
    """How a layer's neurons stand: as an image where a convolution ends on it, else in a row."""
    is_image = any(isinstance(connection.synapse, ConvWiring) for connection in network[layer].connections)
    return network[layer].shape if is_image else (network[layer].n_neurons,)


def neurons_of(network: AnyNetwork, part: Slice) -> list[int]:
    """The numbers of a slice's neurons in their layer."""
    sides = grid(network, part.layer)
    inside = [range(a, b) for a, b in zip(part.region.starts, part.region.stops, strict=True)]
    return [n for n, at in enumerate(np.ndindex(sides)) if all(place in along for place, along in zip(at, inside, strict=True))]


def memory_of(connection: Connection[Wiring], region: Region, there: NDArray[np.bool_], bits: int, chip: HardwareProfile) -> int:
    """Bits of a slice's synapses, `there` (neurons, sources), in the cheapest encoding that the chip has for them."""
    n, lists = len(there), [int(size) for size in there.sum(axis=0) if size]
    names, synapse = chip["encodings"].names, connection.synapse
    if "dynapcnn" in names:  # sinabs, dynapcnn_layer.py: memory_summary; a matrix is a kernel of one pixel
        if isinstance(synapse, ConvWiring):
            return synapse.input_shape[0] * 2 ** (ceil(log2(synapse.weight[0, 0].size)) + ceil(log2(region.sides[0]))) * bits
        return there.shape[1] * 2 ** ceil(log2(n)) * bits
    if isinstance(synapse, ConvWiring) and "convolution" in names:
        return shared_bits(synapse, region, bits, chip)
    found = []
    if "dense" in names:
        found.append(sum(bits_of_list(n, bits, chip) for _ in lists))
    if "crossbar" in names:
        found.append(len(lists) * n * bits)
    if "sparse" in names:
        addressed = min(n, max(chip["neurons_per_core"].choices))
        index = next(width for width in chip["index_bits"].choices if 2**width >= addressed)
        found.append(sum(bits_of_list(size, bits + index, chip) for size in lists))
    return min(found)


def axons_in(connection: Connection[Wiring], there: NDArray[np.bool_], chip: HardwareProfile) -> int:
    """Sources with a synapse here: neurons, or pixels where a convolution's channels travel with the spike."""
    heard = there.any(axis=0)
    if isinstance(connection.synapse, ConvWiring) and "convolution" in chip["encodings"].names:
        heard = heard.reshape(connection.synapse.input_shape[0], -1).any(axis=0)
    return int(heard.sum())


def synapses_to(network: AnyNetwork, layer: str) -> int:
    """Synapses on the longest path to a layer, each of which takes a step on the chip; none to one that begins with the input."""
    if layer == "input" or begins_with_the_input(network, layer):
        return 0
    others = [c.source for c in network[layer].connections if c.source != layer]
    return 1 + max((synapses_to(network, name) for name in others), default=0)


def begins_with_the_input(network: AnyNetwork, layer: str) -> bool:
    """Whether a layer stands at the input, beside others, and hears nobody."""
    at_input = [other.name for other in network if "input" in [c.source for c in other.connections]]
    mine = network[layer].connections
    silent = all(c.source == "input" and not np.count_nonzero(c.synapse.weight) for c in mine)
    return silent and len(at_input) > 1


def waiting(network: AnyNetwork, layer: str, connection: Connection[Wiring]) -> int:
    """Steps that spikes wait in a connection: its delay, and until those on longer paths have come."""
    if connection.source == layer:
        return connection.delay_steps
    return connection.delay_steps + max(synapses_to(network, layer) - synapses_to(network, connection.source) - 1, 0)


def are_equal(network: AnyNetwork, layer: str, one: Connection[Wiring], other: Connection[Wiring]) -> bool:
    """Whether two connections into a layer differ at most in where their spikes come from."""
    return one.synapse == other.synapse and waiting(network, layer, one) == waiting(network, layer, other)


def stored(sides: tuple[int, ...], chip: HardwareProfile) -> int:
    """Neurons whose states take memory: on DYNAP-CNN, the sides of an image are whole powers of two (dynapcnn_layer.py)."""
    if "dynapcnn" in chip["encodings"].names and len(sides) == 3:
        return sides[0] * 2 ** sum(ceil(log2(side)) for side in sides[1:])
    return int(np.prod(sides))


def decays_of(neuron: Any, mine: list[int], chip: HardwareProfile) -> int:
    """How many different pairs of decays some neurons have, in registers; on a chip that says nothing of those, as they are."""
    if is_float := hasattr(neuron, "current_decay"):
        pair = [np.ravel(neuron.current_decay), np.ravel(neuron.voltage_decay)]
    else:
        pair = [np.ravel(neuron.du), np.ravel(neuron.dv)]
    unity = 2 ** chip.number("decay_bits", 30) if is_float else 1
    return len({tuple(int(np.rint(float(each[n % each.size]) * unity)) for each in pair) for n in mine})


def thresholds_of(layer: Any, mine: list[int], sides: tuple[int, ...]) -> int:
    """How many different thresholds some neurons have in registers: floats get one, if no channel of an image has several."""
    if not hasattr(layer.neuron, "vth") and not hasattr(layer.neuron, "threshold"):
        return 0
    numbers = np.ravel(layer.neuron.vth if hasattr(layer.neuron, "vth") else layer.neuron.threshold)
    if hasattr(layer.neuron, "threshold"):
        size = layer.n_neurons // sides[0]
        channels = {c: {float(numbers[(c * size + i) % numbers.size]) for i in range(size)} for c in range(sides[0])}
        if len(sides) == 1 or all(len(found) == 1 for found in channels.values()):
            return 1
    return len({float(numbers[n % numbers.size]) for n in mine})


def recounted(network: AnyNetwork, placement: Placement) -> dict[int, dict[str, int]]:
    """What each core takes of everything that a chip may limit."""
    chip = placement.profile
    cores: dict[int, Counter[str]] = {part.core: Counter() for part in placement.slices}
    stands = [(part, neurons_of(network, part)) for part in placement.slices]
    home = {(part.layer, neuron): part.core for part, mine in stands for neuron in mine}
    weights = {id(c): unrolled(c.synapse) != 0 for layer in network for c in layer.connections}
    for part, mine in stands:
        layer, here = network[part.layer], cores[part.core]
        width = next(w for w in chip["weight_bits"].choices if w >= placement.weight_bits[part.layer])
        here["slices"] += 1
        here["neurons"] += len(mine)
        here["neuron_memory_bits"] += stored(part.region.sides, chip) * chip.number("neuron_state_bits", 0)
        here["biases"] += (len(mine) if len(part.region.sides) == 1 else part.region.sides[0]) if layer.bias.any() else 0
        here["neuron_profiles"] += decays_of(layer.neuron, mine, chip)
        here["threshold_profiles"] += thresholds_of(layer, mine, grid(network, part.layer))
        for n, connection in enumerate(layer.connections):
            there = weights[id(connection)][mine]
            axons = axons_in(connection, there, chip)
            here["input_axons"] += axons
            if not any(are_equal(network, layer.name, connection, other) for other in layer.connections[:n]):  # lists serve both
                here["synapse_formats"] += 1
                delay = chip.number("max_delay_steps", 0).bit_length() if waiting(network, layer.name, connection) else 0
                here["synapse_memory_bits"] += memory_of(connection, part.region, there, width + delay, chip)
            here["synapse_memory_bits"] += axons * chip.number("input_axon_bits", 0)
            for neuron in np.flatnonzero(there.any(axis=0)) if connection.source != "input" else ():
                cores[home[connection.source, int(neuron)]]["output_axons"] += 1
    for here in cores.values():
        sent = here["output_axons"] * chip.number("output_axon_bits", 0)
        here["memory_bits"] = here["synapse_memory_bits"] + here["neuron_memory_bits"] + sent
    return {core: dict(here) for core, here in cores.items()}


def broken(network: AnyNetwork, placement: Placement) -> Iterator[str]:
    """Every limit of the chip that the recounted cores break."""
    chip, counted = placement.profile, recounted(network, placement)
    if len(counted) > placement.cores_available:
        yield f"{len(counted)} cores"
    for core, here in counted.items():
        for resource, used in here.items():
            limit = chip.limits.get(f"{resource}_per_core")
            if limit is not None and used > limit.choices[core % len(limit.choices)]:
                yield f"{used} {resource} on core {core}"
    most = chip.limits.get("fan_in_per_neuron")
    for layer in network if most is not None else ():
        fan_in = sum((unrolled(c.synapse) != 0).sum(axis=1) for c in layer.connections)
        if most is not None and fan_in.max() > most.number:
            yield f"{fan_in.max()} synapses onto a neuron of {layer.name!r}"
    yield from broken_by_layers(network, chip)
    spread = chip.limits.get("cores_per_layer")
    for layer in network if spread is not None else ():
        n_cores = len({part.core for part in placement.slices if part.layer == layer.name})
        if spread is not None and n_cores > spread.number:
            yield f"{layer.name!r} on {n_cores} cores"
    longest = chip.limits.get("max_delay_steps")
    for layer in network if longest is not None else ():
        steps = max(waiting(network, layer.name, connection) for connection in layer.connections)
        if longest is not None and steps > longest.number:
            yield f"{steps} steps in synapses of {layer.name!r}"


def broken_by_layers(network: AnyNetwork, chip: HardwareProfile) -> Iterator[str]:
    """Limits of the input and of layers that are broken whatever stands on which core."""
    inputs, targets, fan_out = (chip.limits.get(key) for key in ("external_inputs", "targets_per_layer", "fan_out_per_neuron"))
    if inputs is not None and network.n_inputs > inputs.number:
        yield f"{network.n_inputs} inputs"
    for layer in network:
        received = [c for other in network for c in other.connections if c.source == layer.name]
        n_targets = sum(any(c.source == layer.name for c in other.connections) for other in network)
        if targets is not None and n_targets > targets.number:
            yield f"{layer.name!r} sends to {n_targets} layers"
        n_synapses = sum(((unrolled(c.synapse) != 0).sum(axis=0) for c in received), np.zeros(1, dtype=np.int64)).max()
        if fan_out is not None and n_synapses > fan_out.number:
            yield f"{n_synapses} synapses from a neuron of {layer.name!r}"


def assert_true_to(network: AnyNetwork, placement: Placement) -> None:
    """Every neuron stands on one core; the placement says of each core what is on it, and that it fits if and only if it does."""
    for layer in network:
        stands = [n for part in placement.slices if part.layer == layer.name for n in neurons_of(network, part)]
        assert sorted(stands) == list(range(layer.n_neurons))
    counted = recounted(network, placement)
    for core, here in counted.items():
        said = placement.on_core(core)
        assert said == {resource: here.get(resource, said[resource]) for resource in said}
    assert placement.cores_used == len(counted)
    assert placement.fits is (not list(broken(network, placement)))
