"""What torch's functions make of forms. Arguments have torch's names, but for the first, which is `input` there.

What a torch model may do between its neurons, and what becomes of it: the tables that it is read by, and README's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from neurodeploy.errors import ExtractError
from neurodeploy.frontends import expressions as folding
from neurodeploy.frontends import linear_maps
from neurodeploy.frontends.assembly import Row, listed, rows_of
from neurodeploy.frontends.expressions import Form, Where, added, constant, moved, numbers, pair, scaled
from neurodeploy.frontends.torch.cells import READERS
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair

# -------------------- frontends.functions


class NotAMap(Exception):  # noqa: N818  (what is said of it is the caller's)
    """A function, called so, adds up no weighted spikes; says why."""


@dataclass(frozen=True)
class Call:
    """Who calls a function, with how many sides in front of a form's own (batch, or time and batch)."""

    module: Where
    lead: tuple[int, ...]

    def constant(self, value: Any, shape: tuple[int, ...]) -> Floats:
        """A number or tensor beside a form of this shape: one a place."""
        given = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=np.float64)
        if not np.isfinite(given).all():
            raise ExtractError(self.module[1], "has a constant that is not finite")
        try:
            whole = np.broadcast_to(given, (*self.lead, *shape))
        except ValueError:
            raise NotAMap("spreads what it is given over more places") from None
        rows = whole.reshape(-1, *shape)
        if (rows != rows[:1]).any():
            raise NotAMap("has another constant for each sample")
        row: Floats = rows[0]
        return row


Map: TypeAlias = "Callable[..., Form]"

# ---------------------------------------------------------------------------------------------- weights


def linear(call: Call, x: Any, weight: Any, bias: Any = None) -> Form:
    """A dense synapse; in front of it nothing but pooling, factors and moves."""
    matrix = numbers(call.module[1], "weight", _constant(weight)).reshape(tuple(weight.shape))
    return linear_maps.linear(call.module, _form(x), matrix, _bias(call, bias))


def matmul(call: Call, x: Any, other: Any) -> Form:
    """A dense synapse, where the other factor is a matrix of weights."""
    if getattr(other, "ndim", 0) != 2:
        raise NotAMap("multiplies by what is no matrix of weights")
    return linear(call, x, _constant(other).T)


def conv2d(
    call: Call, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Form:  # fmt: skip
    """A convolution of any stride, padding (`same` with odd windows), dilation and groups."""
    kernels = numbers(call.module[1], "weight", _constant(weight)).reshape(tuple(weight.shape))
    pads = _padding(call, padding, pair(dilation), (kernels.shape[2], kernels.shape[3]))
    return linear_maps.convolution(
        call.module, _form(x), kernels, _bias(call, bias), stride=pair(stride), padding=pads, dilation=pair(dilation),
        groups=groups,
    )  # fmt: skip


def _padding(call: Call, padding: Any, dilation: Pair, kernel: Pair) -> Pair:
    if padding == "valid":
        return 0, 0
    if padding != "same":
        return pair(padding)
    around = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in around):
        raise ExtractError(
            call.module[1], "pads one side more than the other ('same' with an even window)", remedy="Pad by a number."
        )
    return around[0] // 2, around[1] // 2


