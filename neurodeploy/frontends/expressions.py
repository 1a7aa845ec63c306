"""What two windows that move over an image one after the other come to: one window, exactly, or a refusal.

Average pooling is a convolution with equal weights: it folds into the convolution or the matrix beside it. Where that would not
be exact, at the border of an image, it is refused.

What a number in a model is, in spikes: a sum of spikes, each through one synapse at most, and a constant.

Frontends walk through their model with such forms in place of tensors. Linear modules make forms of forms, exactly, or refuse;
what a population hears is a form, and each of its terms becomes a connection (`linear_maps`, `assembly`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair
from neurodeploy.ir.network import Conv, Dense

# -------------------- frontends.folding


def numbers(where: str, name: str, value: Any) -> Floats:
    """A parameter as float64, () or (n,) or a matrix; a tensor of one element is a scalar."""
    array = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ExtractError(where, f"its {name} is not finite")
    return array.reshape(()) if array.size == 1 and array.ndim == 1 else array


def pair(value: Any) -> Pair:
    """One number, or one each, for rows and columns."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return int(sides[0]), int(sides[-1])


def average_window(image: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair, share: float) -> Conv:
    """The window of average pooling: `share` of every pixel that it looks at."""
    weight = np.full((image[0], 1, *kernel), share)
    return Conv(weight=weight, input_shape=image, stride=stride, padding=padding, groups=image[0])


def average_of(where: str, conv: Conv, pool: Conv) -> Conv:
    """A convolution and the average pooling behind it."""
    weight = _spread(conv.weight, pool.weight[0, 0], conv.dilation, outer=conv.stride)
    return _composed(where, conv, pool, weight, conv.groups)


def behind_average(where: str, pool: Conv, conv: Conv) -> Conv:
    """A convolution behind average pooling."""
    weight = _spread(conv.weight, pool.weight[0, 0], conv.dilation, inner=pool.stride)
    return _composed(where, pool, conv, weight, conv.groups)


def matrix_behind_average(matrix: Floats, pool: Conv) -> Floats:
    """A matrix on what pooling gives, as one on the pixels: each pixel takes its share of the weight of its windows."""
    (c, rows, columns), (_, height, width) = pool.output_shape, pool.input_shape
    (p, q), (y, x), (k, m) = pool.padding, pool.stride, pool.weight.shape[2:]
    pixels = np.zeros((len(matrix), c, max(height + 2 * p, (rows - 1) * y + k), max(width + 2 * q, (columns - 1) * x + m)))
    weights = matrix.reshape(len(matrix), c, rows, columns)
    for i, j in np.ndindex(k, m):
        pixels[:, :, i : i + (rows - 1) * y + 1 : y, j : j + (columns - 1) * x + 1 : x] += weights * pool.weight[0, 0, i, j]
    return pixels[:, :, p : p + height, q : q + width].reshape(len(matrix), -1)


def check_ceil(where: str, is_ceil: bool, window: Conv) -> None:
    """Refuse pooling that rounds its size up to windows that reach over the edge."""
    sizes = zip(window.input_shape[1:], window.padding, window.dilation, window.weight.shape[2:], window.stride, strict=True)
    if is_ceil and any((n + 2 * p - d * (k - 1) - 1) % s for n, p, d, k, s in sizes):
        raise ExtractError(where, "has windows that reach over the edge (ceil_mode)", remedy="Use ceil_mode=False.")


def equal_windows(where: str, image: tuple[int, int, int], asked: Any) -> Pair:
    """The window by which adaptive pooling parts an image, where all are equal."""
    pairs = zip(image[1:], tuple(asked) if isinstance(asked, (tuple, list)) else (asked, asked), strict=True)
    sides = [n if out is None else int(out) for n, out in pairs]
    if any(n % out for n, out in zip(image[1:], sides, strict=True)):
        raise ExtractError(where, f"does not part {image[1:]} pixels into {tuple(sides)} equal windows", remedy="Use AvgPool2d.")
    return image[1] // sides[0], image[2] // sides[1]


def _composed(where: str, first: Conv, second: Conv, weight: Floats, groups: int) -> Conv:
    """The window of both, once its weights are known: `second` moves over what `first` gives."""
    padding = [p + q * s for p, q, s in zip(first.padding, second.padding, first.stride, strict=True)]
    for axis in (0, 1):
        stride, window = first.stride[axis], first.dilation[axis] * (first.weight.shape[2 + axis] - 1) + 1
        outside_before = window <= stride + first.padding[axis]
        outside_after = first.output_shape[1 + axis] * stride - first.padding[axis] >= first.input_shape[1 + axis]
        if second.padding[axis] and not (outside_before and outside_after):
            raise ExtractError(
                where, "pads what pooling gives, whose windows overlap or leave pixels out: no single window at the border",
                remedy="Pool into windows that part the image, or convolve without padding.",
            )  # fmt: skip
    return Conv(
        weight=weight, input_shape=first.input_shape, padding=(padding[0], padding[1]), groups=groups,
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
    )  # fmt: skip


def _spread(kernel: Floats, taps: Floats, dilation: Pair, inner: Pair = (1, 1), outer: Pair = (1, 1)) -> Floats:
    """Weights (f, c, rows, columns), each seen through a window of `taps` (rows, columns).

    A place of the kernel lies at dilation * inner, one of the taps at outer, counted in pixels.
    """
    rows, columns = kernel.shape[2:]
    steps, width = (dilation[0] * inner[0], dilation[1] * inner[1]), taps.shape
    shape = [
        (side - 1) * step + (tap - 1) * out + 1 for side, step, tap, out in zip((rows, columns), steps, width, outer, strict=True)
    ]
    spread = np.zeros((*kernel.shape[:2], *shape))
    for i, j in np.ndindex(width):
        y, x = i * outer[0], j * outer[1]
        spread[:, :, y : y + (rows - 1) * steps[0] + 1 : steps[0], x : x + (columns - 1) * steps[1] + 1 : steps[1]] += (
            kernel * taps[i, j]
        )
    return spread


