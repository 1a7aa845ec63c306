"""Run the layers of a network in order, each over many time steps at once.

Time is the network's own: step t of a layer is its response to step t of the input. A connection delivers what its source fired
at step t, or `delay_steps` earlier; a connection of a layer from itself, step t - 1 at the latest. Nothing fired before step 0.

Running a layer over a block of steps, instead of the network step by step, lets one call of a kernel see many rows of spikes.
Only a recurrent layer has to stop earlier: as often as its own spikes come back to it.

The schedule depends on no number type and no neuron kind: an `ArrayBackend` holds the arrays, a `SynapseKernel` adds up weighted
spikes, a `NeuronState` advances neurons. A target's emulator implements them in integers. The reference simulation does so at the
end of this module in double precision: the recurrence of `neurodeploy.ir.network`, and synapses as matrix products.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.connectivity import Product, product_of
from neurodeploy.ir.graph import INPUT, LayerGraph, Population
from neurodeploy.ir.network import LI, LIF, Layer, Network, SubtractiveLIF
from neurodeploy.simulation.records import Recorded, SpikeRecord, recorded_layers, samples_first

INPUTS_PER_BLOCK = 1 << 21  # 8 MiB of int32
"""Synaptic inputs (steps x samples x neurons) that are accumulated at once, so that memory does not grow with the steps."""
WORD_BYTES = 8
"""Rows of spikes are padded to whole words: kernels skip eight silent neurons with one comparison."""

# ---------------------------------------------------------------------------------------------- what a run is made of


class ArrayBackend(Protocol):
    """Allocates and copies the arrays of a run: in this machine's memory, or on a device."""

    def zeros(self, shape: tuple[int, ...], kind: type[Any]) -> Any:
        """Allocate an array of zeros; `kind` is a NumPy scalar type."""

    def from_numpy(self, array: NDArray[Any]) -> Any:
        """Convert a NumPy array; both may share their memory."""

    def to_numpy(self, array: Any) -> NDArray[Any]:
        """Return a backend array as a NumPy array."""

    def copy(self, array: Any) -> Any:
        """Return a copy that shares no memory."""

    def load_steps(self, spikes: NDArray[Any], start: int, into: Any) -> None:
        """Fill `into` (n_steps, batch, n or more) with the steps of `spikes` (batch, n, all steps) from `start` on."""


