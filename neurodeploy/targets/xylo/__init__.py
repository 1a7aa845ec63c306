"""Xylo as a target: its arithmetic (decays by shifts, saturation, reset by subtraction), checks, files, emulator, XyloSim.

One step of the chip (SynSense Xylo Audio 2, SYNS61201; every sum is kept within 16 bits, signed, by saturation), with x the input
counts of the step and h the hidden spikes of the step before::

    i <- i + each synapse's weight times its spikes, one after the other: inputs first, then hidden neurons
    i <- i - leak(i, du)
    v <- v + ((i - leak(v, dv)) + bias)
    n =  min(max(v, 0) // vth, 31)        spikes: at most 31 of a hidden neuron, 1 of a readout;  v <- v - n vth
    leak(x, d) = x >> d, or 1 where that is 0 and x is not

Found by experiment on SynSense's simulator XyloSim 0.1.3, which the tests compare with. `neurodeploy.targets.xylo.emulator` maps
the layers of a network onto the chip's one pool of hidden neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, QuantizeError, RequestError, unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, check_range
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.network import LI, LIF, Conv, Layer, Network, Neuron, SubtractiveLIF, Synapse, as_sparse
from neurodeploy.ir.quantized import (
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
    decaying,
)
from neurodeploy.simulation.records import Recorded, SpikeRecord
from neurodeploy.targets import Registers

MIN_16, MAX_16 = -(1 << 15), (1 << 15) - 1
"""Range of current, membrane, threshold and bias."""
SHIFT_MAX = 15
"""Largest decay: four bits."""
WEIGHT_MIN, WEIGHT_MAX = -128, 127
WEIGHT_SHIFT_MAX = 7
"""Largest left shift of the weights of one of the chip's three memories."""
HIDDEN_SPIKES, READOUT_SPIKES, INPUT_SPIKES = 31, 1, 15
"""Most spikes in a step of a hidden neuron, of a readout neuron, and of an input."""
HEADROOM = 64
"""Thresholds that a membrane may reach before it saturates, where no calibration data says how far it goes."""
RESET = "resets to zero, and Xylo's neurons by subtraction"
SOURCE = "XyloSim 0.1.3; rockpool, xylo_mapper.py"


