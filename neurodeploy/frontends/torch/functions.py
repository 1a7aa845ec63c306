"""Torch's functions on linear expressions: the dispatch tables of everything that may happen between neurons.

Arguments have torch's names, except the first, which torch calls `input`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from neurodeploy.errors import ExtractError
from neurodeploy.frontends import expressions
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, as_floats, constant, rearrange, scale
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair, equal_windows, pair, reaches_over
from neurodeploy.ir.network import Conv

PIXELS_AT_ONCE = 1024
"""Images of one pixel in a batch."""


class NotLinearError(Exception):
    """Signals that a call computes no weighted sum of spikes; its text is the reason, to follow the function's name."""


@dataclass(frozen=True)
class CallContext:
    """The module that calls a function, and the sizes in front of an expression's own shape: (batch,) or (time, batch)."""

    module: ModuleId
    lead: tuple[int, ...]

    def constant(self, value: Any, shape: tuple[int, ...]) -> Floats:
        """Return a number or tensor that is combined with an expression of this shape, broadcast to that shape."""
        array = np.asarray(torch.as_tensor(value).detach().cpu(), dtype=np.float64)
        if not np.isfinite(array).all():
            raise ExtractError(self.module[1], "has a constant that is not finite")
        try:
            whole = np.broadcast_to(array, (*self.lead, *shape))
        except ValueError:
            raise NotLinearError("broadcasts its input to a larger shape") from None
        rows = whole.reshape(-1, *shape)  # samples and steps in one dimension: all must have the same constant
        if (rows != rows[:1]).any():
            raise NotLinearError("has another constant for each sample")
        row: Floats = rows[0]
        return row

    def expression(self, value: Any) -> LinearExpression:
        """Return an argument that has to depend on spikes."""
        if not isinstance(value, LinearExpression):
            raise NotLinearError("multiplies constants by weights that depend on spikes")
        return value

    def independent(self, value: Any) -> Any:
        """Return an argument that must not depend on spikes."""
        if isinstance(value, LinearExpression):
            raise NotLinearError("multiplies two tensors that both depend on spikes")
        return value

    def weight(self, value: Any) -> Floats:
        """Return weights in double precision."""
        return as_floats(self.module[1], "weight", self.independent(value)).reshape(tuple(value.shape))

    def bias(self, value: Any) -> Floats | None:
        """Return a bias as (n,), if there is one."""
        return None if value is None else as_floats(self.module[1], "bias", self.independent(value)).reshape(-1)

    def image_shape(self, x: LinearExpression) -> tuple[int, int]:
        """Return (rows, columns) of images."""
        return x.image_shape(self.module[1])[1:]

    def line_as_image(self, value: Any) -> LinearExpression:
        """Return an argument (channels, length) as an image of one row."""
        x = self.expression(value)
        if len(x.shape) != 2:
            raise ExtractError(self.module[1], f"needs lines (channels, length), but its input has shape {x.shape}")
        return rearrange(x, lambda values: values[:, None])


LinearFunction: TypeAlias = "Callable[..., LinearExpression]"

# ---------------------------------------------------------------------------------------------- weights


def linear(call: CallContext, x: Any, weight: Any, bias: Any = None) -> LinearExpression:
    """A dense synapse; behind other weights, without neurons in between, it is the product."""
    return expressions.linear(call.module, call.expression(x), call.weight(weight), call.bias(bias))


def matmul(call: CallContext, x: Any, other: Any) -> LinearExpression:
    """A dense synapse, where the other factor is a matrix of weights."""
    if getattr(other, "ndim", 0) != 2:
        raise NotLinearError("multiplies by something that is not a matrix of weights")
    return linear(call, x, call.independent(other).T)  # x @ W, while a Linear computes x @ W.T


def conv2d(
    call: CallContext, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1,
) -> LinearExpression:  # fmt: skip
    """A convolution of any stride, padding, dilation and groups; behind weights, or with other padding than 0: a synapse list."""
    return expressions.convolution(
        call.module, call.expression(x), call.weight(weight), call.bias(bias), stride=pair(stride),
        padding="same" if padding == "same" else (0, 0) if padding == "valid" else pair(padding),
        dilation=pair(dilation), groups=groups,
    )  # fmt: skip


