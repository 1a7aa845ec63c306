"""Loihi as a target: its arithmetic (register ranges, decay, overflow, weights), netx files, the emulator, Lava and boards.

The arithmetic is that of Lava 0.10's bit-accurate models (``lava/proc/lif/models.py: AbstractPyLifModelFixed``,
``lava/proc/dense/models.py: AbstractPyDenseModelBitAcc``, ``lava/utils/weightutils.py``), which is exact to Lava;
Loihi 1 silicon agrees where it was compared (Michaelis et al. 2022, Brian2Loihi).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, SimulationError, unsupported_kind
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers, check_range
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import (
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSigmaDelta,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
    is_sigma_delta,
    no_sigma_delta,
)
from neurodeploy.simulation.records import Recorded, SpikeRecord
from neurodeploy.targets import Registers

Whole = NDArray[np.float64]
"""Whole numbers in double precision: exact below 2**53, and a product of a 24-bit state and a 13-bit decay has 37 bits."""

SIGMA_DELTA_SHIFT, SIGMA_DELTA_SENT = 12, 6
"""Fractional bits of a sigma-delta neuron's states, and how many it does not send (netx: spike_exp and state_exp are 6)."""
SIGMA_DELTA_MAX = (1 << 31 - SIGMA_DELTA_SHIFT) - 1
"""Largest threshold and bias of a sigma-delta neuron: shifted, they fit Lava's 32 bits."""
DECAY_BITS = 12
DECAY_UNITY = 1 << DECAY_BITS
"""A decay of 4096 forgets the whole state in a step, one of 0 nothing."""
STATE_BITS = 24
STATE_MAX = 1 << (STATE_BITS - 1)
"""Current u and membrane v are signed 24-bit numbers."""
MANTISSA_SHIFT = 6
"""Weights, thresholds and biases enter the state shifted left by six bits."""
THRESHOLD_BITS = 17
THRESHOLD_MAX = (1 << THRESHOLD_BITS) - 1
"""Largest threshold mantissa."""
NEVER_FIRES = 1 << THRESHOLD_BITS
"""A threshold mantissa that a saturated membrane does not pass; Lava's own default for an integrator."""
BIAS_MIN, BIAS_MAX = -4096, 4095
"""Range of the bias mantissa (13 bits, signed)."""
MIXED_MIN, MIXED_MAX = -256, 254
"""Range of weights of both signs: eight bits, one of them the sign, so even numbers."""
SINGLE_SIGN_MAX = 255
"""Largest magnitude of weights that are all of one sign."""
WEIGHT_BITS_MAX = 8
"""Widest weight that a network is rounded to. A file may state 9: that is what -256 among both signs takes."""


def decayed(state: Whole, decay: Integers | int, out: Whole | None = None) -> Whole:
    """State after one step of a decay in 0..4096: ``sign(x) * (|x| * (4096 - decay) >> 12)``, rounded towards zero."""
    # Exact: the factor is a multiple of 2**-12, so the product of 37 bits fits the mantissa of a double.
    kept: Whole = np.multiply(state, (DECAY_UNITY - decay) / DECAY_UNITY, out=out)
    return np.trunc(kept, out=out)


def wrapped(current: Whole) -> Whole:
    """Current after overflow: it wraps around once, as in Lava, which keeps 2**23 itself but wraps -2**23."""
    over = 2 * STATE_MAX
    result: Whole = current - over * (current > STATE_MAX) + over * (current <= -STATE_MAX)
    return result


def saturated(voltage: Whole) -> Whole:
    """Membrane after overflow: it stays at +-(2**23 - 1)."""
    return np.clip(voltage, -STATE_MAX + 1, STATE_MAX - 1)


def is_mixed(weight: Integers) -> bool:
    """Whether weights have both signs, so that each spends a bit on its sign."""
    return bool(weight.size) and int(weight.min()) < 0 < int(weight.max())


def width_of(weight: Integers) -> int:
    """Fewest bits per weight, sign included, that hold these integers exactly; 0 where all are zero.

    Weights of both signs are even (the chip's lowest bit is the sign), so ``{-2, 0, 2}`` is 2 bits wide.
    """
    if not weight.any():
        return 0
    step = int(np.gcd.reduce(np.abs(weight), axis=None))
    step &= -step  # the largest power of two that divides every weight
    # Two's complement: -2**n needs no more bits than 2**n - 1.
    largest = max(int(weight.max()), -int(weight.min()) - (1 if is_mixed(weight) else 0)) // step
    return max(1, largest.bit_length()) + (1 if is_mixed(weight) else 0)


