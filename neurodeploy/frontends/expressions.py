"""Linear expressions: a tensor of the model as a sum of spikes through synapses, plus a constant.

A frontend evaluates its model on linear expressions instead of numbers. Linear modules map expressions to expressions, exactly,
or raise `ExtractError`. The expression that arrives at a population becomes its connections, one for each term
(`neurodeploy.frontends.assembly`).

Two windows that move over an image one after the other fold into one convolution. Average pooling is a convolution with equal
weights, so it folds into the convolution or the matrix in front of it or behind it. Where no single window does the same, at the
border of an image for instance, the synapses are listed one by one, which is always exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.ir.arrays import Floats, check_memory
from neurodeploy.ir.connectivity import Pair, product_of, ungrouped
from neurodeploy.ir.network import (
    Conv,
    Dense,
    Synapse,
    as_sparse,
    average_window,
    conv_then_pool,
    pool_then_conv,
    pool_then_matrix,
    scale_inputs,
    scale_targets,
)

# imported where it is used: a chip or a file is looked at without it
if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Shape: TypeAlias = "tuple[int, ...]"
Indices: TypeAlias = "NDArray[np.int64]"
Sides: TypeAlias = "tuple[Pair, Pair]"
"""Rows before and after an image, and columns."""
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
    synapse : Conv, Dense, Sparse or None
        None before the first linear module.
    factor : array () or (n_out,)
        Factor behind a synapse with weights, which `weighted` multiplies in.
    is_pool : bool
        Whether the synapse has no weights of the model, as average pooling.
    name, where : str
        Path and label of the module that holds the weights, or of the pooling if there are none.
    """

    source: str
    n_source: int
    step: int
    indices: Indices
    gain: Floats = field(default_factory=lambda: np.ones(()))
    synapse: Synapse | None = None
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

    def matrix(self) -> csr_matrix:
        """Return (elements, n_source): what a spike of each neuron of the source adds to each element."""
        from scipy.sparse import csr_matrix

        term, indices = self.weighted(), self.indices.reshape(-1)
        used = np.flatnonzero(indices)
        rows = csr_matrix((np.ones(used.size), (used, indices[used] - 1)), shape=(indices.size, self.n_out))
        rows = rows if term.synapse is None else rows @ term.synapse.csr()
        return rows if (self.gain == 1).all() else rows.multiply(np.broadcast_to(self.gain, self.n_source)).tocsr()

    def through(self, module: ModuleId, matrix: csr_matrix, shape: Shape, *, has_weights: bool) -> Term:
        """Return the term behind a matrix (n_out, elements), as a list of synapses from the source.

        Parameters
        ----------
        has_weights : bool
            Whether the matrix holds weights of the model.
        """
        n_out, is_pool = matrix.shape[0], not (has_weights or self.has_weights)
        synapse, indices = as_sparse((matrix @ self.matrix()).tocsr()), np.arange(1, n_out + 1).reshape(shape)
        changed = {"synapse": synapse, "indices": indices, "gain": np.ones(()), "factor": np.ones(()), "is_pool": is_pool}
        return self.named(module, has_weights=has_weights, **changed)

    def named(self, module: ModuleId, *, has_weights: bool, **changed: Any) -> Term:
        """Return the changed term, with the name of a module that has weights, or that is the first one without."""
        if has_weights or self.synapse is None:
            changed |= {"name": module[0], "where": module[1]}
        return replace(self, **changed)

    def image(self, shape: tuple[int, int, int]) -> tuple[Indices, Sides, tuple[int, int, int]] | None:
        """Return the term as an image of whole channels of its source.

        Returns
        -------
        channels : array (channels,)
            Channel of the source that each channel of the expression is, -1 for none.
        sides : (2, 2)
            Rows of zeros before and after it, and columns.
        source : (channels, rows, columns)
            The source's outputs as an image.

        None where a channel of the expression is not one whole channel, pixel by pixel.
        """
        values = self.indices.reshape(shape)
        corners = [np.flatnonzero(values.any(axis=axes)) for axes in ((0, 2), (0, 1))]
        (top, bottom), (left, right) = ((int(found[0]), int(found[-1]) + 1) for found in corners)
        rows = values[:, top:bottom, left:right].reshape(len(values), -1)
        pixels = rows.shape[1]
        first = np.where(rows[:, 0] > 0, rows[:, 0] - 1, -pixels)  # -pixels // pixels is -1: no channel
        expected = np.where(first[:, None] >= 0, first[:, None] + np.arange(1, pixels + 1), 0)
        if self.n_out % pixels or (first % pixels).any() or (rows != expected).any():
            return None
        sides = ((top, shape[1] - bottom), (left, shape[2] - right))
        return first // pixels, sides, (self.n_out // pixels, bottom - top, right - left)

    def scaled(self, module: ModuleId, factors: Floats) -> Term:
        """Return the term times `factors`, one for each element."""
        used = self.indices > 0
        per_output = np.ones(self.n_out)
        per_output[self.indices[used] - 1] = factors[used]  # the last factor of an output wins; the test finds others
        is_same = bool((per_output[self.indices[used] - 1] == factors[used]).all())
        if is_same and (per_output == per_output.flat[0]).all():  # one factor for all stays a scalar, which any synapse takes
            per_output = per_output.flat[0].reshape(())
        pool = self.synapse if isinstance(self.synapse, Conv) and self.is_pool else None
        if is_same and self.synapse is None:
            return replace(self, gain=self.gain * per_output)
        if is_same and self.has_weights:
            return replace(self, factor=self.factor * per_output)
        if is_same and pool is not None and pool.is_per_channel(per_output):
            # An average over a channel's pixels scales as the pixels do, so the factor moves in front of the pooling.
            channels = pool.per_weight(per_output).reshape(-1)
            repeated = np.repeat(channels, self.n_source // channels.size) if per_output.shape else per_output
            return replace(self, gain=self.gain * repeated)
        from scipy.sparse import diags

        return self.through(module, diags(factors.reshape(-1)).tocsr(), factors.shape, has_weights=False)

    def weighted(self) -> Term:
        """Return the term with its factor multiplied into the weights."""
        if self.synapse is None or (not self.factor.shape and self.factor == 1):
            return self
        return replace(self, synapse=scale_targets(self.synapse, self.factor), factor=np.ones(()))

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


MANY_NEURONS, BYTES_A_NEURON_READ = 1_000_000, 48
"""Neurons of a population for which memory is checked, and what each takes while a model is read: indices, biases, states."""


def spikes(source: str, shape: Shape, step: int = 0) -> LinearExpression:
    """Return the spikes that a population fires at a step."""
    n = int(np.prod(shape))
    if n > MANY_NEURONS:
        check_memory(f"layer {source!r}", f"to read {n:,} neurons", n * BYTES_A_NEURON_READ)
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
    return LinearExpression(terms=tuple(term.scaled(module, factors) for term in x.terms), bias=x.bias * factors)


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


def apply_matrix(
    module: ModuleId, x: LinearExpression, matrix: csr_matrix, shape: Shape, *, has_weights: bool = False
) -> LinearExpression:
    """Apply a sparse matrix (n_out, elements) to an expression, whose shape becomes `shape`; every synapse is listed."""
    terms = tuple(term.through(module, matrix, shape, has_weights=has_weights) for term in x.terms)
    return LinearExpression(terms=terms, bias=np.asarray(matrix @ x.bias.reshape(-1)).reshape(shape))


def linear(module: ModuleId, x: LinearExpression, matrix: Floats, bias: Floats | None) -> LinearExpression:
    """Apply a matrix (n_out, n_in) and a bias (n_out,) to an expression (n_in,)."""
    if len(x.shape) != 1:
        raise ExtractError(
            module[1], f"acts on the last dimension of an input of shape {x.shape} only", remedy="Put a Flatten before it."
        )
    terms = []
    for term in x.terms:
        changed = {"indices": np.arange(1, len(matrix) + 1), "gain": np.ones(()), "factor": np.ones(()), "is_pool": False}
        terms.append(term.named(module, has_weights=True, synapse=_matrix_synapse(term, matrix), **changed))
    constants = matrix @ x.bias if x.bias.any() else np.zeros(len(matrix))
    return LinearExpression(terms=tuple(terms), bias=constants if bias is None else constants + bias)


def _matrix_synapse(term: Term, matrix: Floats) -> Dense | Conv:
    """Return a matrix (n_out, elements) on a term as one synapse from the term's source."""
    pool = term.synapse
    if pool is not None and not (isinstance(pool, Conv) and term.is_pool):
        return Dense(weight=np.ascontiguousarray((term.matrix().T @ matrix.T).T))
    columns = matrix
    if not term.is_in_order:
        columns, used = np.zeros((len(matrix), term.n_out)), term.indices > 0
        np.add.at(columns.T, term.indices[used] - 1, matrix.T[used])  # an output that appears twice gets both weights
    if isinstance(pool, Conv):
        if pool.output_shape[1:] == (1, 1):
            # A matrix behind an average over the whole image is a convolution of that size. Its weights are shared by the pixels.
            pixel_weights = Conv(weight=columns[:, :, None, None], input_shape=pool.output_shape)
            conv = scale_inputs(pool_then_conv(pool, pixel_weights), term.gain)
            if conv is not None:
                return conv
        columns = pool_then_matrix(pool, columns)
    return Dense(weight=columns * term.gain if (term.gain != 1).any() else columns)


def convolution(
    module: ModuleId,
    x: LinearExpression,
    weight: Floats,
    bias: Floats | None,
    *,
    stride: Pair,
    padding: Pair | Literal["same"],
    dilation: Pair,
    groups: int,
) -> LinearExpression:
    """Apply weights (out, in / groups, rows, columns) and a bias (out,) to an expression (channels, rows, columns)."""
    if padding == "same":  # an even window gets one zero more behind the image than in front of it, as in torch
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        padding = (total[0] // 2, total[1] // 2)
        if any(side % 2 for side in total):
            around = ((0, 0), *((side // 2, side - side // 2) for side in total))
            x, padding = rearrange(x, lambda values: np.pad(values, around)), (0, 0)
    image = x.image_shape(module[1])
    whole = Conv(weight=weight, input_shape=image, groups=groups, stride=stride, padding=padding, dilation=dilation)
    terms = []
    for term in x.terms:
        conv = _onto_source(term, whole)
        if conv is None:
            terms.append(term.through(module, whole.csr(), whole.output_shape, has_weights=True))
            continue
        changed = {"indices": np.arange(1, conv.n_out + 1).reshape(conv.output_shape), "gain": np.ones(()), "is_pool": False}
        terms.append(term.named(module, has_weights=True, synapse=conv, **changed))
    constants = convolve_constants(whole, x.bias)
    return LinearExpression(terms=tuple(terms), bias=constants if bias is None else constants + bias.reshape(-1, 1, 1))


def _onto_source(term: Term, whole: Conv) -> Conv | None:
    """Return a convolution of an expression as one of its term's source; None where no single window does the same."""
    image = None if term.has_weights else term.image(whole.input_shape)
    if image is None:
        return None
    channels, sides, source = image
    weight, groups = whole.weight, whole.groups
    if not np.array_equal(channels, np.arange(source[0])):
        full, groups = ungrouped(weight, groups), 1
        weight = np.zeros((len(full), source[0], *full.shape[2:]))
        # A channel that appears twice gets both weights.
        np.add.at(weight.swapaxes(0, 1), channels[channels >= 0], full.swapaxes(0, 1)[channels >= 0])
    padding, taps = [], []
    for axis, (before, after) in enumerate(sides):
        # Zeros on one side of an image alone are zeros on both, under a window with taps of zero on the other side.
        more = (max(before, after) - before, max(before, after) - after)
        if any(side % whole.dilation[axis] for side in more):
            return None
        padding.append(whole.padding[axis] + max(before, after))
        taps.append((more[0] // whole.dilation[axis], more[1] // whole.dilation[axis]))
    weight = np.pad(weight, ((0, 0), (0, 0), *taps)) if any(map(any, taps)) else weight
    conv = replace(whole, weight=weight, input_shape=source, groups=groups, padding=(padding[0], padding[1]))
    pool = term.synapse
    if pool is None:
        return scale_inputs(conv, term.gain)
    return scale_inputs(pool_then_conv(pool, conv), term.gain) if isinstance(pool, Conv) and pool.output_shape == source else None


def average_pool(
    module: ModuleId, x: LinearExpression, *, kernel: Pair, stride: Pair, padding: Pair = (0, 0), share: float
) -> LinearExpression:
    """Add up `share` of each pixel in a window that moves over an expression (channels, rows, columns) with its padding."""
    window = average_window(x.image_shape(module[1]), kernel, stride, padding, share)
    terms = []
    for term in (term.weighted() for term in x.terms):
        image, pooled = term.image(window.input_shape), None
        # Behind a convolution the folded window would still see pixels where the pooling pads zeros.
        if image is not None and not any(map(any, image[1])) and not (any(padding) and term.has_weights):
            pool = average_window(image[2], kernel, stride, padding, share)
            pooled = pool if term.synapse is None else conv_then_pool(term.synapse, pool)
        if image is None or pooled is None:
            terms.append(term.through(module, window.csr(), window.output_shape, has_weights=False))
            continue
        channels = image[0][:, None, None]
        pixels = np.arange(1, pooled.output_shape[1] * pooled.output_shape[2] + 1).reshape(pooled.output_shape[1:])
        indices = np.where(channels >= 0, channels * pixels.size + pixels, 0)
        # Layers are named after weights, and only without any after the pooling.
        terms.append(term.named(module, has_weights=False, indices=indices, synapse=pooled, is_pool=not term.has_weights))
    # Weights of 1: sums, of which `share` counts.
    sums = convolve_constants(replace(window, weight=np.ones_like(window.weight)), x.bias)
    return LinearExpression(terms=tuple(terms), bias=sums * share)


def require_spikes(module: ModuleId, x: LinearExpression) -> None:
    """Refuse the maximum of anything but spikes."""
    if not x.is_spikes:
        source = next((f"the output of {term.where}" for term in x.terms if term.where), "a sum")
        raise ExtractError(
            module[1],
            f"takes the maximum of {source}, which is not spikes",
            source="only the maximum of spikes, 0 or 1, is a neuron",
            remedy="Move the pooling behind the neurons, or use AvgPool2d.",
        )


def spike_count(
    module: ModuleId, x: LinearExpression, *, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> LinearExpression:
    """Return the number of spikes in each window of a max pooling, whose maximum is 1 where that is above 0."""
    channels = x.image_shape(module[1])[0]
    ones = np.ones((channels, 1, *kernel))  # depthwise: each channel counts its own spikes
    return convolution(module, x, ones, None, stride=stride, padding=padding, dilation=dilation, groups=channels)


def convolve_constants(window: Conv, image: Floats) -> Floats:
    """Apply a window to constants (channels, rows, columns); they are zeros unless a bias or a sum came before."""
    if not image.any():
        return np.zeros(window.output_shape)
    return np.asarray(product_of(window, np.float64)(image.reshape(1, -1)).reshape(window.output_shape))