def conv_transpose2d(
    call: CallContext, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> LinearExpression:  # fmt: skip
    """The transpose of a convolution: a synapse list."""
    inputs, kernels = call.expression(x), call.weight(weight)
    geometry = {"stride": pair(stride), "padding": pair(padding), "dilation": pair(dilation)}
    sides = zip(call.image_shape(inputs), kernels.shape[2:], *geometry.values(), pair(output_padding), strict=True)
    # the formula in the documentation of torch.nn.ConvTranspose2d
    rows, columns = ((n - 1) * s - 2 * p + d * (k - 1) + more + 1 for n, k, s, p, d, more in sides)
    image = (kernels.shape[1] * groups, rows, columns)
    forward = Conv(weight=kernels, input_shape=image, groups=groups, **geometry)
    made = expressions.apply_matrix(call.module, inputs, forward.csr().T.tocsr(), image, has_weights=True)
    shift = call.bias(bias)
    return made if shift is None else expressions.add(made, constant(np.broadcast_to(shift[:, None, None], image)))


def batch_norm(
    call: CallContext,
    x: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001  # for training only, but part of the call
    eps: float = 1e-5,
) -> LinearExpression:
    """In eval mode: scales the weights in front of it, or behind it where there are none, and shifts the bias."""
    where, inputs = call.module[1], call.expression(x)
    if training or running_mean is None or running_var is None:  # such statistics depend on the batch, so no weights compute them
        raise ExtractError(where, "normalises by each batch anew", remedy="Train it with track_running_stats=True.")
    mean, spread = (as_floats(where, "statistics", values).reshape(-1) for values in (running_mean, running_var))
    gain, shift = 1.0 / np.sqrt(spread + eps), np.zeros_like(mean)  # y = (x - mean) / sqrt(var + eps) * weight + bias
    if weight is not None:
        gain = gain * as_floats(where, "weight", weight)
    if bias is not None:
        shift = shift + as_floats(where, "bias", bias)
    sides = (-1, *[1] * (len(inputs.shape) - 1))  # one number a channel
    normal = scale(call.module, inputs, gain.reshape(sides))
    return expressions.add(normal, constant(np.broadcast_to((shift - mean * gain).reshape(sides), inputs.shape)))


# ---------------------------------------------------------------------------------------------- pooling


def avg_pool2d(
    call: CallContext, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> LinearExpression:  # fmt: skip
    """Folds into the weights in front of it or behind it; alone, a convolution; with windows of several sizes, a synapse list."""
    inputs, kernel, sides = call.expression(x), pair(kernel_size), pair(padding)
    steps = _stride(stride, kernel)
    is_over = ceil_mode and reaches_over(call.image_shape(inputs), kernel, steps, sides, (1, 1))
    if is_over or (any(sides) and not count_include_pad):
        arguments = (kernel, steps, sides, ceil_mode, count_include_pad, divisor_override)
        return _each_channel(call, inputs, lambda pixels: functional.avg_pool2d(pixels, *arguments))
    share = 1.0 / (divisor_override or kernel[0] * kernel[1])  # torch refuses a divisor of 0
    return expressions.average_pool(call.module, inputs, kernel=kernel, stride=steps, padding=sides, share=share)


def adaptive_avg_pool2d(call: CallContext, x: Any, output_size: Any) -> LinearExpression:
    """As `avg_pool2d`."""
    inputs = call.expression(x)
    window = equal_windows(call.image_shape(inputs), output_size)
    if window is None:
        return _each_channel(call, inputs, lambda pixels: functional.adaptive_avg_pool2d(pixels, output_size))
    return avg_pool2d(call, inputs, window)


def lp_pool2d(
    call: CallContext, x: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> LinearExpression:
    """With norm 1, the sum over a window: as `avg_pool2d`."""
    if float(norm_type) != 1.0:  # torch sums x ** 1, signs and all, so norm 1 is a plain sum
        raise NotLinearError(f"takes the root of a sum of powers of {norm_type:g}")
    return avg_pool2d(call, x, kernel_size, stride, 0, ceil_mode, divisor_override=1)


def interpolate(call: CallContext, x: Any, *args: Any, **kwargs: Any) -> LinearExpression:
    """Resizes each channel, in any mode: a synapse list."""
    return _each_channel(call, call.expression(x), lambda pixels: functional.interpolate(pixels, *args, **kwargs))


def mean(call: CallContext, x: Any, dim: Any = None, keepdim: bool = False) -> LinearExpression:
    """Over all pixels of an image: as `avg_pool2d`; over other dimensions: a synapse list."""
    return _over_dimensions(call, call.expression(x), dim, keepdim, is_mean=True)


def total(call: CallContext, x: Any, dim: Any = None, keepdim: bool = False) -> LinearExpression:
    """As `mean`."""
    return _over_dimensions(call, call.expression(x), dim, keepdim, is_mean=False)


def _over_dimensions(call: CallContext, inputs: LinearExpression, dim: Any, keepdim: bool, *, is_mean: bool) -> LinearExpression:
    n_sides, shape = len(call.lead) + len(inputs.shape), inputs.shape
    # From the end, or with batch and time, to dimensions of the expression.
    dims = {side % n_sides - len(call.lead) for side in ((dim,) if isinstance(dim, int) else dim or range(n_sides))}
    if min(dims) < 0:
        raise NotLinearError("adds up over samples or steps")
    kept = tuple(1 if side in dims else n for side, n in enumerate(shape))
    out = kept if keepdim else tuple(n for side, n in enumerate(shape) if side not in dims) or (1,)
    share = np.prod(kept) / np.prod(shape) if is_mean else 1.0
    if len(shape) in (2, 3) and dims == set(range(1, len(shape))):
        image = inputs if len(shape) == 3 else call.line_as_image(inputs)
        window = (image.shape[1], image.shape[2])
        pooled = expressions.average_pool(call.module, image, kernel=window, stride=window, share=float(share))
        return rearrange(pooled, lambda values: values.reshape(out))
    from scipy.sparse import csr_matrix  # imported where lists are made: most models need none

    onto = np.broadcast_to(np.arange(np.prod(kept)).reshape(kept), shape).reshape(-1)
    matrix = csr_matrix((np.full(onto.size, share), (onto, np.arange(onto.size))), shape=(int(np.prod(kept)), onto.size))
    return expressions.apply_matrix(call.module, inputs, matrix, out)


def max_pool2d(
    call: CallContext, x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> LinearExpression:  # fmt: skip
    """Of spikes: a layer of neurons that fire where any of their inputs does."""
    if return_indices:
        raise NotLinearError("returns the positions of the maxima")
    inputs, kernel, sides, apart = call.expression(x), pair(kernel_size), pair(padding), pair(dilation)
    steps = _stride(stride, kernel)
    expressions.require_spikes(call.module, inputs)
    if ceil_mode and reaches_over(call.image_shape(inputs), kernel, steps, sides, apart):
        # max pooling of an image of one pixel is 1 in the windows over it, so that a neuron's input is its window's spikes
        return _each_channel(call, inputs, lambda pixels: functional.max_pool2d(pixels, kernel, steps, sides, apart, ceil_mode))
    return expressions.spike_count(call.module, inputs, kernel=kernel, stride=steps, padding=sides, dilation=apart)


def adaptive_max_pool2d(call: CallContext, x: Any, output_size: Any, return_indices: bool = False) -> LinearExpression:
    """As `max_pool2d`."""
    inputs = call.expression(x)
    if (window := equal_windows(call.image_shape(inputs), output_size)) is not None or return_indices:
        return max_pool2d(call, inputs, window or 1, return_indices=return_indices)
    expressions.require_spikes(call.module, inputs)
    return _each_channel(call, inputs, lambda pixels: functional.adaptive_max_pool2d(pixels, output_size))


def _each_channel(call: CallContext, x: LinearExpression, function: Callable[[torch.Tensor], torch.Tensor]) -> LinearExpression:
    """Apply a linear function that treats all channels the same; its matrix is its response to images of one pixel."""
    from scipy.sparse import csr_matrix, identity, kron, vstack

    sides, n = x.shape[1:], int(np.prod(x.shape[1:]))
    responses, shape = [], x.shape
    for first in range(0, n, PIXELS_AT_ONCE):
        pixels = torch.zeros(min(PIXELS_AT_ONCE, n - first), n, dtype=torch.float64)
        pixels[:, first:].fill_diagonal_(1.0)
        with torch.no_grad():
            made = function(pixels.reshape(-1, 1, *sides))
        shape = (x.shape[0], *made.shape[2:])
        responses.append(csr_matrix(made.reshape(len(pixels), -1).numpy()))
    matrix = kron(identity(x.shape[0]), vstack(responses).T, format="csr")
    return expressions.apply_matrix(call.module, x, matrix, shape)


def of_lines(function: LinearFunction) -> LinearFunction:
    """Return a function of images as one of lines (channels, length), which are images of one row."""
    across = {"kernel_size": 1, "stride": 1, "dilation": 1, "output_size": 1, "padding": 0, "output_padding": 0}
    signature = inspect.signature(function)

    def apply(call: CallContext, x: Any, *args: Any, **kwargs: Any) -> LinearExpression:
        values = signature.bind(call, call.line_as_image(x), *args, **kwargs).arguments
        for name in across.keys() & values.keys():
            if values[name] not in (None, (), []) and not isinstance(values[name], str):
                values[name] = (across[name], pair(values[name])[0])
        if "weight" in values:  # (out, in, length) to (out, in, 1, length)
            values["weight"] = call.independent(values["weight"]).unsqueeze(2)
        return rearrange(function(**values), lambda image: image[:, 0])

    apply.__doc__ = f"As `{function.__name__}`, of images of one row."
    return apply


def both(call: CallContext, x: Any, other: Any) -> LinearExpression:
    """Of two populations' spikes, or their complements: a layer of neurons that fire where both are 1."""
    return add(call, either(call, x, other), -1.0)


def either(call: CallContext, x: Any, other: Any) -> LinearExpression:
    """Of two populations' spikes, or their complements: a layer of neurons that fire where any is 1."""
    if not all(one.is_spikes or rsub(call, one, 1.0).is_spikes for one in (call.expression(x), call.expression(other))):
        raise NotLinearError("takes two tensors that both depend on spikes, and are not spikes themselves")
    return add(call, x, other)


def at_most_one(call: CallContext, x: Any, min: Any = None, max: Any = None) -> LinearExpression:  # noqa: A002  # torch's own names
    """Of a sum of spikes, with a maximum of 1: a layer of neurons that fire where any of them is 1."""
    inputs = call.expression(x)
    is_count = all(term.synapse is None and bool((term.gain == 1).all()) for term in inputs.terms) and not inputs.bias.any()
    if not is_count or max is None or float(max) != 1.0 or (min is not None and float(min) > 0):
        raise NotLinearError("is not supported")
    return inputs


def _stride(stride: Any, kernel: Pair) -> Pair:
    return kernel if stride in (None, (), []) else pair(stride)  # torch's low-level functions pass an empty list for None


# ---------------------------------------------------------------------------------------------- sums and factors


def add(call: CallContext, x: Any, other: Any, alpha: float = 1) -> LinearExpression:
    """Two connections into one layer; a constant becomes a bias."""
    one, two = (value if isinstance(value, LinearExpression) else None for value in (x, other))
    if one is not None and two is not None:
        if one.shape != two.shape:
            raise NotLinearError("broadcasts its input to a larger shape")
        # Torch: x + alpha * other.
        return expressions.add(one, two if alpha == 1 else scale(call.module, two, np.asarray(float(alpha))))
    inputs = one if one is not None else two
    assert inputs is not None
    value = call.constant(other if one is not None else x, inputs.shape)
    if two is not None and alpha != 1:  # the constant is the first operand, which alpha does not scale
        return expressions.add(scale(call.module, inputs, np.asarray(float(alpha))), constant(value))
    return expressions.add(inputs, constant(value * (alpha if one is not None else 1)))


def sub(call: CallContext, x: Any, other: Any, alpha: float = 1) -> LinearExpression:
    """As `add`, the second operand negative."""
    return add(call, x, other, -alpha)


def rsub(call: CallContext, x: Any, other: Any, alpha: float = 1) -> LinearExpression:
    """As `sub`, with the operands swapped."""
    return add(call, other, x, -alpha)  # torch.rsub(x, other) is other - alpha * x


def mul(call: CallContext, x: Any, other: Any) -> LinearExpression:
    """By a constant: scales the weights."""
    inputs, factor = (x, other) if isinstance(x, LinearExpression) else (other, x)  # either operand may be the constant
    return scale(call.module, inputs, call.constant(call.independent(factor), inputs.shape))


def div(call: CallContext, x: Any, other: Any) -> LinearExpression:
    """By a constant: scales the weights."""
    inputs = call.expression(x)
    return scale(call.module, inputs, 1.0 / call.constant(call.independent(other), inputs.shape))


def neg(call: CallContext, x: Any) -> LinearExpression:
    """Scales the weights by -1."""
    return scale(call.module, call.expression(x), np.asarray(-1.0))


def complement(call: CallContext, x: Any) -> LinearExpression:
    """Of spikes: 1 where there is none."""
    inverse = rsub(call, call.expression(x), 1.0)
    if not (x.is_spikes or inverse.is_spikes):
        raise NotLinearError("is not supported")
    return inverse


def selects_steps(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call takes steps out of a tensor (time, batch, ...)."""
    if name == "getitem":
        return isinstance(args[1], int)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return dim == 0 and (name == "unbind" or (len(args) == 3 and isinstance(args[2], int)))


def of_one_sample(tensor: torch.Tensor, lead: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the part of a tensor (\\*lead, \\*shape) that each sample and step has; all must have the same."""
    if tuple(tensor.shape[: len(lead)]) != lead or tensor.ndim == len(lead):
        raise NotLinearError("mixes samples or steps")
    rows = tensor.reshape(-1, *tensor.shape[len(lead) :])
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        raise NotLinearError("mixes samples or steps")
    return np.array(rows[0].numpy())


def names_of(func: Any) -> tuple[str, str]:
    """Return torch's name of a function, and the name of its reader: `__add__`, `add_` and `add` have one."""
    full = getattr(func, "__name__", "")
    full = str(func.__self__.__name__ if full == "__get__" else full)  # a property such as T
    return full, full.strip("_")


# ------------------------------------------------------------------------------------------------------- dispatch tables

LINEAR_FUNCTIONS: dict[str, LinearFunction] = {
    "linear": linear, "matmul": matmul, "mm": matmul, "conv2d": conv2d, "conv1d": of_lines(conv2d),
    "conv_transpose2d": conv_transpose2d, "conv_transpose1d": of_lines(conv_transpose2d), "batch_norm": batch_norm,
    "avg_pool2d": avg_pool2d, "avg_pool1d": of_lines(avg_pool2d), "lp_pool2d": lp_pool2d,
    "adaptive_avg_pool2d": adaptive_avg_pool2d, "adaptive_avg_pool1d": of_lines(adaptive_avg_pool2d),
    "interpolate": interpolate, "mean": mean, "sum": total,
    "add": add, "radd": add, "iadd": add,
    "sub": sub, "isub": sub, "subtract": sub, "rsub": rsub,
    "mul": mul, "rmul": mul, "imul": mul, "multiply": mul,
    "div": div, "truediv": div, "itruediv": div, "divide": div, "true_divide": div,
    "neg": neg, "negative": neg,
    "logical_not": complement, "invert": complement, "bitwise_not": complement,
}  # fmt: skip
"""Linear functions, by torch's name without underscores."""

OPERATORS = frozenset({
    "radd", "iadd", "isub", "rsub", "rmul", "imul", "truediv", "itruediv", "invert", "and", "rand", "or", "ror",
})  # fmt: skip
"""Names of Python operators among them, which the support table leaves out."""

# Others, such as poolings and convolutions, take the first dimension for the batch or the channels: one for time shifts it.
WITH_TIME = frozenset({"linear", "matmul", "add", "radd", "iadd", "sub", "isub", "rsub", "mul", "rmul", "imul", "div", "truediv"})
"""Linear functions that give the same for a tensor (time, batch, ...) as step by step."""

_ACTIVATIONS = "relu relu6 leaky_relu prelu elu celu selu gelu silu mish softplus sigmoid hardsigmoid tanh hardtanh hardswish"
_WAYS_ROUND = {
    _ACTIVATIONS: "Put spiking neurons in its place; in front of neurons, leave it out.",
    "conv3d": "Put time outside: Conv2d at each step, and neurons that remember; delays by spikes of earlier steps.",
    "layer_norm group_norm instance_norm rms_norm": "Use BatchNorm, whose numbers are fixed after training, and train again.",
    "softmax log_softmax": "Leave it out between neurons; behind the last ones the host computes it.",
    "lstm gru rnn_tanh rnn_relu": "Use LIFRecurrentCell: neurons that receive their own spikes.",
    "bmm bilinear scaled_dot_product_attention": "Use fixed weights; two tensors of spikes may be joined by sum, and, or.",
}
WAYS_ROUND = {name: way for names, way in _WAYS_ROUND.items() for name in names.split()}
"""What to do instead of a function; other errors name the table of those that are supported."""

WITH_WEIGHTS = frozenset({
    "linear", "matmul", "mm", "bmm", "addmm", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
})  # fmt: skip
"""Functions that have weights."""

SPIKE_FUNCTIONS: dict[str, LinearFunction] = {
    "max_pool2d": max_pool2d, "max_pool2d_with_indices": max_pool2d, "max_pool1d": of_lines(max_pool2d),
    "max_pool1d_with_indices": of_lines(max_pool2d), "adaptive_max_pool2d": adaptive_max_pool2d,
    "adaptive_max_pool2d_with_indices": adaptive_max_pool2d, "adaptive_max_pool1d": of_lines(adaptive_max_pool2d),
    "adaptive_max_pool1d_with_indices": of_lines(adaptive_max_pool2d),
    "mul": both, "rmul": both, "imul": both, "multiply": both,
    "logical_and": both, "bitwise_and": both, "and": both, "rand": both,
    "maximum": either, "max": either, "logical_or": either, "or": either, "ror": either, "bitwise_or": either,
    "clamp": at_most_one, "clamp_max": at_most_one, "clip": at_most_one,
}  # fmt: skip
"""Functions of spikes that become neurons, and the expression that these receive: above 1/2 where they fire."""

REARRANGEMENTS = frozenset({
    "view", "reshape", "flatten", "unflatten", "ravel", "permute", "transpose", "t", "T", "mT", "swapaxes", "swapdims", "movedim",
    "moveaxis", "squeeze", "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind", "cat",
    "concat", "concatenate", "stack", "hstack", "vstack", "expand", "expand_as", "broadcast_to", "view_as", "reshape_as",
    "repeat", "tile", "repeat_interleave", "flip", "roll", "pad", "index_select", "channel_shuffle",
    "pixel_shuffle", "pixel_unshuffle", "adjoint",
})  # fmt: skip
"""Functions that reorder, repeat, leave out or concatenate elements, without changing them."""

STEP_SELECTIONS = frozenset({
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
    "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind",
})  # fmt: skip
"""Rearrangements by which a model may take steps out of its input, before it is known which dimension is time."""

COMPARISONS: dict[str, tuple[bool, bool]] = {
    "gt": (True, False), "greater": (True, False), "ge": (True, True), "greater_equal": (True, True), "heaviside": (True, False),
    "lt": (False, False), "less": (False, False), "le": (False, True), "less_equal": (False, True),
}  # fmt: skip
"""Functions that make spikes of a membrane: whether they are 1 where the first argument is larger, and where both are equal."""

CASTS = frozenset({"float", "double", "to", "type", "type_as", "bool"})
"""Functions that change the type of a tensor."""

ELEMENTWISE = CASTS | frozenset(COMPARISONS) | frozenset({
    "add", "radd", "iadd", "sub", "isub", "rsub", "subtract", "mul", "rmul", "imul", "multiply", "div", "truediv", "itruediv",
    "divide", "true_divide", "neg", "negative", "where", "masked_fill", "setitem", "clamp", "clamp_min", "clamp_max", "clip",
    "relu", "minimum", "maximum", "abs", "square", "pow", "lerp", "addcmul", "sigmoid", "tanh", "exp", "eq", "ne",
    "logical_not", "invert", "logical_and", "and", "rand", "logical_or", "or", "ror", "bitwise_not", "bitwise_and", "bitwise_or",
    "clone", "detach", "contiguous", "data", "cpu", "alias", "requires_grad", "positive",
})  # fmt: skip
"""Functions of which a model may compute neurons of its own: each element depends on the same element of the arguments."""

IDENTITIES = frozenset({
    "clone", "detach", "contiguous", "float", "double", "to", "type", "type_as", "cpu", "cuda", "requires_grad", "data", "alias",
    "positive", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
})  # fmt: skip
"""Functions that return their input unchanged, dropout in eval mode among them."""

# The run follows one branch only; the network would be right for the random sample alone.
DATA_DEPENDENT = frozenset({
    "__bool__", "__float__", "__int__", "__index__", "__contains__", "__array__", "item", "tolist", "numpy", "equal", "allclose",
    "is_nonzero",
})  # fmt: skip
"""Methods that hand numbers to Python, which may then branch on them."""

SHAPE_ONLY = frozenset({
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty",
    "new_full", "new_tensor",
})  # fmt: skip
"""Functions that use only a tensor's shape and type."""
