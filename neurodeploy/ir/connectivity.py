"""Connectivity patterns: dense, sparse (compressed rows) and convolutional, and their products with spikes.

`neurodeploy.ir.network` fills them with floats and `neurodeploy.ir.quantized` with a chip's integers; this module has what does
not depend on the type of a weight. A weight of zero is a synapse that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, unsupported_kind
from neurodeploy.ir.arrays import ByValue, freeze

# scipy.sparse is imported by the methods that make its matrices: a chip or a file is looked at without it
if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Pair: TypeAlias = "tuple[int, int]"
"""(rows, columns)."""


# eq=False: the generated __eq__ would compare arrays with ==, which gives an array; `ByValue` compares them by content.
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DenseWiring(ByValue):
    """All-to-all connectivity: `weight` has shape (n_out, n_in)."""

    weight: NDArray[Any]

    def _check(self) -> None:
        if self.weight.ndim != 2:
            raise NetworkError(f"{type(self).__name__}.weight", f"has shape {self.weight.shape}, not (n_out, n_in)")

    @property
    def n_out(self) -> int:
        return int(self.weight.shape[0])

    @property
    def n_in(self) -> int:
        return int(self.weight.shape[1])

    @property
    def n_synapses(self) -> int:
        return int(np.count_nonzero(self.weight))

    @property
    def n_pairs(self) -> int:
        return int(self.weight.size)

    def fan_in(self) -> NDArray[np.int64]:
        """Synapses onto each neuron: (n_out,)."""
        counts: NDArray[np.int64] = np.count_nonzero(self.weight, axis=1)
        return counts

    def fan_out(self) -> NDArray[np.int64]:
        """Synapses from each source neuron: (n_in,)."""
        counts: NDArray[np.int64] = np.count_nonzero(self.weight, axis=0)
        return counts

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum of `values`, one for each weight, over the synapses onto each neuron: (n_out,)."""
        sums: NDArray[Any] = values.sum(axis=1)
        return sums

    def per_weight(self, per_neuron: NDArray[Any]) -> NDArray[Any]:
        """Values () or (n_out,) of the target neurons, reshaped to broadcast against `weight`."""
        return np.reshape(per_neuron, (-1, 1))

    def matrix(self) -> NDArray[Any]:
        """The weights as (n_out, n_in)."""
        return self.weight

    def csr(self) -> csr_matrix:
        """The synapses as compressed sparse rows (n_out, n_in)."""
        from scipy.sparse import csr_matrix

        return csr_matrix(self.weight)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseWiring(ByValue):
    """Sparse connectivity as compressed sparse rows, one row a target neuron.

    Attributes
    ----------
    n_in : int
        Source neurons.
    starts : array (n_out + 1,), int64
        Neuron i receives synapses starts[i]..starts[i + 1] - 1.
    sources : array (n_synapses,), int32
        Source neuron of each synapse, ascending and distinct within a neuron.
    weight : array (n_synapses,)
    """

    n_in: int
    starts: NDArray[np.int64]
    sources: NDArray[np.int32]
    weight: NDArray[Any]

    def _check(self) -> None:
        where = type(self).__name__
        # 64 bits for positions in the lists, 32 for neurons: sources are as many as weights, so this saves half their memory.
        starts, sources = freeze(self, "starts", np.int64), freeze(self, "sources", np.int32)
        if starts.ndim != 1 or starts.size < 2 or starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] != sources.size:
            raise NetworkError(f"{where}.starts", f"does not divide {sources.size} synapses among neurons")
        if sources.shape != self.weight.shape or self.weight.ndim != 1:
            raise NetworkError(f"{where}.weight", f"has shape {self.weight.shape}, not that of its sources, {sources.shape}")
        if sources.size and (sources.min() < 0 or sources.max() >= self.n_in):
            raise NetworkError(f"{where}.sources", f"holds neurons outside 0..{self.n_in - 1}")
        rises = np.diff(sources) > 0
        # From one neuron's last source to the next neuron's first, the sources may fall.
        # Boundaries at 0 or at the end, of neurons without synapses, have no pair of neighbours in `rises`.
        rises[starts[1:-1][(starts[1:-1] > 0) & (starts[1:-1] < sources.size)] - 1] = True
        if not rises.all():
            raise NetworkError(f"{where}.sources", "is not ascending and distinct within each neuron")

    @property
    def n_out(self) -> int:
        return self.starts.size - 1

    @property
    def n_synapses(self) -> int:
        return int(np.count_nonzero(self.weight))

    @property
    def n_pairs(self) -> int:
        return int(self.weight.size)

    def fan_in(self) -> NDArray[np.int64]:
        """Synapses onto each neuron: (n_out,)."""
        listed: NDArray[np.int64] = np.diff(self.starts)
        return listed if self.weight.all() else self.total((self.weight != 0).astype(np.int64))

    def fan_out(self) -> NDArray[np.int64]:
        """Synapses from each source neuron: (n_in,)."""
        # An entry of weight zero, as rounding leaves it, is listed and is still no synapse.
        return np.bincount(self.sources[self.weight != 0], minlength=self.n_in).astype(np.int64)

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum of `values`, one for each weight, over the synapses onto each neuron: (n_out,)."""
        neurons = np.repeat(np.arange(self.n_out), np.diff(self.starts))
        sums: NDArray[Any] = np.bincount(neurons, weights=values, minlength=self.n_out)
        if values.dtype.kind != "f":  # bincount adds in float64, exact for integer sums below 2**53
            sums = sums.astype(np.int64)
        return sums

    def per_weight(self, per_neuron: NDArray[Any]) -> NDArray[Any]:
        """Values () or (n_out,) of the target neurons, reshaped to broadcast against `weight`."""
        return np.repeat(per_neuron, np.diff(self.starts)) if per_neuron.shape else per_neuron

    def matrix(self) -> NDArray[Any]:
        """The weights as a dense array (n_out, n_in)."""
        matrix: NDArray[Any] = self.csr().toarray()
        return matrix

    def csr(self) -> csr_matrix:
        """The synapses as compressed sparse rows (n_out, n_in), zeros that are listed among them."""
        from scipy.sparse import csr_matrix

        return csr_matrix((self.weight, self.sources, self.starts), shape=(self.n_out, self.n_in))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvWiring(ByValue):
    """Convolutional connectivity: cross-correlation with shared weights, as in torch's Conv2d.

    Output neuron (f, y, x) has a synapse of weight[f, c', i, j] from input neuron (c, y * stride - padding + i * dilation, ...),
    where c' is c within its group. Positions in the padding have no synapse.

    Attributes
    ----------
    weight : array (out_channels, in_channels / groups, kernel_rows, kernel_columns)
    input_shape : (channels, rows, columns)
    stride, padding, dilation : (rows, columns)
    groups : int
        Output channels of a group receive spikes only from the input channels of that group.
    """

    weight: NDArray[Any]
    input_shape: tuple[int, int, int]
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def _check(self) -> None:
        where = type(self).__name__
        if self.weight.ndim != 4 or not self.weight.size:
            raise NetworkError(f"{where}.weight", f"has shape {self.weight.shape}, not (out, in / groups, rows, columns)")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise NetworkError(f"{where}.input_shape", f"{self.input_shape} is not (channels, rows, columns)")
        if min(*self.stride, *self.dilation, self.groups) < 1 or min(self.padding) < 0:
            raise NetworkError(
                where,
                f"stride {self.stride}, dilation {self.dilation}, groups {self.groups} or padding {self.padding} is too small",
            )
        f, c = self.weight.shape[:2]
        if f % self.groups or c * self.groups != self.input_shape[0]:
            raise NetworkError(
                where, f"weights {self.weight.shape} in {self.groups} groups do not fit {self.input_shape[0]} input channels"
            )
        if min(self.output_shape) < 1:
            raise NetworkError(where, f"kernel is larger than its padded input {self.input_shape}")

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns)."""
        # The formula in the documentation of torch.nn.Conv2d.
        rows, columns = (
            (n + 2 * self.padding[axis] - self.dilation[axis] * (self.weight.shape[2 + axis] - 1) - 1) // self.stride[axis] + 1
            for axis, n in enumerate(self.input_shape[1:])
        )
        return int(self.weight.shape[0]), rows, columns

    @property
    def n_out(self) -> int:
        channels, rows, columns = self.output_shape
        return channels * rows * columns

    @property
    def n_in(self) -> int:
        channels, rows, columns = self.input_shape
        return channels * rows * columns

    @property
    def n_synapses(self) -> int:
        on_image = np.outer(*(self.is_inside_input(axis).sum(axis=0) for axis in (0, 1)))  # positions of each tap off the padding
        return int((np.count_nonzero(self.weight, axis=(0, 1)) * on_image).sum())

    @property
    def n_pairs(self) -> int:
        # Rows and columns lie on the input independently of each other, so their counts multiply.
        return int(self.is_inside_input(0).sum()) * int(self.is_inside_input(1).sum()) * int(np.prod(self.weight.shape[:2]))

    def fan_in(self, box: tuple[slice, ...] = (slice(None),) * 3, *, counts_zeros: bool = False) -> NDArray[np.int64]:
        """Synapses onto each neuron of a box of the output, without those from padding: (n_neurons,).

        Parameters
        ----------
        counts_zeros : bool
            Count as if no weight were zero.
        """
        channels, *sides = box
        taps = np.ones_like(self.weight[channels]) if counts_zeros else self.weight[channels]
        rows, columns = (self.is_inside_input(axis)[side].astype(np.float64) for axis, side in enumerate(sides))
        # The padding separates into rows and columns, so no array of all windows is built. In doubles, which NumPy multiplies
        # fast, and which hold these counts exactly.
        counts: NDArray[np.float64] = rows @ (np.count_nonzero(taps, axis=1).astype(np.float64) @ columns.T)
        return counts.astype(np.int64).reshape(-1)

    def fan_out(self) -> NDArray[np.int64]:
        """Synapses from each source neuron: (n_in,)."""
        (f, c, height, width), (_, rows, columns) = self.weight.shape, self.input_shape
        # (groups, input channels of a group, kernel rows, kernel columns): an input channel meets only outputs of its group.
        by_group = np.count_nonzero(self.weight.reshape(self.groups, f // self.groups, c, height, width), axis=1)
        # Positions in the padding equal no row number, so they drop out.
        # How often each kernel row (column) lies on each input row (column).
        hits = [
            (self.input_positions(axis)[..., np.newaxis] == np.arange(size)).sum(axis=0)
            for axis, size in ((0, rows), (1, columns))
        ]
        # Channels are numbered group by group: flattening (groups, channels of a group) gives their order.
        counts: NDArray[np.int64] = np.einsum("gcij,iy,jx->gcyx", by_group, *hits, optimize=True).reshape(-1)
        return counts

    def total(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum of `values`, one for each weight, over the synapses onto each neuron, without those from padding: (n_out,)."""
        rows, columns = (self.is_inside_input(axis).astype(np.int64) for axis in (0, 1))
        # The padding separates into rows and columns, so no array of all windows is built.
        sums: NDArray[Any] = np.einsum("fij,yi,xj->fyx", values.sum(axis=1), rows, columns, optimize=True)
        return sums.reshape(-1)

    def per_weight(self, per_neuron: NDArray[Any]) -> NDArray[Any]:
        """Values () or (n_out,) of the target neurons, reshaped to broadcast against `weight`.

        Raises
        ------
        NetworkError
            The values differ within a channel, whose neurons share their weights.
        """
        if not self.is_per_channel(per_neuron):
            raise NetworkError(
                type(self).__name__, "needs one scale a channel, because the neurons of a channel share their weights"
            )
        return np.broadcast_to(per_neuron, self.n_out).reshape(self.output_shape[0], -1)[:, 0].reshape(-1, 1, 1, 1)

    def is_per_channel(self, per_neuron: NDArray[Any]) -> bool:
        """Whether values () or (n_out,) of the target neurons are equal within each channel."""
        channels = np.broadcast_to(per_neuron, self.n_out).reshape(self.output_shape[0], -1)
        return bool((channels == channels[:, :1]).all())

    def is_inside_input(self, axis: int) -> NDArray[np.bool_]:
        """Whether a kernel position lies on the input, not in the padding, along rows (0) or columns (1): (outputs, kernel)."""
        positions = self.input_positions(axis)
        inside: NDArray[np.bool_] = (positions >= 0) & (positions < self.input_shape[1 + axis])
        return inside

    def input_positions(self, axis: int) -> NDArray[np.int64]:
        """Input row (axis 0) or column (axis 1) under each kernel position, for each output row or column: (outputs, kernel)."""
        outputs, kernel = np.arange(self.output_shape[1 + axis]), np.arange(self.weight.shape[2 + axis])
        return outputs[:, None] * self.stride[axis] - self.padding[axis] + kernel * self.dilation[axis]

    def matrix(self) -> NDArray[Any]:
        """The synapses as a dense array (n_out, n_in); it takes n_out * n_in numbers of memory."""
        matrix: NDArray[Any] = self.csr().toarray()
        return matrix

    def csr(self) -> csr_matrix:
        """The synapses one by one as compressed sparse rows (n_out, n_in)."""
        from scipy.sparse import csr_matrix

        (f, rows, columns), (_, height, width) = self.output_shape, self.input_shape
        per_group, c = f // self.groups, self.weight.shape[1]
        y, i = np.nonzero(self.is_inside_input(0))
        x, j = np.nonzero(self.is_inside_input(1))
        out, within = (a.reshape(-1) for a in np.indices((f, c)))
        channel = out // per_group * c + within  # input channel: that of the filter's group
        to = (out[:, None, None] * rows + y[:, None]) * columns + x  # flat output index; `pixels` is the flat input index
        row, column = self.input_positions(0)[y, i], self.input_positions(1)[x, j]
        pixels = (channel[:, None, None] * height + row[:, None]) * width + column
        weight = self.weight[out[:, None, None], within[:, None, None], i[:, None], j]
        return csr_matrix((weight.reshape(-1), (to.reshape(-1), pixels.reshape(-1))), shape=(self.n_out, self.n_in))


Wiring: TypeAlias = "DenseWiring | SparseWiring | ConvWiring"


def is_dense(wiring: Wiring) -> bool:
    """Return whether a connection is a plain matrix, with a weight for every pair of neurons."""
    match wiring:
        case DenseWiring():
            return True
        case SparseWiring() | ConvWiring():
            return False
        case _:
            raise unsupported_kind(wiring)


def is_convolution(wiring: Wiring) -> bool:
    """Return whether neurons of a channel share their weights, and channels, rows and columns have a meaning."""
    match wiring:
        case ConvWiring():
            return True
        case DenseWiring() | SparseWiring():
            return False
        case _:
            raise unsupported_kind(wiring)


def ungrouped(weight: NDArray[Any], groups: int) -> NDArray[Any]:
    """Return the weights of a grouped convolution as those of one group, with zeros between the groups."""
    f, c = weight.shape[:2]
    full = np.zeros((f, c * groups, *weight.shape[2:]))
    for group in range(groups):
        outs = slice(group * f // groups, (group + 1) * f // groups)
        full[outs, group * c : (group + 1) * c] = weight[outs]
    return full


def convolve_kernels(kernel: NDArray[Any], taps: NDArray[Any], step: Pair, tap_step: Pair = (1, 1)) -> NDArray[Any]:
    """Convolve weights (f, c, rows, columns) with a window of `taps` (rows, columns).

    Neighbours in the kernel are `step` pixels apart, neighbours in the taps `tap_step` pixels.
    """
    rows, columns = kernel.shape[2:]
    shape = [
        (side - 1) * apart + (tap - 1) * tap_apart + 1
        for side, apart, tap, tap_apart in zip((rows, columns), step, taps.shape, tap_step, strict=True)
    ]
    result = np.zeros((*kernel.shape[:2], *shape))
    for i, j in np.ndindex(*taps.shape):
        y, x = i * tap_step[0], j * tap_step[1]
        window = result[:, :, y : y + (rows - 1) * step[0] + 1 : step[0], x : x + (columns - 1) * step[1] + 1 : step[1]]
        window += kernel * taps[i, j]  # a view of the result
    return result


def pair(value: Any) -> Pair:
    """Return one number, or two, as (rows, columns)."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return int(sides[0]), int(sides[-1])  # one number counts for both sides


def reaches_over(image: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether windows that cover all of an image (rows, columns) reach over its edge (``ceil_mode=True``)."""
    sizes = zip(image, kernel, stride, padding, dilation, strict=True)
    return any((n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in sizes)


def equal_windows(image: Pair, output_size: Any) -> Pair | None:
    """Return the window, equal to its stride, by which adaptive pooling divides an image; None where it needs several sizes."""
    sides = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    rows, columns = (n if out is None else int(out) for n, out in zip(image, sides, strict=True))
    return None if image[0] % rows or image[1] % columns else (image[0] // rows, image[1] // columns)


# ---------------------------------------------------------------------------------------------- products

Product: TypeAlias = "Callable[[NDArray[Any]], NDArray[Any]]"
"""From spikes (n, n_in) to the weighted sums (n, n_out)."""

Number: TypeAlias = "type[np.float32] | type[np.float64]"

PATCH_VALUES = 1 << 20
"""Values of image patches that a convolution unfolds at a time: eight megabytes in double precision."""


def product_of(synapse: Wiring, number: Number) -> Product:
    """Return a function that multiplies spikes by the weights of a synapse, in floats of type `number`.

    All kinds are matrix products, whose order of additions is free: sums of whole numbers are exact as long as every partial sum
    fits the mantissa of `number`. Convolutions use no Winograd or Fourier transform, which would round.
    """
    match synapse:
        case DenseWiring():
            transposed: NDArray[Any] = np.ascontiguousarray(synapse.weight.T, dtype=number)
            return lambda spikes: np.matmul(spikes.astype(number), transposed)
        case SparseWiring():
            matrix = synapse.csr().astype(number)
            # SciPy multiplies from the left only, so the rows of spikes go in, and the sums come out, transposed.
            return lambda spikes: np.ascontiguousarray(matrix.dot(spikes.T.astype(number, order="C")).T)
        case ConvWiring():
            return convolution_of(synapse, number)
        case _:
            raise unsupported_kind(synapse)


def convolution_of(synapse: ConvWiring, number: Number) -> Product:
    """Unfold the image into patches, one a window, and multiply them by the weights ("im2col")."""
    (f, c, height, width), groups = synapse.weight.shape, synapse.groups
    kernels = synapse.weight.reshape(groups, f // groups, c * height * width).astype(number)
    _, rows, columns = synapse.output_shape
    images_per_block = max(1, PATCH_VALUES // (groups * c * height * width * rows * columns))
    (p, q), (y, x), (i, j) = synapse.padding, synapse.stride, synapse.dilation
    # Rows and columns that a dilated window covers.
    window = (i * (height - 1) + 1, j * (width - 1) + 1)

    def block(spikes: NDArray[Any]) -> NDArray[Any]:
        images = np.pad(spikes.reshape(-1, *synapse.input_shape), ((0, 0), (0, 0), (p, p), (q, q)))
        # Views: nothing is copied before `astype`. Strides then leave out windows, dilations pixels of a window.
        row_windows = sliding_window_view(images, window[0], 2)
        windows = sliding_window_view(row_windows, window[1], 3)[:, :, ::y, ::x, ::i, ::j].transpose(0, 1, 4, 5, 2, 3)
        patches = windows.astype(number, order="C").reshape(-1, groups, c * height * width, rows * columns)
        sums: NDArray[Any] = np.matmul(kernels, patches)
        return sums.reshape(len(spikes), synapse.n_out)

    def product(spikes: NDArray[Any]) -> NDArray[Any]:
        sums = np.empty((len(spikes), synapse.n_out), dtype=number)
        for start in range(0, len(spikes), images_per_block):
            sums[start : start + images_per_block] = block(spikes[start : start + images_per_block])
        return sums

    return product
