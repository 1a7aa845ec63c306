"""What the linear modules between two populations come to: one synapse and a bias, exactly.

Average pooling is a convolution with equal weights, batch normalisation in eval mode a factor and a shift: each folds into the
convolution or the matrix beside it. Where that would not be exact, at the border of an image, it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.network import Conv, Dense
from neurodeploy.wiring import Pair

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Folded:
    """Linear modules, folded as far as they have come.

    Attributes
    ----------
    shape : tuple of int
        What comes out, without the batch.
    synapse : Conv, Dense or None
        None as long as there is none.
    is_pool : bool
        Whether the synapse is nothing but average pooling.
    bias : array (), or one a channel or feature of what comes out
    name : str
        Path of the module that has the weights, or of a pooling that has none beside it.
    where : str
        That path with the module's type.
    """

    shape: tuple[int, ...]
    synapse: Conv | Dense | None = None
    is_pool: bool = False
    bias: Floats
    name: str = ""
    where: str = ""

    @property
    def n_out(self) -> int:
        return int(np.prod(self.shape))

    @property
    def bias_per_neuron(self) -> Floats:
        """() or (n_out,)."""
        return np.repeat(self.bias, self.n_out // self.bias.size) if self.bias.shape else self.bias

    @property
    def has_weights(self) -> bool:
        return self.synapse is not None and not self.is_pool


def nothing(shape: tuple[int, ...]) -> Folded:
    """No module yet, behind a population of this shape."""
    return Folded(shape=shape, bias=np.zeros(()))


def flattened(before: Folded) -> Folded:
    """What comes out, in a row."""
    return replace(before, shape=(before.n_out,))


def scaled(folded: Folded, gain: Floats) -> Conv | Dense:
    """Its synapse with the weights onto each neuron scaled by `gain`, () or (n_out,)."""
    assert folded.synapse is not None
    return replace(folded.synapse, weight=folded.synapse.weight * folded.synapse.beside(gain))


def numbers(where: str, name: str, value: Any) -> Floats:
    """A parameter as float64, () or (n,) or a matrix; a tensor of one element is a scalar."""
    array = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=np.float64)
    if not np.isfinite(array).all():
        raise ExtractError(where, f"its {name} is not finite")
    return array.reshape(()) if array.size == 1 and array.ndim == 1 else array


def _bias(where: str, bias: torch.Tensor | None) -> Floats:
    values = np.zeros(()) if bias is None else numbers(where, "bias", bias)
    return values if values.any() else np.zeros(())


# ---------------------------------------------------------------------------------------------- modules with weights


def linear(before: Folded, name: str, where: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Folded:
    """A matrix (n_out, n_in) behind what there is."""
    _check_first(before, where)
    if len(before.shape) != 1:
        raise ExtractError(
            where, f"would act on the last side of an input of shape {before.shape} only", remedy="Put a Flatten before it."
        )
    matrix = numbers(where, "weight", weight).reshape(weight.shape)
    if isinstance(before.synapse, Conv):
        if matrix.shape[1] != before.n_out:
            raise ExtractError(where, f"expects {matrix.shape[1]} inputs, but pooling gives {before.n_out}")
        matrix = _through_pool(matrix, before.synapse)
    return Folded(shape=(len(matrix),), synapse=Dense(weight=matrix), bias=_bias(where, bias), name=name, where=where)


def convolution(before: Folded, name: str, where: str, module: torch.nn.Conv2d) -> Folded:
    """A Conv2d behind what there is."""
    _check_first(before, where)
    image = _image(before, where)
    if module.padding_mode != "zeros":
        raise ExtractError(where, f"pads with {module.padding_mode!r}, not with zeros")
    conv = Conv(
        weight=numbers(where, "weight", module.weight), input_shape=image, stride=_pair(module.stride),
        padding=_padding(where, module), dilation=_pair(module.dilation), groups=module.groups,
    )  # fmt: skip
    if isinstance(before.synapse, Conv):
        weight = _spread(conv.weight, before.synapse.weight[0, 0], conv.dilation, inner=before.synapse.stride)
        conv = _composed(where, before.synapse, conv, weight, conv.groups)
    return Folded(shape=conv.output_shape, synapse=conv, bias=_bias(where, module.bias), name=name, where=where)


def _padding(where: str, module: torch.nn.Conv2d) -> Pair:
    if module.padding == "valid":
        return 0, 0
    if module.padding != "same":
        return _pair(module.padding)
    around = [d * (k - 1) for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)]
    if any(total % 2 for total in around):
        raise ExtractError(where, "pads one side more than the other ('same' with an even window)", remedy="Pad by a number.")
    return around[0] // 2, around[1] // 2


def _check_first(before: Folded, where: str) -> None:
    if before.has_weights:
        raise ExtractError(where, f"follows {before.name!r} with no neurons between them", remedy="Merge them.")


# ---------------------------------------------------------------------------------------------- modules that fold


def average(before: Folded, name: str, where: str, module: torch.nn.AvgPool2d) -> Folded:
    """An AvgPool2d behind what there is."""
    image = _image(before, where)
    kernel, stride, padding = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
    share = 1.0 / (module.divisor_override or kernel[0] * kernel[1])
    if any(padding) and (before.has_weights or not module.count_include_pad):
        raise ExtractError(
            where, "averages over fewer pixels at the border than elsewhere", remedy="Pool without padding, or pad before."
        )
    pool = Conv(
        weight=np.full((image[0], 1, *kernel), share), input_shape=image, stride=stride, padding=padding, groups=image[0]
    )  # fmt: skip
    check_ceil(where, module, pool)
    if isinstance(before.synapse, Conv):
        weight = _spread(before.synapse.weight, pool.weight[0, 0], before.synapse.dilation, outer=before.synapse.stride)
        conv = _composed(where, before.synapse, pool, weight, before.synapse.groups)
        return replace(before, shape=conv.output_shape, synapse=conv)
    return Folded(shape=pool.output_shape, synapse=pool, is_pool=True, bias=np.zeros(()), name=name, where=where)


def adaptive(before: Folded, name: str, where: str, module: torch.nn.AdaptiveAvgPool2d) -> Folded:
    """An AdaptiveAvgPool2d, where it parts the image into equal windows."""
    image = _image(before, where)
    asked = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
    sides = [n if out is None else int(out) for n, out in zip(image[1:], asked, strict=True)]
    if any(n % out for n, out in zip(image[1:], sides, strict=True)):
        raise ExtractError(where, f"does not part {image[1:]} pixels into {tuple(sides)} equal windows", remedy="Use AvgPool2d.")
    windows = (image[1] // sides[0], image[2] // sides[1])
    return average(before, name, where, torch.nn.AvgPool2d(windows))


def any_of(before: Folded, where: str, module: torch.nn.MaxPool2d) -> Conv:
    """The window of a MaxPool2d, with a one for every pixel that it looks at."""
    image = _image(before, where)
    window = Conv(
        weight=np.ones((image[0], 1, *_pair(module.kernel_size))), input_shape=image, groups=image[0],
        stride=_pair(module.stride), padding=_pair(module.padding), dilation=_pair(module.dilation),
    )  # fmt: skip
    check_ceil(where, module, window)
    return window


def normalisation(before: Folded, where: str, module: torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) -> Folded:
    """Batch normalisation in eval mode, behind the weights that it scales and shifts."""
    if module.running_mean is None or module.running_var is None:
        raise ExtractError(where, "normalises by each batch anew", remedy="Train it with track_running_stats=True.")
    if before.synapse is None or not before.has_weights:
        raise ExtractError(where, "has no weights in front of it to fold into", remedy="Put it behind a Linear or Conv2d.")
    mean, spread = (numbers(where, "statistics", values).reshape(-1) for values in (module.running_mean, module.running_var))
    gain = 1.0 / np.sqrt(spread + module.eps)
    shift = np.zeros(())
    if module.weight is not None:
        gain, shift = gain * numbers(where, "weight", module.weight), numbers(where, "bias", module.bias)
    channels = before.synapse.weight.shape[0]
    if gain.size != channels:
        raise ExtractError(where, f"normalises {gain.size} channels, but there are {channels}")
    weight = before.synapse.weight * gain.reshape(-1, *[1] * (before.synapse.weight.ndim - 1))
    bias = (before.bias - mean) * gain + shift
    return replace(before, synapse=replace(before.synapse, weight=weight), bias=bias if bias.any() else np.zeros(()))


def check_ceil(where: str, module: torch.nn.AvgPool2d | torch.nn.MaxPool2d, window: Conv) -> None:
    """Refuse pooling that rounds its size up to windows that reach over the edge."""
    sizes = zip(window.input_shape[1:], window.padding, window.dilation, window.weight.shape[2:], window.stride, strict=True)
    if module.ceil_mode and any((n + 2 * p - d * (k - 1) - 1) % s for n, p, d, k, s in sizes):
        raise ExtractError(where, "has windows that reach over the edge (ceil_mode)", remedy="Use ceil_mode=False.")


# ---------------------------------------------------------------------------------------------- two windows in one


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


def _through_pool(matrix: Floats, pool: Conv) -> Floats:
    """A matrix on what pooling gives, as one on the pixels: each pixel takes its share of the weight of its windows."""
    (c, rows, columns), (_, height, width) = pool.output_shape, pool.input_shape
    (p, q), (y, x), (k, m) = pool.padding, pool.stride, pool.weight.shape[2:]
    pixels = np.zeros((len(matrix), c, max(height + 2 * p, (rows - 1) * y + k), max(width + 2 * q, (columns - 1) * x + m)))
    weights = matrix.reshape(len(matrix), c, rows, columns)
    for i, j in np.ndindex(k, m):
        pixels[:, :, i : i + (rows - 1) * y + 1 : y, j : j + (columns - 1) * x + 1 : x] += weights * pool.weight[0, 0, i, j]
    return pixels[:, :, p : p + height, q : q + width].reshape(len(matrix), -1)


def _image(before: Folded, where: str) -> tuple[int, int, int]:
    if len(before.shape) != 3:
        raise ExtractError(where, f"looks at images (channels, rows, columns), not at shape {before.shape}")
    return before.shape[0], before.shape[1], before.shape[2]


def _pair(value: Any) -> Pair:
    rows, columns = value if isinstance(value, tuple) else (value, value)
    return int(rows), int(columns)