# ---------------------------------------------------------------------------------------------- register ranges


def resets_by_subtraction(where: str) -> NetworkError:
    """Return the error for neurons that Loihi does not have."""
    return NetworkError(where, "resets by subtraction, and Lava's LIF to a value", remedy="Choose a chip whose neurons do.")


def check_neuron(neuron: QuantizedNeuron) -> None:
    """Raise `NetworkError` for thresholds outside 0..2**17 - 1 or decays outside 0..4096."""
    match neuron:
        case QuantizedLIF():
            check_range(neuron, "vth", 0, THRESHOLD_MAX)
        case QuantizedSubtractiveLIF():
            raise resets_by_subtraction(type(neuron).__name__)
        case QuantizedLI():
            pass  # never fires: no threshold register of its own
        case QuantizedSigmaDelta():
            check_range(neuron, "vth", 0, SIGMA_DELTA_MAX)
            return
        case _:
            raise unsupported_kind(neuron)
    check_range(neuron, "du", 0, DECAY_UNITY)
    check_range(neuron, "dv", 0, DECAY_UNITY)


def check_synapse(synapse: QuantizedSynapse) -> None:
    """Raise `NetworkError` for weights that no synapse of the chip holds, or that `weight_bits` do not hold.

    Weights of one sign lie within 0..255 in magnitude. Weights of both signs are even and within -256..254: the lowest bit of a
    weight is its sign.
    """
    name, weight = type(synapse).__name__, np.asarray(synapse.weight, dtype=np.int64)
    if is_mixed(weight):
        check_range(synapse, "weight", MIXED_MIN, MIXED_MAX)
        if (weight & 1).any():
            raise NetworkError(f"{name}.weight", "has odd numbers among weights of both signs")
    check_range(synapse, "weight", -SINGLE_SIGN_MAX if weight.size and weight.max() <= 0 else MIXED_MIN, SINGLE_SIGN_MAX)
    if not max(1, width_of(weight)) <= synapse.weight_bits <= WEIGHT_BITS_MAX + 1:
        raise NetworkError(f"{name}.weight_bits", f"{synapse.weight_bits} do not hold weights {width_of(weight)} bits wide")


def check_layer(layer: QuantizedLayer) -> None:
    """Raise `NetworkError` for a number of a layer that the chip's registers cannot hold."""
    check_neuron(layer.neuron)
    for connection in layer.connections:
        check_synapse(connection.synapse)
    match layer.neuron:
        case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedLI():
            check_range(layer, "bias", BIAS_MIN, BIAS_MAX)
        case QuantizedSigmaDelta(only_sums=only_sums):
            check_range(layer, "bias", -SIGMA_DELTA_MAX, SIGMA_DELTA_MAX)
            if only_sums and layer.bias.any():
                raise NetworkError(type(layer.neuron).__name__, "only sums, and has a bias: Lava's Sigma takes none")
        case _:
            raise unsupported_kind(layer.neuron)


def check_sigma_delta(network: QuantizedNetwork) -> None:
    """Raise `NetworkError` for sigma-delta neurons in another network than a chain of them, each layer with one connection."""
    if not is_sigma_delta(network):
        return
    source = INPUT
    encoders = () if network.encoder is None else (("input", network.encoder.neuron),)
    for name, neuron in (*encoders, *((layer.name, layer.neuron) for layer in network)):
        match neuron:
            case QuantizedSigmaDelta():
                pass
            case QuantizedLIF() | QuantizedSubtractiveLIF() | QuantizedLI():
                raise NetworkError(
                    f"layer {name!r}", "has spiking neurons, and other layers of the network sigma-delta neurons",
                    remedy="Give all layers, and the input, neurons of one kind.",
                )  # fmt: skip
            case _:
                raise unsupported_kind(neuron)
    for layer in network:
        first, *others = layer.connections
        if others or first.source != source or first.delay_steps:
            raise no_sigma_delta(f"layer {layer.name!r}", "which are supported in a chain without delays and recurrence")
        source = layer.name


# ---------------------------------------------------------------------------------------------- Lava's reading of weights