# -------------------- frontends.forms

Places = NDArray[np.int64]
Shape = tuple[int, ...]
Where = tuple[str, str]
"""Path of a module, which names layers, and the path with its type, by which it is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Spikes of one population on their way: scaled, through a synapse or none, put in places.

    Attributes
    ----------
    source : str
        The population, or the input.
    n : int
        Its neurons.
    at : int
        Step at which the spikes were fired, on the clock of whoever reads the model.
    places : array of the form's shape
        Which number each place holds: the k-th (from 1) that comes out of the synapse, or of the source; 0 for none.
    gain : array () or (n,)
        What scales the spikes in front of the synapse.
    synapse : Conv, Dense or None
        None as long as there is none.
    is_pool : bool
        Whether the synapse is nothing but average pooling.
    name, where : str
        The module that has the weights, or of a pooling that has none beside it.
    """

    source: str
    n: int
    at: int
    places: Places
    gain: Floats = field(default_factory=lambda: np.ones(()))
    synapse: Conv | Dense | None = None
    is_pool: bool = False
    name: str = ""
    where: str = ""

    @property
    def has_weights(self) -> bool:
        return self.synapse is not None and not self.is_pool

    @property
    def n_out(self) -> int:
        """Numbers that `places` picks from."""
        return self.n if self.synapse is None else self.synapse.n_out

    @property
    def is_in_order(self) -> bool:
        """Whether every number stands in its own place."""
        return self.places.size == self.n_out and bool((self.places.reshape(-1) == np.arange(1, self.n_out + 1)).all())

    def channels(self, where: str) -> NDArray[np.int64]:
        """(channels of the form,): which channel each of them is, or -1 for none; whole images, in order.

        Raises
        ------
        ExtractError
            The form's images are not images of the source.
        """
        pixels = self.places[0].size
        rows = self.places.reshape(len(self.places), pixels)
        first = np.where(rows[:, 0] > 0, rows[:, 0] - 1, -pixels)
        expected = np.where(first[:, None] >= 0, first[:, None] + np.arange(1, pixels + 1), 0)
        if self.n_out % pixels or (first % pixels).any() or (rows != expected).any():
            raise ExtractError(
                where, f"looks at an image of which {self.source!r} is no whole channel, pixel by pixel",
                remedy="Reshape, pad or cut only along channels, and pad in the convolution itself.",
            )  # fmt: skip
        which: NDArray[np.int64] = first // pixels
        return which


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A tensor without its batch: the sum of its terms and of a constant.

    Attributes
    ----------
    terms : tuple of Term
    bias : array of the form's shape
    """

    terms: tuple[Term, ...]
    bias: Floats

    @property
    def shape(self) -> Shape:
        return self.bias.shape

    @property
    def is_spikes(self) -> bool:
        """Whether it holds spikes and nothing else: each place one of them, as it was fired."""
        plain = all(term.synapse is None and bool((term.gain == 1).all()) for term in self.terms)
        taken = np.sum([term.places > 0 for term in self.terms], axis=0)
        return plain and not self.bias.any() and bool((taken == 1).all())


def spikes(source: str, shape: Shape, at: int = 0) -> Form:
    """What a population says."""
    n = int(np.prod(shape))
    return Form(terms=(Term(source=source, n=n, at=at, places=np.arange(1, n + 1).reshape(shape)),), bias=np.zeros(shape))


def constant(values: Floats) -> Form:
    """What does not depend on spikes."""
    return Form(terms=(), bias=values)


def added(one: Form, other: Form) -> Form:
    """The sum of two forms of one shape."""
    assert one.shape == other.shape
    return Form(terms=one.terms + other.terms, bias=one.bias + other.bias)


def moved(form: Form, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Form:
    """The form with its numbers put elsewhere: left out, repeated, in another order, beside zeros.

    Parameters
    ----------
    move : function
        From an array of the form's shape to one of the new; it adds up nothing.
    """
    places = [move(term.places.astype(np.float64)).astype(np.int64) for term in form.terms]
    kept = [replace(term, places=p) for term, p in zip(form.terms, places, strict=True) if p.any()]
    return Form(terms=tuple(kept), bias=move(form.bias))


def scaled(module: Where, form: Form, factor: Floats) -> Form:
    """The form times a factor, one or one a place."""
    factors = np.broadcast_to(factor, form.shape)
    return Form(terms=tuple(_scaled(module[1], term, factors) for term in form.terms), bias=form.bias * factors)


def _scaled(where: str, term: Term, factors: Floats) -> Term:
    taken = term.places > 0
    per_number = np.ones(term.n_out)
    per_number[term.places[taken] - 1] = factors[taken]
    if (per_number[term.places[taken] - 1] != factors[taken]).any():
        raise ExtractError(where, f"scales what {term.source!r} says differently in different places", remedy="Scale weights.")
    if (per_number == per_number.flat[0]).all():
        per_number = per_number.flat[0].reshape(())
    if term.synapse is None:
        return replace(term, gain=term.gain * per_number)
    if not term.is_pool:
        return replace(term, synapse=replace(term.synapse, weight=term.synapse.weight * term.synapse.per_weight(per_number)))
    assert isinstance(term.synapse, Conv)
    channels = term.synapse.per_weight(per_number).reshape(-1)  # averages of a channel scale as its pixels do
    return replace(term, gain=term.gain * (np.repeat(channels, term.n // channels.size) if per_number.shape else per_number))
