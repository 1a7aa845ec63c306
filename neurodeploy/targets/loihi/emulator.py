"""Emulation of Loihi in integers, bit for bit as Lava's simulator.

A network is prepared once (`Prepared`); an `Emulator` then runs a batch of samples on it, one block of input steps after
another. `neurodeploy.simulation` schedules the layers and selects the kernels of synapses;
`neurodeploy.targets.loihi.neuron_step` advances the neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError, SimulationError, counted
from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.connectivity import Number, is_convolution
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import (
    QuantizedLayer,
    QuantizedNetwork,
    QuantizedSynapse,
    sigma_delta,
)
from neurodeploy.simulation.kernel_dispatch import ReportedKernel, engine_for
from neurodeploy.simulation.layer_schedule import (
    NetworkRun,
    ParallelSynapses,
    ReadyLayer,
    ScratchPool,
    SynapseKernel,
    WorkerPool,
    batch_parts,
    thread_count,
)
from neurodeploy.simulation.records import OnOverflow, Recorded, SpikeRecord, recorded_layers, report_overflows
from neurodeploy.targets.loihi.neuron_step import IntegerNeurons, SigmaDeltaNeurons
from neurodeploy.targets.loihi.target import LOIHI, MANTISSA_SHIFT, STATE_MAX, lava_shift

# ---------------------------------------------------------------------------------------------- exact sums

ACCUMULATOR_MAX = ((1 << 31) - 1 - STATE_MAX) >> MANTISSA_SHIFT
"""Largest input of a neuron: shifted left and added to a current of 24 bits, it fits Lava's 32 bits (proc/lif/models.py)."""
CONVOLUTION_MAX = (1 << 23) - 1
"""Largest input through a convolution: Lava holds it in 24 bits (proc/conv/models.py: PyConvModelFixed)."""


def exact_number(layer: QuantizedLayer, input_max: int = 1) -> Number:
    """Return the smallest float type in which no sum of the layer's weights is rounded, shown from the weights alone.

    Partial sums are whole numbers no larger than the sum of all magnitudes, which int32 holds, too.

    Parameters
    ----------
    input_max : int
        Largest magnitude in the network's input.

    Raises
    ------
    SimulationError
        The weights can add up to more than Lava's registers hold, which would wrap.
    """
    where, largest = f"layer {layer.name!r}", np.zeros(layer.n_neurons, dtype=np.int64)
    remedy = "Scale its input down."
    for connection in layer.connections:
        synapse = connection.synapse
        total: NDArray[np.int64] = synapse.total(np.abs(synapse.weight.astype(np.int64)))
        total = total * (input_max if connection.source == INPUT else 1)
        if is_convolution(synapse) and total.max() > CONVOLUTION_MAX:
            raise SimulationError(
                where, "its convolution can add up to more than the 24 bits that Lava holds it in",
                remedy="Give its window fewer weights." if input_max == 1 else remedy,
            )  # fmt: skip
        largest += total
    if largest.max() > ACCUMULATOR_MAX:
        raise SimulationError(
            where, "its weights can add up to more than Lava's 32-bit accumulator holds",
            remedy="Give its neurons fewer synapses." if input_max == 1 else remedy,
        )  # fmt: skip
    return np.float32 if largest.max() < 1 << 24 else np.float64  # the mantissa of a single has 24 bits


# ---------------------------------------------------------------------------------------------- networks and batches


