"""Selection of the fastest compiled kernel for each connection, by timing the first batch of spikes.

All kernels add up the same integers. What they cost, for spikes of rate r through n x m weights of which a share d is not zero:

- ``gemm``, a dense matrix product: n m, for any r;
- ``row_gather``, the weight rows of the neurons that fire: r n m, cheaper a step than the lists below;
- ``csc``, the synapses of the neurons that fire: r d n m, each with a random access to memory;
- ``csr``, all synapses, neuron by neuron, many rows of spikes at once: d n m, for any r, in contiguous reads.

For convolutions: ``scatter`` adds the weights of each spike to the windows that see it, r times the cost of ``gemm``; ``lookup``
reads the sum of eight places of a window from a table, a fixed fraction of it. The best one depends on the network, its spikes
and the machine, so it is measured.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.connectivity import Number, product_of
from neurodeploy.ir.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation import kernels
from neurodeploy.simulation.kernels import CODES_PER_LOOKUP, PLACES_PER_CODE, Lookup
from neurodeploy.simulation.layer_schedule import ArrayBackend, NumpyArrays, SynapseKernel

Kernel: TypeAlias = "Callable[[NDArray[Any], NDArray[np.int32]], None]"
"""Add weighted spikes (rows, n_in or more) to inputs (rows, n_out)."""

GEMM = "gemm"
"""The kernel that every kind of synapse has."""

# ---------------------------------------------------------------------------------------------- engines


class ReportedKernel(SynapseKernel, Protocol):
    """A `SynapseKernel` that reports the kernel in use: a name, or None before the first spikes."""

    @property
    def kernel(self) -> str | None: ...


class Engine(ArrayBackend, Protocol):
    """An `ArrayBackend` that also prepares synapses; all engines give the same integers."""

    def synapses(self, synapse: QuantizedSynapse, number: Number, kernel: str | None, *, graded: bool) -> ReportedKernel:
        """Prepare the synapses of a connection.

        Parameters
        ----------
        number : type
            Float type in which matrix products are exact.
        kernel : str, optional
            Kernel to use where the synapse has it; by default the fastest.
        graded : bool
            Whether spikes may carry other numbers than 0 and 1.
        """


class CompiledEngine(NumpyArrays):
    """Compiled loops, in this machine's memory."""

    def load_steps(self, spikes: NDArray[Any], start: int, into: NDArray[Any]) -> None:
        kernels.load_steps(spikes, start, into)

    def synapses(
        self, synapse: QuantizedSynapse, number: Number, kernel: str | None, *, graded: bool
    ) -> KernelDispatch | GradedSynapses:
        return GradedSynapses(synapse, number) if graded else KernelDispatch(synapse, number, kernel)


def engine_for(device: str | None) -> Engine:
    """Return compiled loops, or an engine on a torch device by its name.

    Raises
    ------
    RequestError
        Torch knows no such device, or there is none here.
    """
    if device is None:
        return CompiledEngine()
    from neurodeploy.simulation.torch_engine import TorchEngine  # importing torch takes seconds

    return TorchEngine(device)


# ---------------------------------------------------------------------------------------------- dispatch

TINY_PAIRS = 1 << 12
"""Connections with fewer pairs of neurons are not timed: they take their kind's first kernel."""
TRIAL_ROWS = 256
"""Rows of spikes on which kernels are timed, or as many as there are."""
GEMM_MAX_WEIGHTS = 1 << 25
"""Beyond so many weights ``gemm`` is not tried: it would copy them into floats."""
LOOKUP_MAX_BYTES = 1 << 24
"""Tables beyond this size are not tried: they would come from main memory for every row."""
SPARSE_MAX_DENSITY = 0.25
"""A dense matrix is tried as synapse lists where at most this share of its weights is not zero."""


def kernels_of(synapse: QuantizedSynapse) -> dict[str, Callable[[], Kernel]]:
    """Return a builder for each kernel that a synapse has besides ``gemm``; the first is taken where nothing is timed."""
    match synapse:
        case QuantizedDense():
            return {"row_gather": lambda: row_gather(synapse), "csc": lambda: csc(synapse), "csr": lambda: csr(synapse)}
        case QuantizedSparse():
            return {"csc": lambda: csc(synapse), "csr": lambda: csr(synapse)}
        case QuantizedConv():
            return {"scatter": lambda: scatter(synapse), "lookup": lambda: lookup(synapse)}
        case _:
            raise unsupported_kind(synapse)


