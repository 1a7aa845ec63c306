"""Windows that move over images: convolutions and average pooling, folded into one where a single window does the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair, convolve_kernels
from neurodeploy.ir.network import Conv, Synapse
from neurodeploy.simulation.reference import product_of


def pair(value: Any) -> Pair:
    """Return one number, or two, as (rows, columns)."""
    sides = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return int(sides[0]), int(sides[-1])  # one number counts for both sides


def average_window(image: tuple[int, int, int], kernel: Pair, stride: Pair, padding: Pair, share: float) -> Conv:
    """Return average pooling as a depthwise convolution with the weight `share` everywhere."""
    weight = np.full((image[0], 1, *kernel), share)
    return Conv(weight=weight, input_shape=image, stride=stride, padding=padding, groups=image[0])


def conv_then_pool(conv: Synapse, pool: Conv) -> Conv | None:
    """Fold a convolution and the average pooling behind it into one convolution; None where no single window does the same."""
    if not isinstance(conv, Conv) or conv.output_shape != pool.input_shape:
        return None
    # Pools have one kernel for all.
    weight = convolve_kernels(conv.weight, pool.weight[0, 0], conv.dilation, tap_step=conv.stride)
    return _compose(conv, pool, weight, conv.groups)


def pool_then_conv(pool: Conv, conv: Conv) -> Conv | None:
    """Fold average pooling and the convolution behind it into one convolution; None where no single window does the same."""
    # Taps of the convolution, in pixels of the pool's input.
    step = (conv.dilation[0] * pool.stride[0], conv.dilation[1] * pool.stride[1])
    return _compose(pool, conv, convolve_kernels(conv.weight, pool.weight[0, 0], step), conv.groups)


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


def scale_inputs(conv: Conv | None, gain: Floats) -> Conv | None:
    """Return a convolution of inputs that are scaled by `gain`, () or (n_in,); None where the gain differs within a channel."""
    if conv is None or (gain == 1).all():
        return conv
    if not gain.shape:
        return replace(conv, weight=conv.weight * gain)
    channels = gain.reshape(conv.input_shape[0], -1)
    if (channels != channels[:, :1]).any():
        return None
    f, c = conv.weight.shape[:2]
    # Filter f sees the channels of its group.
    per_group = np.repeat(channels[:, 0].reshape(conv.groups, c), f // conv.groups, axis=0)
    return replace(conv, weight=conv.weight * per_group[:, :, None, None])


def _compose(first: Conv, second: Conv, weight: Floats, groups: int) -> Conv | None:
    """Return the geometry of two windows as one, with the weights that `convolve_kernels` found; None where there is none."""
    # A zero of `second` is a stride of `first` wide.
    padding = [p + q * s for p, q, s in zip(first.padding, second.padding, first.stride, strict=True)]
    for axis in (0, 1):
        stride, window = first.stride[axis], first.dilation[axis] * (first.weight.shape[2 + axis] - 1) + 1
        # The zeros that `second` pads must be what `first` would give further outside, where it sees nothing but padding.
        outside_before = window <= stride + first.padding[axis]
        outside_after = first.output_shape[1 + axis] * stride - first.padding[axis] >= first.input_shape[1 + axis]
        if second.padding[axis] and not (outside_before and outside_after):
            return None
    strides = (first.stride[0] * second.stride[0], first.stride[1] * second.stride[1])
    return Conv(weight=weight, input_shape=first.input_shape, padding=(padding[0], padding[1]), groups=groups, stride=strides)


def convolve_constants(window: Conv, image: Floats) -> Floats:
    """Apply a window to constants (channels, rows, columns); they are zeros unless a bias or a sum came before."""
    if not image.any():
        return np.zeros(window.output_shape)
    return np.asarray(product_of(window, np.float64)(image.reshape(1, -1)).reshape(window.output_shape))


def reaches_over(image: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Whether windows that cover all of an image (rows, columns) reach over its edge (``ceil_mode=True``)."""
    sizes = zip(image, kernel, stride, padding, dilation, strict=True)
    return any((n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in sizes)


def equal_windows(image: Pair, output_size: Any) -> Pair | None:
    """Return the window, equal to its stride, by which adaptive pooling divides an image; None where it needs several sizes."""
    sides = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    rows, columns = (n if out is None else int(out) for n, out in zip(image, sides, strict=True))
    return None if image[0] % rows or image[1] % columns else (image[0] // rows, image[1] // columns)
