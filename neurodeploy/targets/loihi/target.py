"""Loihi as a target: Loihi 1 and 2 as Lava's bit-accurate models compute, netx files, the emulator, Lava and boards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, SimulationError
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.simulation.records import Recorded, SpikeRecord
from neurodeploy.targets import Registers
from neurodeploy.targets.loihi.arithmetic import (
    BIAS_MAX,
    BIAS_MIN,
    DECAY_BITS,
    DECAY_UNITY,
    MANTISSA_SHIFT,
    STATE_BITS,
    THRESHOLD_BITS,
    WEIGHT_BITS_MAX,
    as_lava_reads,
    check_layer,
)


class LoihiTarget:
    """Loihi's registers and rounding, network files, emulator and simulators; see `neurodeploy.targets.Target`."""

    name = "loihi"
    suffix = ".net"
    simulators = ("lava", "loihi2")  # Lava first: it returns all layers and membranes, a board the output alone
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
        from neurodeploy.targets.loihi.emulator import run_emulator
        from neurodeploy.targets.loihi.neuron_step import InputPopulation, bias_mantissas, encoder_of

        if raw:
            encoder = encoder_of(network)
            resets = {key: options[key] for key in ("reset_interval", "reset_offset") if key in options}
            spikes = InputPopulation(encoder, **resets).advance(bias_mantissas(encoder, spikes))
        return run_emulator(network, spikes, record=record, **options)

    def simulator_missing(self, simulator: str) -> str:
        from neurodeploy.targets.loihi.lava_client import require_extension, require_lava

        try:
            require_lava()
            if simulator == "loihi2":
                require_extension()
        except SimulationError as error:
            return str(error)
        return ""

    def run_simulator(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, simulator: str, record: Recorded = "output", raw: bool = False,
        **options: Any,
    ) -> SpikeRecord:  # fmt: skip
        """Run in Lava's simulator (``"lava"``) or on a board through Intel's extension of Lava (``"loihi2"``)."""
        from neurodeploy.targets.loihi.emulator import check_resets
        from neurodeploy.targets.loihi.lava_client import LavaEnd, run_lava
        from neurodeploy.targets.loihi.neuron_step import bias_mantissas, encoder_of

        self.check(network)
        check_resets(options.get("reset_interval", 0), options.get("reset_offset", 0))
        if raw:
            spikes = bias_mantissas(encoder_of(network), spikes)
        return run_lava(network, spikes, end=cast("LavaEnd", simulator), record=record, raw=raw, **options)


LOIHI = LoihiTarget()