class NumpyArrays:
    """NumPy arrays, in this machine's memory."""

    def zeros(self, shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
        return np.zeros(shape, dtype=kind)

    def from_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def to_numpy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def copy(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy()

    def load_steps(self, spikes: NDArray[Any], start: int, into: NDArray[Any]) -> None:
        into[..., : spikes.shape[1]] = np.moveaxis(spikes[..., start : start + len(into)], -1, 0)


NUMPY_ARRAYS = NumpyArrays()


class NeuronState(Protocol):
    """State of a layer's neurons for a batch of samples."""

    def step(self, inputs: Any, fired: Any, v: Any | None) -> None:
        """Advance by `n_steps` and leave zeros in `inputs`, whose memory the next layer reuses.

        Parameters
        ----------
        inputs : array (n_steps, batch, n)
            Weighted spikes, added up.
        fired : array (n_steps, batch, n or more), uint8
            Filled with 1 where a neuron fires.
        v : array (n_steps, batch, n), optional
            Filled with membranes after the step.
        """


class SynapseKernel(Protocol):
    """Synapses of a connection, prepared for spikes."""

    def add(self, spikes: Any, inputs: Any) -> None:
        """Add weighted spikes (rows, n_in or more) to `inputs` (rows, n_out)."""


@dataclass(frozen=True)
class ReadyLayer:
    """A layer with its neurons at rest and its synapses prepared; `number` is the type in which inputs are added up."""

    layer: Population[Any, Any]
    neurons: NeuronState
    synapses: tuple[SynapseKernel, ...]
    number: type[Any]


class ScratchPool:
    """Zeroed accumulators that layers, and threads, take turns to use."""

    def __init__(self, backend: ArrayBackend) -> None:
        self.backend = backend
        self._free: dict[type[Any], list[Any]] = defaultdict(list)

    @contextmanager
    def borrow(self, size: int, kind: type[Any]) -> Iterator[Any]:
        """Lend a flat array of at least `size` zeros; the borrower leaves zeros behind."""
        try:
            scratch = self._free[kind].pop()  # list.pop is atomic: two threads never get the same array
        except IndexError:
            scratch = self._allocate(size, kind)
        if len(scratch) < size:
            scratch = self._allocate(size, kind)
        yield scratch
        self._free[kind].append(scratch)  # not in a `finally`: after an error it may hold anything

    def _allocate(self, size: int, kind: type[Any]) -> Any:
        scratch = self.backend.zeros((size,), kind)
        scratch[:] = 0  # touching all of it before the first read makes Linux back it with large pages
        return scratch


class SpikeBuffer:
    """Recent spikes of the input and of every layer, as far back as the largest delay of a connection from it.

    Parameters
    ----------
    block_steps : int
        Steps that are worked on at once.
    input_number : type
        NumPy type of the input's numbers; layers fire in uint8.
    """

    def __init__(
        self, network: LayerGraph[Any], batch: int, block_steps: int, input_number: type[Any], backend: ArrayBackend
    ) -> None:
        self.backend = backend
        sizes = {INPUT: network.n_inputs} | {layer.name: layer.n_neurons for layer in network}
        # A layer sees its own spikes one step later than those of others: + 1 for a connection from itself.
        self.history = {
            name: max((c.delay_steps + (layer.name == name) for layer, c in network.targets(name)), default=0) for name in sizes
        }
        self.spikes: dict[str, Any] = {
            name: backend.zeros(
                (self.history[name] + block_steps, batch, -(-n // WORD_BYTES) * WORD_BYTES),
                input_number if name == INPUT else np.uint8,
            )
            for name, n in sizes.items()
        }

    def block(self, source: str, n_steps: int, delay_steps: int = 0) -> Any:
        """Return a view (n_steps, batch, n_source or more) of the current block, or of the steps `delay_steps` before it."""
        first = self.history[source] - delay_steps
        return self.spikes[source][first : first + n_steps]

    def advance(self, n_steps: int) -> None:
        """Move the last steps of a block of `n_steps` to the front, as the history of the next."""
        for name, history in self.history.items():
            if history:
                # Both may overlap where the history is longer than the block, hence the copy.
                self.spikes[name][:history] = self.backend.copy(self.spikes[name][n_steps : n_steps + history])


# ---------------------------------------------------------------------------------------------- a batch in a network

Records: TypeAlias = "tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[Any]]]"
"""Spikes and membranes of the recorded layers, (batch, \\*shape, n_steps)."""


class NetworkRun:
    """A batch of samples in a network, from rest.

    Parameters
    ----------
    layers : sequence of ReadyLayer
        In the network's order.
    recorded : names of layers
    membrane : type
        NumPy type in which membranes are recorded.
    input_number : type
        NumPy type of the input's numbers.
    backend : ArrayBackend
        Holds all arrays of the run.
    scratch : ScratchPool, optional
        Of that backend; runs in parallel threads may share one.
    """

    def __init__(
        self,
        network: LayerGraph[Any],
        layers: Sequence[ReadyLayer],
        batch: int,
        *,
        recorded: Collection[str],
        membrane: type[Any],
        input_number: type[Any] = np.uint8,
        backend: ArrayBackend = NUMPY_ARRAYS,
        scratch: ScratchPool | None = None,
    ) -> None:
        self.backend = backend
        self.layers, self.batch, self.recorded, self.membrane = layers, batch, recorded, membrane
        largest = max(network.n_inputs, *(layer.n_neurons for layer in network))
        # The widest population, the input included, sets the steps of a block for all.
        self.block_steps = max(1, INPUTS_PER_BLOCK // (batch * largest))
        self.widest_layer = max(layer.n_neurons for layer in network)
        self.scratch = scratch or ScratchPool(backend)
        self.buffer = SpikeBuffer(network, batch, self.block_steps, input_number, backend)

    def advance(self, spikes: NDArray[Any]) -> Records:
        """Run the next steps of the input, (batch, \\*shape, n_steps), and return what the recorded layers did."""
        n_steps = spikes.shape[-1]
        # Contiguous, because compiled kernels index it flat.
        flat = np.ascontiguousarray(spikes.reshape(self.batch, -1, n_steps))
        recorded = [ready.layer for ready in self.layers if ready.layer.name in self.recorded]
        fired, v = (
            {layer.name: self.backend.zeros((n_steps, self.batch, layer.n_neurons), kind) for layer in recorded}
            for kind in (np.uint8, self.membrane)
        )
        for start in range(0, n_steps, self.block_steps):
            n = min(self.block_steps, n_steps - start)
            self.backend.load_steps(flat, start, self.buffer.block(INPUT, n))
            # In topological order: the sources of a layer have filled this block before it runs.
            for ready in self.layers:
                name = ready.layer.name
                # One accumulator serves all layers, since they run one after another.
                with self.scratch.borrow(n * self.batch * self.widest_layer, ready.number) as scratch:
                    self._run_layer(ready, n, scratch, v[name][start : start + n] if name in v else None)
                if name in fired:
                    fired[name][start : start + n] = self.buffer.block(name, n)[..., : ready.layer.n_neurons]
            self.buffer.advance(n)
        shapes = {layer.name: layer.shape for layer in recorded}
        fired_arrays, v_arrays = (
            {name: samples_first(self.backend.to_numpy(array), shapes[name]) for name, array in arrays.items()}
            for arrays in (fired, v)
        )
        return fired_arrays, v_arrays

    def _run_layer(self, ready: ReadyLayer, n_steps: int, scratch: Any, v: Any | None) -> None:
        """Run one layer over a block of steps."""
        layer, fired = ready.layer, self.buffer.block(ready.layer.name, n_steps)
        inputs = scratch[: n_steps * self.batch * layer.n_neurons].reshape(n_steps, self.batch, -1)
        pairs = list(zip(layer.connections, ready.synapses, strict=True))
        for connection, synapses in pairs:
            if connection.source != layer.name:
                spikes = self.buffer.block(connection.source, n_steps, connection.delay_steps)
                synapses.add(as_rows(spikes), as_rows(inputs))
        # Spikes that come back to the layer are known only as many steps ahead as the shortest loop takes.
        recurrent = [(c.delay_steps + 1, synapses) for c, synapses in pairs if c.source == layer.name]
        stride = min((delay for delay, _ in recurrent), default=n_steps)
        for start in range(0, n_steps, stride):
            part = slice(start, min(start + stride, n_steps))
            for delay, synapses in recurrent:
                synapses.add(as_rows(self.buffer.block(layer.name, n_steps, delay)[part]), as_rows(inputs[part]))
            ready.neurons.step(inputs[part], fired[part], v if v is None else v[part])


def as_rows(array: Any) -> Any:
    """View an array (..., n) as rows, (rows, n)."""
    return array.reshape(-1, array.shape[-1])


# ---------------------------------------------------------------------------------------------- threads

NEURONS_PER_THREAD = 1 << 12
"""Neurons, times samples, for which starting a thread pays."""
NEURONS_PER_PART = 1 << 17
"""Neurons of a layer, times samples, in a part of the batch: their states then stay in a core's second-level cache."""
PARALLEL_UPDATES = 1 << 16
"""Updates (neurons x samples x steps) of a layer from which on threads share its neurons."""
PARALLEL_PRODUCTS = 1 << 23
"""Rows of spikes times pairs of neurons from which on threads share the rows: below, waking a thread takes longer."""


def usable_processors() -> int:
    """Return the number of processors that this process may use: batch systems and containers may grant fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count(n_neurons: int) -> int:
    """Return the number of threads for `n_neurons` (times samples): at most the processors that the process may use."""
    return min(usable_processors(), max(1, n_neurons // NEURONS_PER_THREAD))


def batch_parts(n_samples: int, network: LayerGraph[Any], threads: int) -> list[int]:
    """Return the samples in each part of a batch: parts that fit a cache, and equally many for every thread."""
    largest = max(layer.n_neurons for layer in network)
    rounds = -(-n_samples * largest // (NEURONS_PER_PART * threads))
    # A multiple of the threads, so that none is left over for a last round.
    parts = min(n_samples, rounds * threads)
    return [n_samples // parts + (k < n_samples % parts) for k in range(parts)]


class WorkerPool:
    """Threads that divide a range of indices among them; a pool of one runs it in the caller's thread."""

    def __init__(self, size: int) -> None:
        self.size, self._others = size, ThreadPoolExecutor(size - 1) if size > 1 else None

    def map_ranges(self, work: Callable[[int, int], Any], n: int, *, parallel: bool) -> list[Any]:
        """Call `work(first, last)` for ranges that cover 0..n - 1 and return its results.

        Without `parallel`, for work too small to wake a thread, there is one range.
        """
        size = min(self.size, n)
        if self._others is None or size < 2 or not parallel:
            return [work(0, n)]
        ends = [n * k // size for k in range(size + 1)]
        # The caller's thread takes the first range, which is why the pool has one thread less.
        tasks = [self._others.submit(work, ends[k], ends[k + 1]) for k in range(1, size)]
        return [work(0, ends[1]), *(task.result() for task in tasks)]


class ParallelSynapses:
    """A `SynapseKernel` whose rows of spikes are divided among threads."""

    def __init__(self, synapses: SynapseKernel, n_pairs: int, pool: WorkerPool) -> None:
        self.synapses, self.n_pairs, self.pool = synapses, n_pairs, pool

    def add(self, spikes: NDArray[Any], inputs: NDArray[np.int32]) -> None:
        """Add weighted spikes (rows, n_in or more) to `inputs` (rows, n_out)."""

        def add_range(first: int, last: int) -> None:
            self.synapses.add(spikes[first:last], inputs[first:last])

        self.pool.map_ranges(add_range, len(spikes), parallel=len(spikes) * self.n_pairs >= PARALLEL_PRODUCTS)


# ---------------------------------------------------------------------------------------------- reference simulation


class FloatSynapses:
    """Synapses of a connection as a `SynapseKernel` in double precision."""

    def __init__(self, product: Product, n_in: int) -> None:
        self.product, self.n_in = product, n_in

    def add(self, spikes: NDArray[Any], inputs: NDArray[Any]) -> None:
        inputs += self.product(spikes[:, : self.n_in])  # rows of spikes are padded to whole words


# ---------------------------------------------------------------------------------------------- neurons


class FloatNeurons:
    """State of a layer in floats, arrays (batch, n): current u, and membrane v relative to the model's resting potential."""

    def __init__(self, layer: Layer, batch: int, *, keeps_largest: bool = False) -> None:
        self.neuron, self.bias = layer.neuron, layer.bias
        self.keeps_largest, self.largest = keeps_largest, 0.0
        self._u, self._v = np.zeros((batch, layer.n_neurons)), np.zeros((batch, layer.n_neurons))

    def step(self, inputs: NDArray[Any], fired: NDArray[np.uint8], v: NDArray[Any] | None) -> None:
        neuron, n = self.neuron, inputs.shape[-1]
        for t, weighted in enumerate(inputs):
            # u before v: the membrane takes the current of the same step, as on the chip.
            self._u = (1 - neuron.current_decay) * self._u + weighted
            self._v = (1 - neuron.voltage_decay) * self._v + self._u + self.bias
            if self.keeps_largest:  # before the reset: the register holds this too
                self.largest = max(self.largest, float(np.abs(self._u).max()), float(np.abs(self._v).max()))
            match neuron:
                case LIF():
                    fires = self._v > neuron.threshold
                    self._v[fires] = 0.0  # recorded after the reset, as Lava records it
                    fired[t, :, :n] = fires
                case SubtractiveLIF(threshold=threshold, max_spikes=max_spikes):
                    n_spikes = np.clip(np.floor(self._v / threshold), 0, max_spikes)
                    self._v -= n_spikes * threshold
                    fired[t, :, :n] = n_spikes
                case LI():
                    pass  # it is read, and never fires
                case _:
                    raise unsupported_kind(neuron)
            if v is not None:
                v[t] = self._v + neuron.rest
        inputs[...] = 0  # the accumulator goes back to the `ScratchPool`, which lends zeros


def run_reference(network: Network, spikes: NDArray[Any], *, record: Recorded = "output") -> SpikeRecord:
    """Run each sample from rest; `neurodeploy.targets.simulate.simulate` is the entry that checks its arguments.

    Membranes are recorded as the model has them, with `rest` added.

    Parameters
    ----------
    spikes : array (batch, \\*input_shape, n_steps), 0 or 1, or graded: whole numbers
    """
    neurons = [FloatNeurons(layer, len(spikes)) for layer in network]
    fired, v = run_floats(network, neurons, spikes, record)
    return SpikeRecord(end="reference", spikes=fired, v=v)


def largest_states(network: Network, spikes: NDArray[Any]) -> dict[str, float]:
    """Run samples as `run_reference` does; return the largest size of u or v of each layer, before resets, without `rest`."""
    neurons = [FloatNeurons(layer, len(spikes), keeps_largest=True) for layer in network]
    run_floats(network, neurons, spikes, "output")
    return {layer.name: one.largest for layer, one in zip(network, neurons, strict=True)}


def run_floats(network: Network, neurons: list[FloatNeurons], spikes: NDArray[Any], record: Recorded) -> Records:
    """Run a network's layers with these neurons and float synapses."""
    layers = []
    for layer, state in zip(network, neurons, strict=True):
        synapses = [FloatSynapses(product_of(c.synapse, np.float64), c.synapse.n_in) for c in layer.connections]
        layers.append(ReadyLayer(layer, state, tuple(synapses), np.float64))
    recorded, number = recorded_layers(network, record), spikes.dtype.type
    run = NetworkRun(network, layers, len(spikes), recorded=recorded, membrane=np.float64, input_number=number)
    return run.advance(spikes)