class KernelDispatch:
    """Synapses of a connection for binary spikes, with the kernel that was fastest on the first batch.

    Parameters
    ----------
    kernel : str, optional
        Kernel to use without timing; a name that the kind of synapse does not have means its first one.

    Attributes
    ----------
    kernel : str or None
        Kernel in use; None before the first spikes.
    seconds : mapping of kernel to float
        Seconds for a row of spikes, of each kernel that was timed.
    """

    def __init__(self, synapse: QuantizedSynapse, number: Number, kernel: str | None = None) -> None:
        self.synapse, self.number = synapse, number
        self.seconds: dict[str, float] = {}
        self._builders: dict[str, Callable[[], Kernel]] = {**kernels_of(synapse), GEMM: lambda: gemm(synapse, number)}
        first = next(iter(self._builders))
        # One name is asked for all connections of a network; those of another kind take their first kernel.
        self.kernel = kernel if kernel in self._builders else first if kernel or synapse.n_pairs < TINY_PAIRS else None
        self._run = self._builders[self.kernel]() if self.kernel else None
        self._timing = threading.Lock()

    def add(self, spikes: NDArray[np.uint8], inputs: NDArray[np.int32]) -> None:
        """Add weighted spikes (rows, n_in or more), 0 or 1, to `inputs` (rows, n_out)."""
        if self._run is None:
            with self._timing:  # the threads that come second use what the first one selected
                # Rows from all over the batch, because rates differ between steps and samples.
                self._run = self._run or self._fastest(spikes[:: -(-len(spikes) // TRIAL_ROWS)].copy())
        self._run(spikes, inputs)

    def _fastest(self, spikes: NDArray[np.uint8]) -> Kernel:
        best: Kernel | None = None
        for name, build in self._builders.items():
            if not self._may_win(name, len(spikes)):
                continue
            kernel = build()
            self.seconds[name] = self._seconds_per_row(kernel, spikes)
            if self.seconds[name] == min(self.seconds.values()):
                self.kernel, best = name, kernel
        assert best is not None
        return best

    def _seconds_per_row(self, kernel: Kernel, spikes: NDArray[np.uint8]) -> float:
        """Best of three runs, after one in which Numba compiles."""
        inputs, seconds = np.zeros((len(spikes), self.synapse.n_out), dtype=np.int32), []
        for _ in range(4):
            start = time.perf_counter()
            kernel(spikes, inputs)
            seconds.append(time.perf_counter() - start)
        # The minimum is the run that the rest of the machine disturbed least.
        return min(seconds[1:]) / len(spikes)

    def _may_win(self, kernel: str, n_rows: int) -> bool:
        """Whether building and timing a kernel can pay."""
        synapse = self.synapse
        if kernel == "csr" and n_rows < kernels.LANES:
            return False
        if kernel == "lookup" and isinstance(synapse, QuantizedConv):
            return LookupLayout(synapse).table_bytes <= LOOKUP_MAX_BYTES
        if kernel in ("csc", "csr") and isinstance(synapse, QuantizedDense):
            return synapse.n_synapses <= SPARSE_MAX_DENSITY * synapse.weight.size
        return kernel != GEMM or synapse.weight.size <= GEMM_MAX_WEIGHTS


class GradedSynapses:
    """Synapses of a connection from graded input, whole numbers: a matrix product, since the other kernels take only 0 and 1."""

    kernel = GEMM

    def __init__(self, synapse: QuantizedSynapse, number: Number) -> None:
        self.add = gemm(synapse, number)


# ---------------------------------------------------------------------------------------------- any synapse, and lists


def gemm(synapse: QuantizedSynapse, number: Number) -> Kernel:
    """Build a matrix product in floats that are exact."""
    product, n_in = product_of(synapse, number), synapse.n_in

    def add(spikes: NDArray[Any], inputs: NDArray[np.int32]) -> None:
        # The sums are whole numbers, so the conversion loses nothing.
        inputs += product(spikes[:, :n_in]).astype(np.int32)

    return add


def row_gather(synapse: QuantizedDense) -> Kernel:
    """Build the sum of the weight rows of the neurons that fire."""
    table = np.zeros((synapse.n_in + 1, synapse.n_out), dtype=np.int16)  # the row of zeros at the end fills up groups of eight
    table[:-1] = synapse.weight.T
    return lambda spikes, inputs: kernels.add_rows(spikes, table, inputs)


def csc(synapse: QuantizedDense | QuantizedSparse) -> Kernel:
    """Build lists of the synapses that leave each neuron (compressed sparse columns)."""
    by_source = synapse_matrix(synapse).tocsc()
    starts, targets, weights = by_source.indptr.astype(np.int64), by_source.indices.astype(np.int32), by_source.data
    return lambda spikes, inputs: kernels.add_csc(spikes, starts, targets, weights, inputs)


def csr(synapse: QuantizedDense | QuantizedSparse) -> Kernel:
    """Build lists of the synapses onto each neuron (compressed sparse rows), run over many rows of spikes at once."""
    by_target = synapse_matrix(synapse)
    counts, group = np.diff(by_target.indptr), kernels.SYNAPSES_PER_GROUP
    starts = np.concatenate([[0], np.cumsum(-(-counts // group) * group)])  # lists padded to whole groups by weights of zero
    # A synapse moves by the padding of all lists before its own.
    places = np.arange(by_target.nnz) + np.repeat(starts[:-1] - by_target.indptr[:-1], counts)
    sources, weights = np.zeros(starts[-1], dtype=np.uint32), np.zeros(starts[-1], dtype=np.int16)
    sources[places], weights[places] = by_target.indices, by_target.data
    size, number, starts = kernels.ROWS_PER_BLOCK * int(kernels.TARGETS_PER_BLOCK), sum_type(synapse), starts.astype(np.uint64)
    # Scratch memory for every call, because threads share the kernel.
    return lambda spikes, inputs: kernels.add_csr(spikes, starts, sources, weights, np.empty(size, dtype=number), inputs)


def synapse_matrix(synapse: QuantizedDense | QuantizedSparse) -> Any:
    """Return the synapses that exist as a SciPy CSR matrix (n_out, n_in), int16."""
    match synapse:
        case QuantizedDense():
            return csr_matrix(synapse.weight.astype(np.int16))
        case QuantizedSparse():
            return synapse.csr()
        case _:
            raise unsupported_kind(synapse)


def sum_type(synapse: QuantizedSynapse) -> type[np.int16] | type[np.int32]:
    """Return the smallest integer type that holds the input of every neuron, and all partial sums of it."""
    return np.int16 if synapse.total(np.abs(synapse.weight.astype(np.int64))).max() < 1 << 15 else np.int32


# ---------------------------------------------------------------------------------------------- convolutions


def scatter(synapse: QuantizedConv) -> Kernel:
    """Build the event-driven convolution: each spike adds weights to the windows that see it."""
    channels, pixels = synapse.output_shape[0], synapse.output_shape[1] * synapse.output_shape[2]
    place = np.ascontiguousarray(np.indices(synapse.input_shape).reshape(3, -1).T.astype(np.int32))
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    stride, dilation = synapse.stride[1], synapse.dilation[1]
    # Kernel columns in the order in which neighbouring windows see a pixel: then one addition serves a run of windows.
    order = sorted(range(width), key=lambda j: (j * dilation % stride, -j))
    by_group = synapse.weight[..., order].reshape(groups, f // groups, c, height, width).transpose(0, 2, 3, 4, 1)
    table = np.ascontiguousarray(by_group.reshape(-1, height, width, f // groups).astype(np.int16))
    rows = window_runs(synapse, 0, range(height), merge=False)
    columns = window_runs(synapse, 1, order, merge=groups == 1)
    number = sum_type(synapse)

    def add(spikes: NDArray[np.uint8], inputs: NDArray[np.int32]) -> None:
        kernels.add_windows(spikes, place, rows, columns, table, np.zeros((pixels, channels), dtype=number), inputs)

    return add


def window_runs(synapse: QuantizedConv, axis: int, order: Sequence[int], *, merge: bool) -> NDArray[np.int32]:
    """List, for each row (axis 0) or column (axis 1) of the image, the runs of windows that see it.

    Parameters
    ----------
    order : sequence of int
        The window's own rows (or columns) in the order of the weight table.
    merge : bool
        Whether neighbouring windows that see the line by neighbouring places of `order` form one run.

    Returns
    -------
    array (lines + 1, 1 + 3 * most runs), int32
        A line: the number of runs, then for each its first window, the place in `order`, and its length. The last
        line begins with the number of windows.
    """
    lines: list[list[list[int]]] = [[] for _ in range(synapse.input_shape[1 + axis])]
    sees, seen = synapse.input_positions(axis), synapse.is_inside_input(axis)
    for k, own in enumerate(order):
        for window in np.flatnonzero(seen[:, own]):
            runs = lines[sees[window, own]]
            if merge and runs and runs[-1][0] + runs[-1][2] == window and runs[-1][1] + runs[-1][2] == k:
                runs[-1][2] += 1
            else:
                runs.append([int(window), k, 1])
    table = np.zeros((len(lines) + 1, 1 + max(3 * len(runs) for runs in lines)), dtype=np.int32)
    for row, runs in zip(table, lines, strict=False):
        row[0], row[1 : 1 + 3 * len(runs)] = len(runs), np.ravel(runs)
    table[-1, 0] = synapse.output_shape[1 + axis]
    return table


def lookup(synapse: QuantizedConv) -> Kernel:
    """Build the convolution by table lookup: eight places of a window at a time."""
    tables = LookupLayout(synapse).tables()
    return lambda spikes, inputs: kernels.add_lookup(spikes, tables, inputs)


class LookupLayout:
    """Layout of a convolution as lookup tables, exact for spikes, 0 or 1.

    A code is the state of eight places of a window, one bit each; a table has the weighted sum of every code. Sums of several
    output channels share a word of 64 bits. A channel's sum starts at the magnitude of its negative weights, so it never falls
    below zero nor exceeds the sum of all magnitudes, and its field has the bits for that: no carry reaches the neighbour.
    """

    WORD_BITS = 64

    def __init__(self, synapse: QuantizedConv) -> None:
        self.synapse = synapse
        # Bound on every partial sum of a channel, in any order.
        magnitudes = np.abs(synapse.weight.astype(np.int64)).sum(axis=(1, 2, 3))
        self.field_bits = max(1, int(magnitudes.max()).bit_length())
        self.channels_per_word = self.WORD_BITS // self.field_bits
        # Groups do not share words, since they read different codes.
        self.words_per_group = -(-(synapse.weight.shape[0] // synapse.groups) // self.channels_per_word)
        # Padded to whole lookups: the kernel reads several codes in one pass.
        places, per_pass = int(np.prod(synapse.weight.shape[1:])), PLACES_PER_CODE * CODES_PER_LOOKUP
        self.codes_per_group = -(-places // per_pass) * CODES_PER_LOOKUP

    @property
    def table_bytes(self) -> int:
        """Memory of the tables."""
        words = self.synapse.groups * self.words_per_group
        return words * self.codes_per_group * (1 << PLACES_PER_CODE) * self.WORD_BITS // 8

    def tables(self) -> Lookup:
        """Compute the tables."""
        synapse, f = self.synapse, self.synapse.weight.shape[0]
        channels_per_group, groups = f // synapse.groups, synapse.groups
        weights = synapse.weight.reshape(f, -1).astype(np.int64)
        channel = np.arange(f)
        word = channel // channels_per_group * self.words_per_group + channel % channels_per_group // self.channels_per_word
        shift = channel % channels_per_group % self.channels_per_word * self.field_bits
        offset = np.maximum(-weights, 0).sum(axis=1)
        packed = np.zeros((groups * self.words_per_group, self.codes_per_group * PLACES_PER_CODE), dtype=np.int64)
        # Negative weights borrow from the fields above. That is harmless: sums are exact modulo 2**64, and with `start` no field
        # of the total is negative.
        np.add.at(packed[:, : weights.shape[1]], word, weights << shift[:, np.newaxis])
        start = np.zeros(len(packed), dtype=np.int64)
        np.add.at(start, word, offset << shift)
        # The bits of every byte: the product has the weighted sum of every code.
        codes = np.arange(1 << PLACES_PER_CODE)[:, np.newaxis] >> np.arange(PLACES_PER_CODE) & 1
        table = packed.reshape(len(packed), self.codes_per_group, PLACES_PER_CODE) @ codes.T
        image_shape, places = self._image_places()
        return Lookup(
            synapse.input_shape, synapse.output_shape, synapse.stride, synapse.padding, image_shape, places,
            table.view(np.uint64), np.arange(len(packed)) // self.words_per_group * self.codes_per_group, start.view(np.uint64),
            word, shift.astype(np.uint64), np.uint64((1 << self.field_bits) - 1), offset.astype(np.int32),
        )  # fmt: skip

    def _image_places(self) -> tuple[tuple[int, int, int, int, int], NDArray[np.int64]]:
        """Shape of the image split by stride (see `Lookup`), and where in it window 0 has its places, code by code."""
        synapse, (_, c, height, width) = self.synapse, self.synapse.weight.shape
        (s, t), (_, rows, columns) = synapse.stride, synapse.output_shape
        i, j = (np.arange(n) * dilation for n, dilation in zip((height, width), synapse.dilation, strict=True))
        shape = (synapse.input_shape[0], s, t, rows + int(i[-1]) // s, columns + int(j[-1]) // t)
        channel, i, j = np.ix_(np.arange(synapse.input_shape[0]), i, j)
        # Pixel (i, j) of window 0 is in phase (i % s, j % t), there at (i // s, j // t).
        at = np.ravel_multi_index(np.broadcast_arrays(channel, i % s, j % t, i // s, j // t), shape)
        places = np.full((synapse.groups, self.codes_per_group * PLACES_PER_CODE), -1, dtype=np.int64)
        places[:, : c * height * width] = at.reshape(synapse.groups, -1)
        return shape, places.reshape(-1, PLACES_PER_CODE)
