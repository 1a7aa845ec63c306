"""What NIR's nodes without a state make of a sum of spikes: `linear_maps` for its primitives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from neurodeploy.errors import ExtractError
from neurodeploy.frontends import linear_maps
from neurodeploy.frontends.expressions import Form, moved, scaled
from neurodeploy.frontends.nir.file import PASSES, Node
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair


def passed(node: Node, form: Form, dt: float) -> Form:
    """What a node of a kind in `MAPS` gives for what it hears.

    Raises
    ------
    ExtractError
        It does not fit what it hears, or no synapses compute it.
    """
    return MAPS[node.kind](node, form, dt)


def _linear(node: Node, form: Form, _dt: float) -> Form:
    """A dense synapse; an Affine with a bias."""
    weight = node.numbers("weight")
    if weight.ndim != 2:
        raise ExtractError(node.where, f"its weight has shape {weight.shape}, not (n_out, n_in)", remedy="Write one matrix.")
    bias = node.numbers("bias").reshape(-1) if node.kind == "Affine" else None
    if bias is not None and bias.size not in (1, len(weight)):
        raise ExtractError(node.where, f"its bias has {bias.size} numbers, its weight {len(weight)} rows")
    if form.bias.size != weight.shape[1]:
        raise ExtractError(node.where, f"expects {weight.shape[1]} inputs, but hears something of shape {form.shape}")
    return linear_maps.linear(_module(node), _reshaped(form, (-1,)), weight, bias)


def _conv2d(node: Node, form: Form, _dt: float) -> Form:
    """A convolution of any stride, padding, dilation and groups."""
    weight = _kernel(node, 4)
    stride, dilation = _pair(node, "stride", 1), _pair(node, "dilation", 1)
    return _convolved(node, _image(form, 3), weight, stride, dilation, _padding(node, weight.shape[2:], dilation))


def _conv1d(node: Node, form: Form, _dt: float) -> Form:
    """A convolution of images of one row."""
    weight = _kernel(node, 3)[:, :, None]
    lines = _image(form, 2)
    if len(lines.shape) != 2:
        raise ExtractError(node.where, f"looks at lines (channels, n), not at shape {form.shape}")
    stride, dilation = ((1, *node.whole(key, 1, 1)) for key in ("stride", "dilation"))
    padding = (0, _padding(node, weight.shape[3:], dilation[1:])[0])
    image = _reshaped(lines, (lines.shape[0], 1, lines.shape[1]))
    out = _convolved(node, image, weight, (1, stride[1]), (1, dilation[1]), padding)
    return _reshaped(out, (out.shape[0], out.shape[2]))


def _convolved(node: Node, image: Form, weight: Floats, stride: Pair, dilation: Pair, padding: tuple[int, ...]) -> Form:
    groups = node.whole("groups", 1, 1)[0]
    if len(image.shape) == 3 and image.shape[0] != weight.shape[1] * groups:
        raise ExtractError(node.where, f"expects {weight.shape[1] * groups} channels, but hears something of shape {image.shape}")
    bias = np.broadcast_to(node.numbers("bias", 0.0).reshape(-1), len(weight))
    around = (padding[0], padding[-1])
    return linear_maps.convolution(
        _module(node), image, weight, bias, stride=stride, padding=around, dilation=dilation, groups=groups
    )  # fmt: skip


def _kernel(node: Node, ndim: int) -> Floats:
    weight = node.numbers("weight")
    if weight.ndim != ndim:
        raise ExtractError(node.where, f"its weight has shape {weight.shape}, not {ndim} sides")
    return weight


def _padding(node: Node, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Pixels added at each end; NIR has the words of torch too."""
    said = node.said.get("padding", 0)
    if not isinstance(said, str):
        return node.whole("padding", len(kernel), 0)
    if said == "valid":
        return (0,) * len(kernel)
    if said != "same":
        raise ExtractError(node.where, f"its padding is {said!r}, not 'valid', 'same' or numbers")
    around = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if any(total % 2 for total in around):
        raise ExtractError(
            node.where, "pads one side more than the other ('same' with an even window)", remedy="Pad by a number."
        )
    return tuple(total // 2 for total in around)


def _pooled(node: Node, form: Form, _dt: float) -> Form:
    """Folds into the weights behind it, or is a convolution."""
    kernel = _pair(node, "kernel_size", None)
    share = 1.0 if node.kind == "SumPool2d" else 1.0 / (kernel[0] * kernel[1])
    stride, padding = _pair(node, "stride", None), _pair(node, "padding", 0)
    return linear_maps.average(_module(node), _image(form, 3), kernel=kernel, stride=stride, padding=padding, share=share)


def _flattened(node: Node, form: Form, _dt: float) -> Form:
    """Moves numbers: sides become one."""
    first, last = (node.whole(key, 1, default)[0] for key, default in (("start_dim", 1), ("end_dim", -1)))
    ndim = len(form.shape)
    first, last = (side + ndim if side < 0 else side for side in (first, last))
    if not 0 <= first < ndim or last >= ndim:
        raise ExtractError(node.where, f"flattens sides {first}..{last} of something of shape {form.shape}")
    return _reshaped(form, (*form.shape[:first], int(np.prod(form.shape[first : last + 1])), *form.shape[last + 1 :]))


def _scaled(node: Node, form: Form, _dt: float) -> Form:
    """Scales the weights behind it."""
    return scaled(_module(node), form, _laid_out(node.each("scale", form.shape), form.shape))


def _laid_out(values: Floats, shape: tuple[int, ...]) -> Floats:
    return values.reshape(shape) if values.shape else values


def _delayed(node: Node, form: Form, dt: float) -> Form:
    """Whole steps, a connection for each: one for all, or for each place its own."""
    steps = _laid_out(node.each("delay", form.shape) / dt, form.shape)
    whole = np.rint(steps)
    if (np.abs(steps - whole) > 1e-6 * np.maximum(whole, 1)).any() or (whole < 0).any():
        worst = steps.reshape(-1)[np.argmax(np.abs(steps - whole))]
        raise ExtractError(
            node.where, f"delays by {worst:g} steps of {dt:g}", source="a chip delays by whole steps",
            remedy="Give a dt that all delays are multiples of, or round them.",
        )  # fmt: skip
    if form.bias.any() and whole.any():
        raise ExtractError(
            node.where, "delays a bias, which a network has from its first step on", remedy="Put the Delay before it."
        )
    places = np.broadcast_to(whole, form.shape).astype(np.int64)
    terms = [
        replace(term, at=term.at - int(late), places=np.where(places == late, term.places, 0))
        for term in form.terms for late in np.unique(places[term.places > 0])
    ]  # fmt: skip
    return replace(form, terms=tuple(terms))


def _same(_node: Node, form: Form, _dt: float) -> Form:
    return form


MAPS: dict[str, Callable[[Node, Form, float], Form]] = {
    "Affine": _linear,
    "Linear": _linear,
    "Conv1d": _conv1d,
    "Conv2d": _conv2d,
    "SumPool2d": _pooled,
    "AvgPool2d": _pooled,
    "Flatten": _flattened,
    "Scale": _scaled,
    "Delay": _delayed,
    PASSES: _same,
}


def _module(node: Node) -> tuple[str, str]:
    return node.name, node.where


def _pair(node: Node, key: str, default: int | None) -> Pair:
    rows, columns = node.whole(key, 2, default)
    return rows, columns


def _image(form: Form, ndim: int) -> Form:
    """The form without a batch of one in front."""
    return _reshaped(form, form.shape[1:]) if len(form.shape) == ndim + 1 and form.shape[0] == 1 else form


def _reshaped(form: Form, shape: tuple[int, ...]) -> Form:
    return moved(form, lambda values: values.reshape(shape)) if form.shape != shape else form
