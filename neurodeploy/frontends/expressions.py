"""Linear expressions: a tensor of the model as a sum of spikes through synapses, plus a constant.

A frontend evaluates its model on linear expressions instead of numbers. Linear modules map expressions to expressions, exactly,
or raise `ExtractError`. The expression that arrives at a population becomes its connections, one for each term
(`neurodeploy.frontends.assembly`).

Two windows that move over an image one after the other fold into one convolution. Average pooling is a convolution with equal
weights, so it folds into the convolution or the matrix in front of it or behind it. Where folding is not exact, at the border of
an image, it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair, convolve_kernels, ungrouped
from neurodeploy.ir.network import Conv, Dense
from neurodeploy.simulation.reference import product_of

Shape: TypeAlias = "tuple[int, ...]"
Indices: TypeAlias = "NDArray[np.int64]"
ModuleId: TypeAlias = "tuple[str, str]"
"""Path of a module, after which layers are named, and the path with the module's type, for error texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Spikes of one population: scaled, sent through at most one synapse, and rearranged.

    Attributes
    ----------
    source : str
        Name of the population, or the input.
    n_source : int
        Neurons of the source.
    step : int
        Step at which the spikes were fired, on the clock of the frontend.
    indices : array of the expression's shape
        Which output of the synapse (of the source, without a synapse) each element is, counted from 1; 0 for none.
    gain : array () or (n_source,)
        Factor on the spikes in front of the synapse.
    synapse : Conv, Dense or None
        None before the first linear module.
    factor : array () or (n_out,)
        Factor behind a synapse with weights, which `weighted` multiplies in.
    is_pool : bool
        Whether the synapse is average pooling without weights.
    name, where : str
        Path and label of the module that holds the weights, or of the pooling if there are none.
    """

    source: str
    n_source: int
    step: int
    indices: Indices
    gain: Floats = field(default_factory=lambda: np.ones(()))
    synapse: Conv | Dense | None = None
    factor: Floats = field(default_factory=lambda: np.ones(()))
    is_pool: bool = False
    name: str = ""
    where: str = ""

    @property
    def has_weights(self) -> bool:
        return self.synapse is not None and not self.is_pool

    @property
    def n_out(self) -> int:
        """Number of values that `indices` selects from."""
        return self.n_source if self.synapse is None else self.synapse.n_out

    @property
    def is_in_order(self) -> bool:
        """Whether the elements are all outputs of the synapse, in order."""
        return self.indices.size == self.n_out and bool((self.indices.reshape(-1) == np.arange(1, self.n_out + 1)).all())

    def channels(self, where: str) -> Indices:
        """Return (channels,): which channel of the source each channel of the expression is, -1 for none.

        Raises
        ------
        ExtractError
            A channel of the expression is not one whole channel of the source, pixel by pixel.
        """
        pixels = self.indices[0].size
        rows = self.indices.reshape(len(self.indices), pixels)
        first = np.where(rows[:, 0] > 0, rows[:, 0] - 1, -pixels)  # -pixels // pixels is -1: no channel
        expected = np.where(first[:, None] >= 0, first[:, None] + np.arange(1, pixels + 1), 0)
        if self.n_out % pixels or (first % pixels).any() or (rows != expected).any():
            raise ExtractError(
                where,
                f"needs images whose channels are whole channels of {self.source!r}, with the pixels in their order",
                remedy="Reshape and slice along channels only; pad in the convolution itself, with zeros, equally on both sides.",
            )
        channels: Indices = first // pixels
        return channels

    def require_no_weights(self, where: str) -> None:
        """Refuse a second set of weights without neurons in between."""
        if self.has_weights:
            remedy = "Merge their weights into one module, or put neurons between them."
            raise ExtractError(where, f"follows {self.where} with no neurons between them", remedy=remedy)

    def scaled(self, where: str, factors: Floats) -> Term:
        """Return the term times `factors`, one for each element.

        Raises
        ------
        ExtractError
            An output of the synapse appears twice, with different factors.
        """
        used = self.indices > 0
        per_output = np.ones(self.n_out)
        per_output[self.indices[used] - 1] = factors[used]  # the last factor of an output wins; the test finds others
        if (per_output[self.indices[used] - 1] != factors[used]).any():
            remedy = "Put the factors into the weights behind it."
            raise ExtractError(where, f"scales copies of the spikes of {self.source!r} by different factors", remedy=remedy)
        if (per_output == per_output.flat[0]).all():  # one factor for all stays a scalar, which any synapse takes
            per_output = per_output.flat[0].reshape(())
        if self.synapse is None:
            return replace(self, gain=self.gain * per_output)
        if not self.is_pool:
            return replace(self, factor=self.factor * per_output)
        # An average over a channel's pixels scales as the pixels do, so the factor moves in front of the pooling.
        assert isinstance(self.synapse, Conv)
        channels = self.synapse.per_weight(per_output).reshape(-1)
        return replace(
            self, gain=self.gain * (np.repeat(channels, self.n_source // channels.size) if per_output.shape else per_output)
        )

    def weighted(self) -> Term:
        """Return the term with its factor multiplied into the weights."""
        if self.synapse is None or (not self.factor.shape and self.factor == 1):
            return self
        weight = self.synapse.weight * self.synapse.per_weight(self.factor)
        return replace(self, synapse=replace(self.synapse, weight=weight), factor=np.ones(()))

    def plus(self, other: Term) -> Term:
        """Return the sum with a term that differs by a factor alone."""
        if self.has_weights:
            return replace(self, factor=self.factor + other.factor)
        return replace(self, gain=self.gain + other.gain)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearExpression:
    """A tensor without its batch: the sum of its terms and of a constant.

    Attributes
    ----------
    terms : tuple of Term
    bias : array of the expression's shape
    """

    terms: tuple[Term, ...]
    bias: Floats

    @property
    def shape(self) -> Shape:
        return self.bias.shape

    @property
    def is_spikes(self) -> bool:
        """Whether each element is one neuron's spikes, unscaled."""
        unscaled = all(term.synapse is None and bool((term.gain == 1).all()) for term in self.terms)
        n_terms = np.sum([term.indices > 0 for term in self.terms], axis=0)
        return unscaled and not self.bias.any() and bool((n_terms == 1).all())

    def image_shape(self, where: str) -> tuple[int, int, int]:
        """Return (channels, rows, columns); raise `ExtractError` for another number of dimensions."""
        if len(self.shape) != 3:
            raise ExtractError(where, f"needs images (channels, rows, columns), but its input has shape {self.shape}")
        return self.shape[0], self.shape[1], self.shape[2]