class Prepared:
    """A network that is ready to run: its sums are known to be exact, its synapses prepared. Emulators may share it.

    Parameters
    ----------
    kernel : str, optional
        Kernel of every connection that has it (see `neurodeploy.simulation.kernel_dispatch`); by default the fastest, measured.
    input_max : int
        Largest magnitude of the input's numbers: 1 for spikes.
    device : str, optional
        Torch device to run on, ``"cpu"`` or ``"cuda"``; by default compiled loops, which are faster on a processor.

    Raises
    ------
    SimulationError
        A layer's weights can add up to more than Lava's registers hold, which would wrap.
    RequestError
        No such device.
    """

    def __init__(
        self, network: QuantizedNetwork, *, kernel: str | None = None, input_max: int = 1, device: str | None = None
    ) -> None:
        LOIHI.check(network)  # the compiled loops rely on the registers' ranges
        self.network, self.input_max, self.device = network, input_max, device
        self.engine = engine_for(device)
        self.scratch = ScratchPool(self.engine)
        self.synapses: dict[str, tuple[ReportedKernel, ...]] = {}
        for layer in network:
            number = exact_number(layer, input_max)
            self.synapses[layer.name] = tuple(
                # Only the input can be graded: neurons send 0 or 1.
                self.engine.synapses(c.synapse, number, kernel, graded=input_max > 1 and c.source == INPUT)
                for c in layer.connections
            )

    def synapses_for(self, layer: QuantizedLayer, pool: WorkerPool) -> tuple[SynapseKernel, ...]:
        """Return the synapses onto a layer, for the threads of a pool to share."""
        synapses = self.synapses[layer.name]
        if pool.size == 1:
            return synapses
        pairs = [c.synapse.n_pairs for c in layer.connections]
        return tuple(ParallelSynapses(s, n, pool) for s, n in zip(synapses, pairs, strict=True))

    @property
    def kernels(self) -> dict[tuple[str, str], str | None]:
        """Kernel of each connection (source, layer); None where no spikes came yet."""
        pairs = {layer.name: zip(layer.connections, self.synapses[layer.name], strict=True) for layer in self.network}
        return {(connection.source, name): synapses.kernel for name, both in pairs.items() for connection, synapses in both}