def conv1d(
    call: Call, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> Form:  # fmt: skip
    """A convolution of images of one row: shapes (channels, length) become (channels, 1, length)."""
    pads = padding if isinstance(padding, str) else (0, pair(padding)[0])
    image = conv2d(
        call, _row(call, x), _constant(weight).unsqueeze(2), bias, (1, pair(stride)[0]), pads, (1, pair(dilation)[0]), groups
    )
    return _line(image)


def batch_norm(
    call: Call, x: Any, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,  # noqa: ARG001  (of training alone, but part of the call)
) -> Form:  # fmt: skip
    """In eval mode: scales the weights in front of it, or behind it where there are none, and shifts the bias."""
    where, form = call.module[1], _form(x)
    if training or running_mean is None or running_var is None:
        raise ExtractError(where, "normalises by each batch anew", remedy="Train it with track_running_stats=True.")
    mean, spread = (numbers(where, "statistics", values).reshape(-1) for values in (running_mean, running_var))
    gain, shift = 1.0 / np.sqrt(spread + eps), np.zeros_like(mean)
    if weight is not None:
        gain = gain * numbers(where, "weight", weight)
    if bias is not None:
        shift = shift + numbers(where, "bias", bias)
    sides = (-1, *[1] * (len(form.shape) - 1))
    normal = scaled(call.module, form, gain.reshape(sides))
    return added(normal, constant(np.broadcast_to((shift - mean * gain).reshape(sides), form.shape)))


# ---------------------------------------------------------------------------------------------- pooling


def avg_pool2d(
    call: Call, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Form:  # fmt: skip
    """Folds into the weights beside it; alone it is a convolution."""
    kernel = pair(kernel_size)
    return linear_maps.average(
        call.module, _form(x), kernel=kernel, stride=_stride(stride, kernel), padding=pair(padding), is_ceil=ceil_mode,
        share=1.0 / (divisor_override or kernel[0] * kernel[1]), counts_padding=count_include_pad,
    )  # fmt: skip


def avg_pool1d(
    call: Call, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Form:  # fmt: skip
    """As `avg_pool2d`, of images of one row."""
    steps = None if stride in (None, ()) else (1, pair(stride)[0])
    window, pads = (1, pair(kernel_size)[0]), (0, pair(padding)[0])
    return _line(avg_pool2d(call, _row(call, x), window, steps, pads, ceil_mode, count_include_pad))


def adaptive_avg_pool2d(call: Call, x: Any, output_size: Any) -> Form:
    """As `avg_pool2d`, where all windows are equal."""
    form = _form(x)
    return avg_pool2d(call, form, folding.equal_windows(call.module[1], linear_maps.image_of(call.module[1], form), output_size))


def adaptive_avg_pool1d(call: Call, x: Any, output_size: Any) -> Form:
    """As `avg_pool1d`, where all windows are equal."""
    return _line(adaptive_avg_pool2d(call, _row(call, x), (1, pair(output_size)[0])))


def lp_pool2d(call: Call, x: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Form:
    """With norm 1, the sum of a window: as `avg_pool2d`."""
    if float(norm_type) != 1.0:
        raise NotAMap(f"takes the root of a sum of powers of {norm_type:g}")
    return avg_pool2d(call, x, kernel_size, stride, 0, ceil_mode, divisor_override=1)


def mean(call: Call, x: Any, dim: Any = None, keepdim: bool = False) -> Form:
    """Over all sides of an image: as `avg_pool2d`."""
    return _over_image(call, _form(x), dim, keepdim, is_mean=True)


def total(call: Call, x: Any, dim: Any = None, keepdim: bool = False) -> Form:
    """Over all sides of an image: as `avg_pool2d`."""
    return _over_image(call, _form(x), dim, keepdim, is_mean=False)


def _over_image(call: Call, form: Form, dim: Any, keepdim: bool, *, is_mean: bool) -> Form:
    n_sides = len(call.lead) + len(form.shape)
    dims = {side % n_sides - len(call.lead) for side in ((dim,) if isinstance(dim, int) else dim or ())}
    if len(form.shape) < 2 or dims != set(range(1, len(form.shape))):
        raise NotAMap("adds up over other sides than those of the image")
    image = form if len(form.shape) == 3 else _row(call, form)
    window = (image.shape[1], image.shape[2])
    share = 1.0 / (window[0] * window[1]) if is_mean else 1.0
    shape = (form.shape[0], *[1] * (len(form.shape) - 1)) if keepdim else form.shape[:1]
    pooled = linear_maps.average(call.module, image, kernel=window, stride=window, share=share)
    return moved(pooled, lambda values: values.reshape(shape))


def max_pool2d(
    call: Call, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Form:  # fmt: skip
    """Of spikes: a layer of neurons that fire where any of their inputs does."""
    if return_indices:
        raise NotAMap("tells where the largest is")
    kernel = pair(kernel_size)
    return linear_maps.any_of(
        call.module, _form(x), kernel=kernel, stride=_stride(stride, kernel), padding=pair(padding), dilation=pair(dilation),
        is_ceil=ceil_mode,
    )  # fmt: skip


def max_pool1d(
    call: Call, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False,
    return_indices: bool = False,
) -> Form:  # fmt: skip
    """As `max_pool2d`, of images of one row."""
    steps = None if stride in (None, ()) else (1, pair(stride)[0])
    window, pads, apart = (1, pair(kernel_size)[0]), (0, pair(padding)[0]), (1, pair(dilation)[0])
    return _line(max_pool2d(call, _row(call, x), window, steps, pads, apart, ceil_mode, return_indices))


def adaptive_max_pool2d(call: Call, x: Any, output_size: Any, return_indices: bool = False) -> Form:
    """As `max_pool2d`, where all windows are equal."""
    form = _form(x)
    windows = folding.equal_windows(call.module[1], linear_maps.image_of(call.module[1], form), output_size)
    return max_pool2d(call, form, windows, return_indices=return_indices)


def adaptive_max_pool1d(call: Call, x: Any, output_size: Any, return_indices: bool = False) -> Form:
    """As `max_pool1d`, where all windows are equal."""
    return _line(adaptive_max_pool2d(call, _row(call, x), (1, pair(output_size)[0]), return_indices))


def _stride(stride: Any, kernel: Pair) -> Pair:
    return kernel if stride in (None, (), []) else pair(stride)


# ---------------------------------------------------------------------------------------------- sums and factors


def add(call: Call, x: Any, other: Any, alpha: float = 1) -> Form:
    """Two connections into one layer; of a constant, a bias."""
    one, two = (value if isinstance(value, Form) else None for value in (x, other))
    if one is not None and two is not None:
        if one.shape != two.shape:
            raise NotAMap("spreads what it is given over more places")
        return added(one, two if alpha == 1 else scaled(call.module, two, np.asarray(float(alpha))))
    form = one if one is not None else two
    assert form is not None
    value = call.constant(other if one is not None else x, form.shape)
    if two is not None and alpha != 1:
        return added(scaled(call.module, form, np.asarray(float(alpha))), constant(value))
    return added(form, constant(value * (alpha if one is not None else 1)))


def sub(call: Call, x: Any, other: Any, alpha: float = 1) -> Form:
    """As `add`, the second negative."""
    return add(call, x, other, -alpha)


def rsub(call: Call, x: Any, other: Any, alpha: float = 1) -> Form:
    """As `sub`, turned round."""
    return add(call, other, x, -alpha)


def mul(call: Call, x: Any, other: Any) -> Form:
    """By a constant: scales the weights."""
    form, factor = (x, other) if isinstance(x, Form) else (other, x)
    return scaled(call.module, form, call.constant(_constant(factor), form.shape))


def div(call: Call, x: Any, other: Any) -> Form:
    """By a constant: scales the weights."""
    form = _form(x)
    return scaled(call.module, form, 1.0 / call.constant(_constant(other), form.shape))


def neg(call: Call, x: Any) -> Form:
    """Scales the weights by -1."""
    return scaled(call.module, _form(x), np.asarray(-1.0))


# ---------------------------------------------------------------------------------------------- arguments


def _form(value: Any) -> Form:
    if not isinstance(value, Form):
        raise NotAMap("weights what is no spike by what is")
    return value


def _constant(value: Any) -> Any:
    if isinstance(value, Form):
        raise NotAMap("multiplies what depends on spikes by what depends on spikes")
    return value


def _bias(call: Call, bias: Any) -> Floats | None:
    return None if bias is None else numbers(call.module[1], "bias", _constant(bias)).reshape(-1)


def _row(call: Call, value: Any) -> Form:
    """A line (channels, length) as an image of one row."""
    form = _form(value)
    if len(form.shape) != 2:
        raise ExtractError(call.module[1], f"looks at lines (channels, length), not at shape {form.shape}")
    return moved(form, lambda values: values[:, None])


def _line(form: Form) -> Form:
    return moved(form, lambda values: values[:, 0])


# -------------------- frontends.supported

MAPS: dict[str, Map] = {
    "linear": linear, "matmul": matmul, "mm": matmul,
    "conv2d": conv2d, "conv1d": conv1d,
    "batch_norm": batch_norm,
    "avg_pool2d": avg_pool2d, "avg_pool1d": avg_pool1d, "lp_pool2d": lp_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d, "adaptive_avg_pool1d": adaptive_avg_pool1d,
    "mean": mean, "sum": total,
    "add": add, "radd": add, "iadd": add,
    "sub": sub, "isub": sub, "subtract": sub, "rsub": rsub,
    "mul": mul, "rmul": mul, "imul": mul, "multiply": mul,
    "div": div, "truediv": div, "itruediv": div, "divide": div,
    "true_divide": div,
    "neg": neg, "negative": neg,
}  # fmt: skip
"""Functions, by the bare name that torch calls them by, that make a form of forms."""

OPERATORS = frozenset({"radd", "iadd", "isub", "rsub", "rmul", "imul", "truediv", "itruediv"})
"""How Python calls some of them."""

WITH_TIME = frozenset({"linear", "matmul", "add", "radd", "iadd", "sub", "isub", "rsub", "mul", "rmul", "imul", "div", "truediv"})
"""Those that do the same to a tensor (time, batch, ...) as step by step."""

MAXIMA: dict[str, Map] = {
    "max_pool2d": max_pool2d, "max_pool2d_with_indices": max_pool2d, "max_pool1d": max_pool1d,
    "max_pool1d_with_indices": max_pool1d, "adaptive_max_pool2d": adaptive_max_pool2d,
    "adaptive_max_pool2d_with_indices": adaptive_max_pool2d, "adaptive_max_pool1d": adaptive_max_pool1d,
    "adaptive_max_pool1d_with_indices": adaptive_max_pool1d,
}  # fmt: skip
"""Functions that become neurons; what these hear."""

MOVES = frozenset({
    "view", "reshape", "flatten", "unflatten", "ravel", "permute", "transpose", "t", "T", "mT", "swapaxes", "swapdims", "movedim",
    "moveaxis", "squeeze", "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind", "cat",
    "concat", "concatenate", "stack", "hstack", "vstack", "expand", "expand_as", "broadcast_to", "view_as", "reshape_as",
    "repeat", "tile", "repeat_interleave", "flip", "roll", "pad", "index_select", "channel_shuffle",
    "pixel_shuffle", "pixel_unshuffle", "adjoint",
})  # fmt: skip
"""Functions that put numbers elsewhere and leave them as they are."""

PICKS = frozenset({
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
    "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind",
})  # fmt: skip
"""Those by which a model may take steps out of its input, before it is known which side of it is time."""

ALIASES = frozenset({
    "clone", "detach", "contiguous", "float", "double", "to", "type", "type_as", "cpu", "cuda", "requires_grad", "data", "alias",
    "positive", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
})  # fmt: skip
"""Functions that give back what they are given, dropout in eval mode among them."""

DECIDES = frozenset({
    "__bool__", "__float__", "__int__", "__index__", "__contains__", "__array__", "item", "tolist", "numpy", "equal", "allclose",
    "is_nonzero",
})  # fmt: skip
"""Methods by which Python reads numbers out of a tensor, and may then do one thing or another."""

LIKE = frozenset({
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty",
    "new_full", "new_tensor",
})  # fmt: skip
"""Functions that look at a tensor's shape and type only."""


def rows() -> list[Row]:
    """What goes in, by name, and what becomes of it: a line for each reader, which says so itself, and for what passes."""
    cells = {kind.__name__: reader for kind, reader in READERS.items()}
    unnamed = OPERATORS | {name for name in MAXIMA if name.endswith("_with_indices")}
    return [
        *(row for table in (cells, MAPS, MAXIMA) for row in rows_of(table, unnamed)),
        (listed(MOVES), "Moves numbers: puts them elsewhere, leaves some out, or sets them side by side."),
        (listed(ALIASES), "Passes through; dropout in eval mode."),
    ]