def spikes(source: str, shape: Shape, step: int = 0) -> LinearExpression:
    """Return the spikes that a population fires at a step."""
    n = int(np.prod(shape))
    term = Term(source=source, n_source=n, step=step, indices=np.arange(1, n + 1).reshape(shape))  # from 1: 0 is "none"
    return LinearExpression(terms=(term,), bias=np.zeros(shape))


def constant(values: Floats) -> LinearExpression:
    """Return an expression that does not depend on spikes."""
    return LinearExpression(terms=(), bias=values)


def add(one: LinearExpression, other: LinearExpression) -> LinearExpression:
    """Return the sum of two expressions of one shape; terms that are equal but for a factor become one."""
    assert one.shape == other.shape
    terms: dict[tuple[Any, ...], Term] = {}
    for term in (*one.terms, *other.terms):
        # by identity: arrays of other calls are other synapses, as training sees them
        key = (id(term.synapse), id(term.indices), term.source, term.step)
        terms[key] = terms[key].plus(term) if key in terms else term
    return LinearExpression(terms=tuple(terms.values()), bias=one.bias + other.bias)


def rearrange(x: LinearExpression, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> LinearExpression:
    """Return the expression with its elements reordered, repeated, left out or padded with zeros.

    Parameters
    ----------
    move : function
        From an array of the expression's shape to one of the new shape; must not add elements up.
    """
    # Floats, so that one `move` serves indices and constants; exact below 2**53. Padding with zeros means "no neuron": indices
    # count from 1.
    indices = [move(term.indices.astype(np.float64)).astype(np.int64) for term in x.terms]
    kept = [replace(term, indices=moved) for term, moved in zip(x.terms, indices, strict=True) if moved.any()]
    return LinearExpression(terms=tuple(kept), bias=move(x.bias))


def scale(module: ModuleId, x: LinearExpression, factor: Floats) -> LinearExpression:
    """Return the expression times a factor, one for all elements or one for each."""
    factors = np.broadcast_to(factor, x.shape)
    return LinearExpression(terms=tuple(term.scaled(module[1], factors) for term in x.terms), bias=x.bias * factors)


# ------------------------------------------------------------------------------------- matrices, convolutions, pooling


def as_floats(where: str, name: str, value: Any) -> Floats:
    """Return a parameter as float64; a tensor of one element becomes a scalar ().

    Raises
    ------
    ExtractError
        Infinities or NaN.
    """
    # a tensor may be on a GPU or have a gradient; files have arrays, and reading them needs no torch
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ExtractError(where, f"its {name} is not finite")
    return array.reshape(()) if array.size == 1 and array.ndim == 1 else array  # one value for all neurons


def linear(module: ModuleId, x: LinearExpression, matrix: Floats, bias: Floats | None) -> LinearExpression:
    """Apply a matrix (n_out, n_in) and a bias (n_out,) to an expression (n_in,)."""
    name, where = module
    if len(x.shape) != 1:
        raise ExtractError(
            where, f"acts on the last dimension of an input of shape {x.shape} only", remedy="Put a Flatten before it."
        )
    terms = []
    for term in x.terms:
        term.require_no_weights(where)
        columns = matrix
        if not term.is_in_order:
            columns, used = np.zeros((len(matrix), term.n_out)), term.indices > 0
            np.add.at(columns.T, term.indices[used] - 1, matrix.T[used])  # an output that appears twice gets both weights
        synapse = _matrix_synapse(where, term, columns)
        indices = np.arange(1, len(matrix) + 1)
        terms.append(replace(term, indices=indices, synapse=synapse, gain=np.ones(()), is_pool=False, name=name, where=where))
    constants = matrix @ x.bias if x.bias.any() else np.zeros(len(matrix))
    return LinearExpression(terms=tuple(terms), bias=constants if bias is None else constants + bias)


def _matrix_synapse(where: str, term: Term, matrix: Floats) -> Dense | Conv:
    """Return a matrix on the outputs of a term as one synapse from the term's source."""
    pool = term.synapse
    if isinstance(pool, Conv) and pool.output_shape[1:] == (1, 1):
        # A matrix behind an average over the whole image is a convolution of that size. Its weights are shared by the pixels.
        pixel_weights = Conv(weight=matrix[:, :, None, None], input_shape=pool.output_shape)
        return scale_inputs(where, pool_then_conv(where, pool, pixel_weights), term.gain)
    columns = pool_then_matrix(pool, matrix) if isinstance(pool, Conv) else matrix
    return Dense(weight=columns * term.gain if (term.gain != 1).any() else columns)


def convolution(
    module: ModuleId,
    x: LinearExpression,
    weight: Floats,
    bias: Floats | None,
    *,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> LinearExpression:
    """Apply weights (out, in / groups, rows, columns) and a bias (out,) to an expression (channels, rows, columns)."""
    name, where = module
    image = x.image_shape(where)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    whole = Conv(weight=weight, input_shape=image, groups=groups, **geometry)
    terms = []
    for term in x.terms:
        term.require_no_weights(where)
        channels = term.channels(where)
        source = (term.n_out // (image[1] * image[2]), *image[1:])
        seen, seen_groups = weight, groups
        if not np.array_equal(channels, np.arange(source[0])):
            full, seen_groups = ungrouped(weight, groups), 1
            seen = np.zeros((len(full), source[0], *full.shape[2:]))
            # A channel that appears twice gets both weights.
            np.add.at(seen.swapaxes(0, 1), channels[channels >= 0], full.swapaxes(0, 1)[channels >= 0])
        conv = Conv(weight=seen, input_shape=source, groups=seen_groups, **geometry)
        if isinstance(term.synapse, Conv):
            conv = pool_then_conv(where, term.synapse, conv)
        conv = scale_inputs(where, conv, term.gain)
        indices = np.arange(1, conv.n_out + 1).reshape(conv.output_shape)
        terms.append(replace(term, indices=indices, synapse=conv, gain=np.ones(()), is_pool=False, name=name, where=where))
    constants = _convolve_constants(whole, x.bias)
    return LinearExpression(terms=tuple(terms), bias=constants if bias is None else constants + bias.reshape(-1, 1, 1))


def average_pool(
    module: ModuleId,
    x: LinearExpression,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair = (0, 0),
    share: float,
    is_ceil: bool = False,
    counts_padding: bool = True,
) -> LinearExpression:
    """Add up `share` of each pixel of a window that moves over an expression (channels, rows, columns)."""
    name, where = module
    image = x.image_shape(where)
    # Behind a convolution the folded window would still see pixels where the pooling pads zeros.
    if any(padding) and (not counts_padding or any(term.has_weights for term in x.terms)):
        raise ExtractError(
            where,
            "averages over fewer pixels at the border than elsewhere",
            source="a convolution has the same weights everywhere",
            remedy="Pool without padding, or use count_include_pad=True directly behind neurons.",
        )
    check_ceil_mode(where, is_ceil, average_window(image, kernel, stride, padding, share))
    terms = []
    for term in (term.weighted() for term in x.terms):
        if isinstance(term.synapse, Dense):
            raise ExtractError(where, f"averages what {term.where} gives, which is no image", remedy="Use a convolution there.")
        channels = term.channels(where)
        pool = average_window((term.n_out // (image[1] * image[2]), *image[1:]), kernel, stride, padding, share)
        pooled = pool if term.synapse is None else conv_then_pool(where, term.synapse, pool)
        pixels = np.arange(1, pooled.output_shape[1] * pooled.output_shape[2] + 1).reshape(pooled.output_shape[1:])
        indices = np.where(channels[:, None, None] >= 0, channels[:, None, None] * pixels.size + pixels, 0)
        # Layers are named after weights, and only without any after the pooling.
        named = term if term.synapse is not None else replace(term, name=name, where=where)
        terms.append(replace(named, indices=indices, synapse=pooled, is_pool=not term.has_weights))
    # Weights of 1: sums, of which `share` counts.
    sums = _convolve_constants(average_window(image, kernel, stride, padding, 1.0), x.bias)
    return LinearExpression(terms=tuple(terms), bias=sums * share)


def spike_count(
    module: ModuleId, x: LinearExpression, *, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, is_ceil: bool = False
) -> LinearExpression:
    """Return the number of spikes in each window of a max pooling, whose maximum is 1 where that is above 0."""
    where = module[1]
    image = x.image_shape(where)
    if not x.is_spikes:
        source = next((f"the output of {term.where}" for term in x.terms if term.where), "a sum")
        raise ExtractError(
            where,
            f"takes the maximum of {source}, which is not spikes",
            source="only the maximum of spikes, 0 or 1, is a neuron",
            remedy="Move the pooling behind the neurons, or use AvgPool2d.",
        )
    ones = np.ones((image[0], 1, *kernel))  # depthwise: each channel counts its own spikes
    window = Conv(weight=ones, input_shape=image, stride=stride, padding=padding, dilation=dilation, groups=image[0])
    check_ceil_mode(where, is_ceil, window)
    return convolution(module, x, ones, None, stride=stride, padding=padding, dilation=dilation, groups=image[0])


def _convolve_constants(window: Conv, image: Floats) -> Floats:
    """Apply a window to constants (channels, rows, columns); they are zeros unless a bias or a sum came before."""
    if not image.any():
        return np.zeros(window.output_shape)
    return np.asarray(product_of(window, np.float64)(image.reshape(1, -1)).reshape(window.output_shape))


# ------------------------------------------------------------------------------------------------ windows on images


def pair(value: Any) -> Pair:
    """Return one number, or two, as (rows, columns)."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return int(sides[0]), int(sides[-1])  # one number counts for both sides


def same_padding(where: str, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Return the zeros on each side that keep the size (``padding="same"``); refuse windows that need more on one side."""
    around = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in around):
        remedy = "Use an odd window, or pad by a number."
        raise ExtractError(where, "pads one side more than the other ('same' with an even window)", remedy=remedy)
    return tuple(total // 2 for total in around)


def average_window(image: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair, share: float) -> Conv:
    """Return average pooling as a depthwise convolution with the weight `share` everywhere."""
    weight = np.full((image[0], 1, *kernel), share)
    return Conv(weight=weight, input_shape=image, stride=stride, padding=padding, groups=image[0])


def conv_then_pool(where: str, conv: Conv, pool: Conv) -> Conv:
    """Fold a convolution and the average pooling behind it into one convolution."""
    # Pools have one kernel for all.
    weight = convolve_kernels(conv.weight, pool.weight[0, 0], conv.dilation, tap_step=conv.stride)
    return _compose(where, conv, pool, weight, conv.groups)


def pool_then_conv(where: str, pool: Conv, conv: Conv) -> Conv:
    """Fold average pooling and the convolution behind it into one convolution."""
    # Taps of the convolution, in pixels of the pool's input.
    step = (conv.dilation[0] * pool.stride[0], conv.dilation[1] * pool.stride[1])
    return _compose(where, pool, conv, convolve_kernels(conv.weight, pool.weight[0, 0], step), conv.groups)


def pool_then_matrix(pool: Conv, matrix: Floats) -> Floats:
    """Fold average pooling and the matrix behind it into one matrix (n_out, pixels): windows share their weight among pixels."""
    (c, rows, columns), (_, height, width) = pool.output_shape, pool.input_shape
    (p, q), (y, x), (k, m) = pool.padding, pool.stride, pool.weight.shape[2:]
    # The padded image, or more where the last window reaches beyond it.
    pixels = np.zeros((len(matrix), c, max(height + 2 * p, (rows - 1) * y + k), max(width + 2 * q, (columns - 1) * x + m)))
    weights = matrix.reshape(len(matrix), c, rows, columns)
    for i, j in np.ndindex(k, m):
        pixels[:, :, i : i + (rows - 1) * y + 1 : y, j : j + (columns - 1) * x + 1 : x] += weights * pool.weight[0, 0, i, j]
    return pixels[:, :, p : p + height, q : q + width].reshape(len(matrix), -1)


def check_ceil_mode(where: str, is_ceil: bool, window: Conv) -> None:
    """Refuse pooling whose last windows reach over the edge of the image (``ceil_mode=True``)."""
    sizes = zip(window.input_shape[1:], window.padding, window.dilation, window.weight.shape[2:], window.stride, strict=True)
    if is_ceil and any((n + 2 * p - d * (k - 1) - 1) % s for n, p, d, k, s in sizes):
        raise ExtractError(where, "has windows that reach over the edge (ceil_mode)", remedy="Use ceil_mode=False.")


def adaptive_window(where: str, image: tuple[int, int, int], output_size: Any) -> Pair:
    """Return the window, equal to its stride, by which adaptive pooling divides an image (channels, rows, columns)."""
    sizes = zip(image[1:], output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size), strict=True)
    sides = [n if out is None else int(out) for n, out in sizes]
    if any(n % out for n, out in zip(image[1:], sides, strict=True)):  # torch would use windows of several sizes
        raise ExtractError(
            where, f"does not divide {image[1:]} pixels into {tuple(sides)} equal windows", remedy="Use AvgPool2d or MaxPool2d."
        )
    return image[1] // sides[0], image[2] // sides[1]


def scale_inputs(where: str, conv: Conv, gain: Floats) -> Conv:
    """Return a convolution of inputs that are scaled by `gain`, () or (n_in,).

    Raises
    ------
    ExtractError
        The gain differs within a channel.
    """
    if (gain == 1).all():
        return conv
    if not gain.shape:
        return replace(conv, weight=conv.weight * gain)
    channels = gain.reshape(conv.input_shape[0], -1)
    if (channels != channels[:, :1]).any():
        raise ExtractError(
            where,
            "convolves an image whose pixels are scaled differently within a channel",
            source="a convolution has the same weights everywhere",
            remedy="Scale whole channels, or put the factors into a Linear.",
        )
    f, c = conv.weight.shape[:2]
    # Filter f sees the channels of its group.
    per_group = np.repeat(channels[:, 0].reshape(conv.groups, c), f // conv.groups, axis=0)
    return replace(conv, weight=conv.weight * per_group[:, :, None, None])


def _compose(where: str, first: Conv, second: Conv, weight: Floats, groups: int) -> Conv:
    """Return the geometry of two windows as one, with the weights that `convolve_kernels` found."""
    # A zero of `second` is a stride of `first` wide.
    padding = [p + q * s for p, q, s in zip(first.padding, second.padding, first.stride, strict=True)]
    for axis in (0, 1):
        stride, window = first.stride[axis], first.dilation[axis] * (first.weight.shape[2 + axis] - 1) + 1
        # The zeros that `second` pads must be what `first` would give further outside, where it sees nothing but padding.
        outside_before = window <= stride + first.padding[axis]
        outside_after = first.output_shape[1 + axis] * stride - first.padding[axis] >= first.input_shape[1 + axis]
        if second.padding[axis] and not (outside_before and outside_after):
            raise ExtractError(
                where,
                "pads the output of a pooling whose windows overlap or leave pixels out: no single window does so at the border",
                remedy="Pool with windows that divide the image, or convolve without padding.",
            )
    strides = (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1])
    return Conv(weight=weight, input_shape=first.input_shape, padding=(padding[0], padding[1]), groups=groups, stride=strides)