def as_lava_reads(weight: Integers) -> Integers:
    """Weights with which Lava runs a netx layer that stores `weight`: nearly always the same.

    netx derives width and exponent from the integers (``netx/utils.py: optimize_weight_bits``). Lava's synapse then clips and
    truncates by a sign mode of its own. The two disagree where no weight is positive: on negative powers of two
    (``[[0, -2]]`` runs as ``[[0, -1]]``), and on odd numbers where another weight is zero (``[[0, -129]]`` runs as zeros).

    Raises
    ------
    OverflowError
        All weights are zero: Lava takes the logarithm of infinity.
    """
    return as_lava_reads_together(weight)[0]


def lava_shift(low: int, high: int) -> tuple[int, int]:
    """Return 1 where netx takes weights from `low` to `high` for mixed, otherwise 0, and the bits that it shifts them left by."""
    if low == high == 0:
        raise OverflowError("an all-zero weight matrix has no exponent")
    # netx takes negative weights with zeros for mixed; Lava's synapse takes them for inhibitory.
    signed = 0 if high < 0 or low >= 0 else 1
    if signed:
        # Lava divides by zero here, which NumPy gives as infinity.
        scale = min(127 / high if high else np.inf, -128 / low)
    else:
        scale = 255 / high if low >= 0 else -256 / low
    return signed, int(np.floor(np.log2(scale))) + signed


def as_lava_reads_together(*weights: Integers) -> list[Integers]:
    """`as_lava_reads` for matrices that share width and exponent in netx, as the two of a ``dense_rec`` layer do."""
    low, high = min(int(weight.min()) for weight in weights), max(int(weight.max()) for weight in weights)
    # As `optimize_weight_bits` does, with the same floating-point operations, so that rounding agrees.
    if (high > MIXED_MAX and low < 0) or (low < MIXED_MIN and high > 0):
        weights = tuple(np.clip(weight, MIXED_MIN, MIXED_MAX) for weight in weights)
        low, high = max(low, MIXED_MIN), min(high, MIXED_MAX)
    signed, shift = lava_shift(low, high)
    # Low bits that are zero in every weight are not stored.
    whole = (n for n in range(8, 0, -1) if not any((weight % (1 << n)).any() for weight in weights))
    bits = 8 - shift - (next(whole, 0) - signed)
    if shift < 0:  # beyond the widest weight: Lava shifts by a negative number, for which NumPy returns 0
        return [np.zeros_like(weight) for weight in weights]
    read = []
    for weight in (weight << shift for weight in weights):
        # Lava's clip_weights and truncate_weights, for an 8-bit synapse that stores `bits` bits
        mixed = not (weight.min() >= 0 or weight.max() <= 0)
        sign = -1 if not mixed and weight.min() < 0 else 1
        magnitude = np.clip(sign * weight, -256 if mixed else 0, 255)
        drop = 8 - bits + (1 if mixed else 0)
        # odd numbers below -128 with zeros: again a shift by a negative number
        stored = np.zeros_like(weight) if drop < 0 else sign * ((magnitude >> drop) << drop)
        read.append(stored >> shift)
    return read


# ------------------------------------------------------------------------------------------- the target