class XyloTarget:
    """Xylo's registers and rounding, network files, emulator and simulator; see `neurodeploy.targets.Target`.

    Integer weights are what a spike adds to a current: the weights that the chip stores, shifted left as their memory's are.
    """

    name = "xylo"
    suffix = ".npz"
    simulators = ("xylosim",)
    resets = ("by subtraction",)
    registers = Registers(
        weight_bits=(8,), weight_exponent=0, current_bits=16, membrane_bits=16, threshold_bits=15, decay_bits=4,
        bias_min=MIN_16, bias_max=MAX_16, source=SOURCE, has_shift_decays=True,
    )  # fmt: skip

    # ------------------------------------------------------------------------------------------ rounding

    def decay_registers(self, share: Floats) -> Integers:
        """Shifts 0..15, nearest in the time constant; a share of 0, which Xylo does not have, is 15."""
        with np.errstate(divide="ignore"):
            shift = np.rint(-np.log2(np.asarray(share, dtype=np.float64)))
        return np.asarray(np.clip(shift, 0, SHIFT_MAX), dtype=np.int64)

    def decay_shares(self, registers: Integers) -> Floats:
        return np.asarray(2.0 ** -np.asarray(registers, dtype=np.float64))

    def current_gain(self, du: Integers) -> Floats:
        """1 - 2**-du: a current decays once before the membrane takes it."""
        return 1.0 - self.decay_shares(du)

    def weight_step(self, *, is_mixed: bool) -> int:
        del is_mixed
        return 1

    def most_steps(self, bits: int, *, is_mixed: bool) -> int:
        """Weights are signed whether they are of both signs or of one."""
        del is_mixed
        return (1 << (bits - 1)) - 1

    def as_run(self, weight: Integers) -> Integers:
        return weight

    def round_state(self, values: Floats) -> Integers:
        return np.asarray(np.rint(values), dtype=np.int64)

    def adapted(self, network: Network) -> Network:
        """Return the network with decays that are shifts, and up to 31 spikes of a hidden neuron, 1 of a readout, in a step.

        Weights and biases are multiplied by the new decays over the old ones, so that a neuron reaches the same steady state. A
        current that lasts one step becomes one of which half is left after each step: the shortest that Xylo has.

        Raises
        ------
        QuantizeError
            A hidden layer that never fires: only readout neurons have membranes that can be read.
        """
        for layer in network:
            match layer.neuron:
                case SubtractiveLIF() | LIF():
                    pass
                case LI():
                    if layer is not network.output:
                        raise QuantizeError(
                            f"layer {layer.name!r}", "never fires, and only Xylo's readout neurons can be read so", source=SOURCE,
                            remedy="Make it the last layer, or let it fire.",
                        )  # fmt: skip
                case _:
                    raise unsupported_kind(layer.neuron)
        layers = (self._adapted(layer, READOUT_SPIKES if layer is network.output else HIDDEN_SPIKES) for layer in network)
        return replace(network, layers=tuple(layers))

    def _adapted(self, layer: Layer, most: int) -> Layer:
        neuron = layer.neuron
        # a shift of 0 would leave nothing of a current before the membrane takes it
        current = self.decay_shares(np.maximum(self.decay_registers(neuron.current_decay), 1))
        voltage = self.decay_shares(self.decay_registers(neuron.voltage_decay))
        of_current, of_voltage = decay_ratio(current, neuron.current_decay), decay_ratio(voltage, neuron.voltage_decay)

        def scaled(synapse: Synapse) -> Synapse:
            shared = (current, of_current * of_voltage)
            if isinstance(synapse, Conv) and not all(synapse.is_per_channel(one) for one in shared):
                synapse = as_sparse(synapse.csr())
            return replace(synapse, weight=synapse.weight * synapse.per_weight(shared[1]))

        changed: Neuron = replace(neuron, current_decay=current, voltage_decay=voltage)
        match changed:
            case SubtractiveLIF():
                changed = replace(changed, max_spikes=np.array(most))
            case LIF() | LI():
                pass
            case _:
                raise unsupported_kind(changed)
        connections = tuple(replace(c, synapse=scaled(c.synapse)) for c in layer.connections)
        return replace(layer, neuron=changed, connections=connections, bias=layer.bias * of_voltage)

    def finished(self, network: QuantizedNetwork, largest: Mapping[str, float]) -> QuantizedNetwork:
        """Return the network in finer units: all numbers of the hidden layers, and of the readout, shifted left alike.

        They are shifted as far as their memories can and `HEADROOM` thresholds, or the largest states, still fit their registers.
        """
        layers: list[QuantizedLayer] = []
        for group in (network.layers[:-1], network.layers[-1:]):
            need = max((largest_number(layer, largest.get(layer.name)) for layer in group), default=MAX_16)
            shift = min(WEIGHT_SHIFT_MAX, max(0, int(MAX_16 // max(need, 1)).bit_length() - 1))
            layers += [shifted_left(layer, shift) for layer in group]
        return replace(network, layers=tuple(layers))

    # ------------------------------------------------------------------------------------------ checks

    def check(self, network: QuantizedNetwork) -> None:
        """Raise `NetworkError` for a number that no register holds, and for layers that the chip's one pool cannot be.

        The error names the layer. The pool: see `neurodeploy.targets.xylo.emulator.core_of`.
        """
        from neurodeploy.targets.xylo.emulator import core_of

        core_of(network)

    def check_chip(self, network: QuantizedNetwork, profile: HardwareProfile) -> None:
        """Raise `QuantizeError` for more inputs, hidden or readout neurons than a profile's chip has."""
        hidden, readout = network.n_neurons - network.output.n_neurons, network.output.n_neurons
        neurons = profile["neurons_per_core"]
        most = neurons.choices if len(neurons.choices) == 2 else (neurons.number, neurons.number)
        bounds = [
            ("hidden neurons", hidden, most[0], neurons.where, "Give its hidden layers fewer neurons."),
            (
                "readout neurons",
                readout,
                most[1],
                neurons.where,
                "Code classes by several readouts (a function as `readout`), or leave some out.",
            ),
        ]
        if "external_inputs" in profile:
            inputs, remedy = profile["external_inputs"], "Pool it, or show its parts one after the other."
            bounds.append(("inputs", network.n_inputs, inputs.number, inputs.where, remedy))
        for what, need, limit, of, remedy in bounds:
            if need > limit:
                raise QuantizeError("network", what, need=need, limit=limit, source=of, remedy=remedy)

    def check_file(self, network: QuantizedNetwork) -> None:
        self.check(network)

    # ------------------------------------------------------------------------------------------ files

    # Files and emulator are imported when used: rounding a network needs no Numba.
    def write(self, network: QuantizedNetwork, path: Path) -> Path:
        from neurodeploy.targets.xylo.specification import write_specification

        return write_specification(network, path)

    def read(self, path: Path) -> QuantizedNetwork:
        from neurodeploy.targets.xylo.specification import read_specification

        return read_specification(path)

    @property
    def other_forms(self) -> Mapping[str, Callable[[QuantizedNetwork], str]]:
        """The specification as JSON."""
        from neurodeploy.targets.xylo.specification import json_specification

        return {"json": json_specification}

    # ------------------------------------------------------------------------------------------ running

    def emulate(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", raw: bool = False, **options: Any
    ) -> SpikeRecord:
        """Run in `neurodeploy.targets.xylo.emulator`; of the options it has `on_overflow` and `threads`."""
        from neurodeploy.targets.xylo.emulator import run_emulator

        refuse_options(raw, options, ("on_overflow", "threads"))
        return run_emulator(network, spikes, record=record, **options)

    def simulator_missing(self, simulator: str) -> str:
        from neurodeploy.targets.xylo.specification import missing_simulator

        del simulator
        return missing_simulator()

    def run_simulator(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, simulator: str, record: Recorded = "output", raw: bool = False,
        **options: Any,
    ) -> SpikeRecord:  # fmt: skip
        """Run in XyloSim, in a process of its own."""
        from neurodeploy.targets.xylo.specification import run_xylosim

        del simulator
        limit = options.pop("time_limit_s")
        refuse_options(raw, {name: value for name, value in options.items() if value}, ())
        return run_xylosim(network, spikes, record=record, time_limit_s=limit)


def refuse_options(raw: bool, options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raise `RequestError` for raw input, and for options that Xylo's emulator and simulator do not have."""
    if raw:
        raise RequestError(
            "raw", "input needs an input population to drive, and Xylo has none",
            remedy="Give whole numbers of spikes with graded=True, up to 15 a step.",
        )  # fmt: skip
    if other := sorted(set(options) - set(known)):
        raise RequestError(other[0], "is no option of target 'xylo'", remedy="Leave it out.")


def largest_number(layer: QuantizedLayer, largest_state: float | None) -> float:
    """Largest number that the registers of a layer have to hold."""
    match neuron := decaying(layer.neuron, f"layer {layer.name!r}"):
        case QuantizedSubtractiveLIF(vth=vth) | QuantizedLIF(vth=vth):
            expected = HEADROOM * float(vth.max()) if largest_state is None else max(float(vth.max()), largest_state)
        case QuantizedLI():
            expected = MAX_16 if largest_state is None else largest_state
        case _:
            raise unsupported_kind(neuron)
    return max(expected, float(np.abs(layer.bias).max(initial=0)))


def shifted_left(layer: QuantizedLayer, shift: int) -> QuantizedLayer:
    """Return a layer with weights, thresholds, biases and scale shifted left."""

    def shifted(connection: Connection[QuantizedSynapse]) -> Connection[QuantizedSynapse]:
        synapse = connection.synapse
        return replace(connection, synapse=replace(synapse, weight=synapse.weight.astype(np.int64) << shift))

    neuron = decaying(layer.neuron, f"layer {layer.name!r}")
    match neuron:
        case QuantizedSubtractiveLIF(vth=vth) | QuantizedLIF(vth=vth):
            neuron = replace(neuron, vth=vth << shift)
        case QuantizedLI():
            pass
        case _:
            raise unsupported_kind(neuron)
    connections = tuple(map(shifted, layer.connections))
    return replace(layer, neuron=neuron, connections=connections, bias=layer.bias << shift, scale=layer.scale * (1 << shift))


def decay_ratio(new: Floats, old: Floats) -> Floats:
    """Share of a state that is lost now over what was lost; 1 where nothing was."""
    return np.asarray(np.divide(new, old, out=np.ones(np.broadcast(new, old).shape), where=np.asarray(old) > 0))


# ---------------------------------------------------------------------------------------------- register ranges


def check_registers(network: QuantizedNetwork) -> None:
    """Raise `NetworkError` for a number that the chip's registers cannot hold; it names the layer."""
    for layer in network:
        try:
            check_layer_registers(layer)
        except NetworkError as error:
            raise NetworkError(
                f"layer {layer.name!r}", f"{error.where}: {error.what}", source=SOURCE,
                remedy="Quantise the network for this chip.",
            ) from error  # fmt: skip


def check_layer_registers(layer: QuantizedLayer) -> None:
    """Raise `NetworkError` for a number of a layer that the chip's registers cannot hold."""
    neuron = decaying(layer.neuron, type(layer.neuron).__name__)
    match neuron:
        case QuantizedSubtractiveLIF():
            check_range(neuron, "vth", 1, MAX_16)
        case QuantizedLI():
            pass  # its threshold register holds what a membrane only reaches in saturation
        case QuantizedLIF():
            raise NetworkError(type(neuron).__name__, RESET)
        case _:
            raise unsupported_kind(neuron)
    check_range(neuron, "du", 1, SHIFT_MAX)  # 0 leaves nothing of a current
    check_range(neuron, "dv", 0, SHIFT_MAX)
    check_range(layer, "bias", MIN_16, MAX_16)


XYLO_TARGET = XyloTarget()
