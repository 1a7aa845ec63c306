"""What two windows that move over an image one after the other come to: one window, exactly, or a refusal.

Average pooling is a convolution with equal weights: it folds into the convolution or the matrix beside it. Where that would not
be exact, at the border of an image, it is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.network import Conv
from neurodeploy.wiring import Pair

Floats = NDArray[np.float64]


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