class LoihiTarget:
    """Loihi's registers and rounding, network files, emulator and simulators; see `neurodeploy.targets.Target`."""

    name = "loihi"
    suffix = ".net"
    simulators = ("lava", "loihi2")  # Lava first: it returns all layers and membranes, a board the output alone
    other_forms: Mapping[str, Callable[[QuantizedNetwork], str]] = MappingProxyType({})
    resets = ("to zero",)
    # From 2 bits on: with weights of both signs one bit is the sign.
    registers = Registers(
        weight_bits=tuple(range(2, WEIGHT_BITS_MAX + 1)), weight_exponent=MANTISSA_SHIFT, current_bits=STATE_BITS,
        membrane_bits=STATE_BITS, threshold_bits=THRESHOLD_BITS, decay_bits=DECAY_BITS, bias_min=BIAS_MIN, bias_max=BIAS_MAX,
        source="Loihi register widths, lava-nc 0.10 proc/lif/models.py",
    )  # fmt: skip

    # ------------------------------------------------------------------------------------------ rounding

    def decay_registers(self, share: Floats) -> Integers:
        """Multiples of 1/4096, 0..4096."""
        return np.asarray(np.rint(np.asarray(share) * DECAY_UNITY), dtype=np.int64)

    def decay_shares(self, registers: Integers) -> Floats:
        return np.asarray(registers / DECAY_UNITY)

    def current_gain(self, du: Integers) -> Floats:
        return np.ones(du.shape)

    def adapted(self, network: Network) -> Network:
        return network

    def finished(self, network: QuantizedNetwork, largest: Mapping[str, float]) -> QuantizedNetwork:
        del largest
        return network

    def weight_step(self, *, is_mixed: bool) -> int:
        """2 for weights of both signs, whose lowest bit is the sign; otherwise 1."""
        return 2 if is_mixed else 1

    def most_steps(self, bits: int, *, is_mixed: bool) -> int:
        """``2**(bits - 1) - 1`` for weights of both signs, so that a sign never costs a step; otherwise ``2**bits - 1``."""
        return (1 << (bits - 1)) - 1 if is_mixed else (1 << bits) - 1

    def as_run(self, weight: Integers) -> Integers:
        """Weights that Lava reads where a layer with one dense connection stores these; see `as_lava_reads`."""
        return as_lava_reads(weight) if weight.any() else weight

    def round_state(self, values: Floats) -> Integers:
        return np.asarray(np.rint(values), dtype=np.int64)

    def check(self, network: QuantizedNetwork) -> None:
        """Raise `NetworkError` for a threshold, decay, bias or weight outside its register; it names layer, value and limit."""
        check_sigma_delta(network)
        for layer in network:
            try:
                check_layer(layer)
            except NetworkError as error:
                raise NetworkError(
                    f"layer {layer.name!r}", f"{error.where}: {error.what}", source=self.registers.source,
                    remedy="Quantise the network for this chip.",
                ) from error  # fmt: skip

    # ------------------------------------------------------------------------------------------ files

    # Files, emulator and Lava are imported when used: rounding a network needs neither h5py nor Numba.
    def check_chip(self, network: QuantizedNetwork, profile: HardwareProfile) -> None:
        del network, profile  # its cores are counted, and its registers checked

    def check_file(self, network: QuantizedNetwork) -> None:
        from neurodeploy.targets.loihi.netx_io import check_file

        check_file(network)

    def write(self, network: QuantizedNetwork, path: Path) -> Path:
        from neurodeploy.targets.loihi.netx_io import write_netx

        return write_netx(network, path)

    def read(self, path: Path) -> QuantizedNetwork:
        from neurodeploy.targets.loihi.netx_io import read_netx

        return read_netx(path)

    # ------------------------------------------------------------------------------------------ running

    def emulate(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", raw: bool = False, **options: Any
    ) -> SpikeRecord:
        """Run in `neurodeploy.targets.loihi.emulator`, whose options these are."""
        from neurodeploy.targets.loihi.emulator import run_emulator, run_sigma_delta
        from neurodeploy.targets.loihi.neuron_step import InputPopulation, bias_mantissas, encoder_of

        if is_sigma_delta(network):
            numbers = bias_mantissas(encoder_of(network), spikes) if raw else spikes
            return run_sigma_delta(network, numbers, record=record, raw=raw, **options)
        if raw:
            encoder = encoder_of(network)
            resets = {key: options[key] for key in ("reset_interval", "reset_offset") if key in options}
            spikes = InputPopulation(encoder, **resets).advance(bias_mantissas(encoder, spikes))
        return run_emulator(network, spikes, record=record, **options)

    def simulator_missing(self, simulator: str) -> str:
        from neurodeploy.targets.loihi.lava_client import require_extension, require_lava

        try:
            if simulator == "loihi2":
                require_extension()
            require_lava()
        except SimulationError as error:
            return str(error)
        return ""

    def run_simulator(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, simulator: str, record: Recorded = "output", raw: bool = False,
        **options: Any,
    ) -> SpikeRecord:  # fmt: skip
        """Run in Lava's simulator (``"lava"``) or on a board through Intel's extension of Lava (``"loihi2"``)."""
        from neurodeploy.targets.loihi.emulator import check_resets, refuse_options
        from neurodeploy.targets.loihi.lava_client import LavaEnd, run_lava
        from neurodeploy.targets.loihi.neuron_step import bias_mantissas, encoder_of

        self.check(network)
        if is_sigma_delta(network):
            refuse_options({name: options.pop(name, 0) for name in ("reset_interval", "reset_offset")})
        check_resets(options.get("reset_interval", 0), options.get("reset_offset", 0))
        if raw:
            spikes = bias_mantissas(encoder_of(network), spikes)
        return run_lava(network, spikes, end=cast("LavaEnd", simulator), record=record, raw=raw, **options)


LOIHI = LoihiTarget()