class Emulator:
    """A batch of samples on an emulated chip, from rest.

    Parameters
    ----------
    network : QuantizedNetwork or Prepared
        `Prepared` to run many batches, to run on a torch device, or for graded input: whole numbers, as Lava's synapses take
        them with ``num_message_bits``.
    n_samples : int
        Samples in the batch.
    record : "output" | "all" | sequence of layer names
        Layers whose spikes and membranes are recorded; none for ``()``. Spikes are counted in all layers.
    reset_interval, reset_offset : int
        All neurons return to rest before step `reset_offset` and every `reset_interval` steps from there on; spikes under way
        are kept. These are netx's arguments of the same names, on the network's clock. An interval of 0 for never.
    on_overflow : "wrap" | "raise" | "warn"
        What to do after steps in which a state left its 24 bits, besides counting it and doing what the chip does: nothing,
        `SimulationError`, or a `RuntimeWarning`.
    threads : int, optional
        Threads that run parts of the batch, or share a sample; by default as many as cores, where the work pays for them. A torch
        device has threads of its own.
    """

    def __init__(
        self,
        network: QuantizedNetwork | Prepared,
        *,
        n_samples: int = 1,
        record: Recorded = "output",
        reset_interval: int = 0,
        reset_offset: int = 0,
        on_overflow: OnOverflow = "wrap",
        threads: int | None = None,
    ) -> None:
        if on_overflow not in ("wrap", "raise", "warn"):
            raise RequestError("on_overflow", f"{on_overflow!r} is none of 'wrap', 'raise' and 'warn'")
        check_resets(reset_interval, reset_offset)
        if threads is not None and threads < 1:
            raise RequestError("threads", f"are {threads}, not at least 1")
        self.prepared = network if isinstance(network, Prepared) else Prepared(network)
        engine, on_device = self.prepared.engine, self.prepared.device is not None
        if on_device and threads not in (None, 1):
            raise RequestError(
                "threads", f"{threads} cannot be set for a device, which has threads of its own", remedy="Leave them out."
            )
        self.network, self.n_samples, self.on_overflow = self.prepared.network, n_samples, on_overflow
        recorded = recorded_layers(self.network, record)
        self._threads = threads or (1 if on_device else thread_count(n_samples * self.network.n_neurons))
        self._parts: list[tuple[NetworkRun, list[IntegerNeurons]]] = []
        sizes = [n_samples] if on_device else batch_parts(n_samples, self.network, self._threads)
        for size in sizes:
            pool = WorkerPool(self._threads // len(sizes))  # threads that no part of the batch occupies share a part's layers
            neurons = [
                IntegerNeurons(layer, size, reset_interval, reset_offset, engine, pool, on_device=on_device)
                for layer in self.network
            ]
            run = NetworkRun(
                self.network,
                [ReadyLayer(n.layer, n, self.prepared.synapses_for(n.layer, pool), np.int32) for n in neurons],
                size,
                recorded=recorded,
                membrane=np.int32,
                input_number=np.uint8 if self.prepared.input_max == 1 else np.int32,
                backend=engine,
                scratch=self.prepared.scratch,
            )
            self._parts.append((run, neurons))

    def advance(self, spikes: NDArray[Any]) -> SpikeRecord:
        """Run the next steps and return their record; its counts and overflows are of all steps since the start.

        Parameters
        ----------
        spikes : array (n_samples, \\*input_shape, n_steps), uint8, 0 or 1; whole numbers, where the network was prepared for them

        Raises
        ------
        DataError
            Another number of samples, or a larger number, than the emulator was made for.
        SimulationError
            A state left its 24 bits, and `on_overflow` is ``"raise"``.
        """
        if len(spikes) != self.n_samples or input_magnitude(spikes) > self.prepared.input_max:
            raise DataError(
                "input spikes",
                f"have {counted(len(spikes), 'sample')} and values up to {spikes.max()}, which the emulator was not prepared for",
            )
        # Counts run on from call to call; only those of this call are reported.
        before = self._overflows()
        ends = np.cumsum([run.batch for run, _ in self._parts])
        inputs = np.split(spikes, ends[:-1])
        if self._threads == 1 or len(self._parts) == 1:
            records = [run.advance(part) for (run, _), part in zip(self._parts, inputs, strict=True)]
        else:
            # Threads, not processes: the compiled kernels release the interpreter lock.
            with ThreadPoolExecutor(self._threads) as pool:
                records = list(pool.map(lambda part, own: part[0].advance(own), self._parts, inputs))
        since = {name: times - before[name] for name, times in self._overflows().items()}
        report_overflows(since, self.on_overflow, "24 bits", "currents wrapped or membranes saturated")
        fired, v = ({name: np.concatenate([r[k][name] for r in records]) for name in records[0][k]} for k in (0, 1))
        return SpikeRecord(
            end="emulator", spikes=fired, v=v, overflows=self._overflows(), counts=self._counts(), steps=spikes.shape[-1]
        )

    def _overflows(self) -> dict[str, int]:
        names = [layer.name for layer in self.network]
        return dict(
            zip(names, np.sum([[int(n.overflows) for n in neurons] for _, neurons in self._parts], axis=0).tolist(), strict=True)
        )

    def _counts(self) -> dict[str, NDArray[np.int32]]:
        counts, to_numpy = {}, self.prepared.engine.to_numpy
        for k, layer in enumerate(self.network):
            counts[layer.name] = np.concatenate([to_numpy(n[k].counts) for _, n in self._parts]).reshape(-1, *layer.shape)
        return counts


def check_resets(reset_interval: int, reset_offset: int) -> None:
    """Raise `RequestError` for a negative interval, or an offset outside it."""
    if reset_interval < 0 or not 0 <= reset_offset < max(reset_interval, 1):
        raise RequestError(
            "reset_interval", f"{reset_interval} with an offset of {reset_offset} is no valid reset",
            remedy="Give an interval of at least 1, and an offset from 0 to below it; an interval of 0 for never.",
        )  # fmt: skip


_latest: list[Prepared] = []
"""The network that ran last stays prepared, so that a loop over batches has its kernels timed once."""


def run_emulator(
    network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", device: str | None = None, **options: Any
) -> SpikeRecord:
    """Run each sample from rest; `neurodeploy.targets.simulate.simulate` is the entry that checks its arguments.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), uint8, 0 or 1; whole numbers of more bits are graded input
    device : str, optional
        Of `Prepared`.
    **options
        Of `Emulator`.

    Raises
    ------
    SimulationError
        A layer's weights can add up to more than Lava's registers hold, which would wrap.
    """
    input_max = input_magnitude(spikes)
    # `is`, because networks never change, and comparing all weights would take longer than it saves.
    if not (_latest and _latest[0].network is network and (_latest[0].input_max, _latest[0].device) == (input_max, device)):
        _latest[:] = [Prepared(network, input_max=input_max, device=device)]
    return Emulator(_latest[0], n_samples=len(spikes), record=record, **options).advance(spikes)


def run_sigma_delta(
    network: QuantizedNetwork, numbers: NDArray[Any], *, record: Recorded = "output", raw: bool = False,
    on_overflow: OnOverflow = "wrap", **options: Any,
) -> SpikeRecord:  # fmt: skip
    """Run a network of sigma-delta neurons on each sample, on the chip's clock: from power-up, with all biases in place.

    A layer that is k synapses deep so does k steps before its first input arrives, in which biases send their first changes. Its
    record begins with the response to that input, and holds sigma for v.

    Parameters
    ----------
    numbers : array (batch, \\*input_shape, n_steps)
        Whole numbers that the first layer receives; with `raw`, those of `bias_mantissas` for the input population.

    Raises
    ------
    RequestError
        Any other option.
    SimulationError
        A number left its 32 bits, and `on_overflow` is ``"raise"``.
    """
    LOIHI.check(network)
    refuse_options(options)
    batch, n_steps = numbers.shape[0], numbers.shape[-1]
    inputs = np.moveaxis(numbers.reshape(batch, -1, n_steps), 0, -1).astype(np.int64)  # (n, n_steps, batch)
    encoder = None
    if raw and network.encoder is not None:
        encoder = SigmaDeltaNeurons(sigma_delta(network.encoder.neuron, "input"), np.zeros((), np.int64), len(inputs), batch)
    neurons = {
        layer.name: SigmaDeltaNeurons(sigma_delta(layer.neuron, layer.name), layer.bias, layer.n_neurons, batch)
        for layer in network
    }
    receive = {layer.name: SigmaDeltaSynapses(layer.connections[0].synapse) for layer in network}
    counts = {layer.name: np.zeros((layer.n_neurons, batch), dtype=np.int32) for layer in network}
    recorded = recorded_layers(network, record)
    arrays = {name: np.zeros((2, batch, network[name].n_neurons, n_steps), dtype=np.int32) for name in recorded}
    for step in range(n_steps + len(network.layers)):
        before = np.zeros_like(inputs[:, 0]) if step == 0 else encoder.sent if encoder else inputs[:, min(step, n_steps) - 1]
        for depth, layer in enumerate(network, start=1):
            here, at = neurons[layer.name], step - depth
            arriving, before = before, here.sent
            if at >= n_steps:
                continue  # its record is full
            here.step(receive[layer.name].sums(arriving, here))
            if at >= 0:
                counts[layer.name] += here.sent != 0
            if at >= 0 and layer.name in arrays:
                arrays[layer.name][:, ..., at] = here.sent.T, here.sigma.T
        if encoder is not None and step < n_steps:
            encoder.encode(inputs[:, step])
    overflows = {name: each.overflows for name, each in neurons.items()}
    report_overflows(overflows, on_overflow, "32 bits", "sums wrapped")
    shaped = {name: array.reshape(2, batch, *network[name].shape, n_steps) for name, array in arrays.items()}
    return SpikeRecord(
        end="emulator", spikes={name: array[0] for name, array in shaped.items()},
        v={name: array[1] for name, array in shaped.items()}, overflows=overflows,
        counts={name: count.T.reshape(batch, *network[name].shape) for name, count in counts.items()}, steps=n_steps,
    )  # fmt: skip


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raise `RequestError` for options of a simulation that sigma-delta neurons do not have."""
    for name, value in options.items():
        if value:
            why = "netx ignores it" if name.startswith("reset") else "their emulator has none"
            raise RequestError(name, f"is not for sigma-delta neurons: {why}", remedy="Leave it out.")


class SigmaDeltaSynapses:
    """Synapses of a connection for graded spikes, in the numbers that Lava's hold."""

    def __init__(self, synapse: QuantizedSynapse) -> None:
        self.matrix, self.is_image, self.bits = synapse.csr().astype(np.int64), is_convolution(synapse), 24
        if not self.is_image:
            low, high = int(self.matrix.min()), int(self.matrix.max())
            # netx stores weights shifted left as far as they go, and Lava shifts what they add up to back (netx/utils.py).
            self.bits = 32 - (lava_shift(low, high)[1] if low or high else 0)

    def sums(self, sent: Integers, neurons: SigmaDeltaNeurons) -> Integers:
        """Return what neurons receive of graded spikes (n_in, batch), as (n_out, batch)."""
        exact: Integers = self.matrix @ sent
        within = neurons.held(exact, self.bits)
        if self.is_image:
            # Lava adds up in doubles; what int32 does not hold becomes -2**31, of which 24 bits are 0 (proc/conv/models.py).
            within = np.where(np.abs(exact + 0.5) > 1 << 31, 0, within)
        return within


def input_magnitude(spikes: NDArray[Any]) -> int:
    """Return the `input_max` of `Prepared` that an input needs: 1 where all numbers are 0 or 1, at least 2 where one is -1."""
    lowest = int(spikes.min())
    # 1 stands for binary spikes, whose kernels take 0 and 1 alone: an input with -1 must get more.
    return max(1, int(spikes.max()), 2 if lowest == -1 else -lowest)
