"""What linear modules make of a form: matrices, convolutions, pooling, each exactly, or refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from neurodeploy.errors import ExtractError
from neurodeploy.frontends import expressions as folding
from neurodeploy.frontends.expressions import Form, Term, Where
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Pair
from neurodeploy.ir.network import Conv, Dense


def linear(module: Where, form: Form, matrix: Floats, bias: Floats | None) -> Form:
    """A matrix (n_out, n_in), and a bias (n_out,), behind a form (n_in,)."""
    name, where = module
    if len(form.shape) != 1:
        raise ExtractError(
            where, f"would act on the last side of an input of shape {form.shape} only", remedy="Put a Flatten before it."
        )
    terms = []
    for term in form.terms:
        _check_first(term, where)
        columns = matrix
        if not term.is_in_order:
            columns, taken = np.zeros((len(matrix), term.n_out)), term.places > 0
            np.add.at(columns.T, term.places[taken] - 1, matrix.T[taken])
        synapse = _behind(where, term, columns)
        places = np.arange(1, len(matrix) + 1)
        terms.append(Term(source=term.source, n=term.n, at=term.at, places=places, synapse=synapse, name=name, where=where))
    constants = matrix @ form.bias if form.bias.any() else np.zeros(len(matrix))
    return Form(terms=tuple(terms), bias=constants if bias is None else constants + bias)


def _behind(where: str, term: Term, matrix: Floats) -> Dense | Conv:
    """A matrix on a term: behind an average over the whole image a window as large as that, for whose axons pixels suffice."""
    pool, is_scaled = term.synapse, bool((term.gain != 1).any())
    if isinstance(pool, Conv) and pool.output_shape[1:] == (1, 1):
        each = Conv(weight=matrix[:, :, None, None], input_shape=pool.output_shape)
        conv = folding.behind_average(where, pool, each)
        return replace(conv, weight=_gained(where, conv, term.gain)) if is_scaled else conv
    columns = folding.matrix_behind_average(matrix, pool) if isinstance(pool, Conv) else matrix
    return Dense(weight=columns * term.gain if is_scaled else columns)


def _check_first(term: Term, where: str) -> None:
    if term.has_weights:
        raise ExtractError(where, f"follows {term.where} with no neurons between them", remedy="Merge them.")


# ---------------------------------------------------------------------------------------------- through windows


def convolution(
    module: Where, form: Form, weight: Floats, bias: Floats | None, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Form:
    """A convolution, weights (out, in / groups, rows, columns) and bias (out,), behind a form (channels, rows, columns)."""
    name, where = module
    image = image_of(where, form)
    wiring = {"stride": stride, "padding": padding, "dilation": dilation}
    whole = Conv(weight=weight, input_shape=image, groups=groups, **wiring)
    terms = []
    for term in form.terms:
        _check_first(term, where)
        channels = term.channels(where)
        source = (term.n_out // (image[1] * image[2]), *image[1:])
        seen, seen_groups = weight, groups
        if not np.array_equal(channels, np.arange(source[0])):
            full, seen_groups = _ungrouped(weight, groups), 1
            seen = np.zeros((len(full), source[0], *full.shape[2:]))
            np.add.at(seen.swapaxes(0, 1), channels[channels >= 0], full.swapaxes(0, 1)[channels >= 0])
        conv = Conv(weight=seen, input_shape=source, groups=seen_groups, **wiring)
        if isinstance(term.synapse, Conv):
            conv = folding.behind_average(where, term.synapse, conv)
        if (term.gain != 1).any():
            conv = replace(conv, weight=_gained(where, conv, term.gain))
        places = np.arange(1, conv.n_out + 1).reshape(conv.output_shape)
        terms.append(Term(source=term.source, n=term.n, at=term.at, places=places, synapse=conv, name=name, where=where))
    constants = np.zeros(whole.output_shape)
    if form.bias.any():
        constants += np.asarray(
            torch.conv2d(_tensor(form.bias), _tensor(weight), stride=stride, padding=padding, dilation=dilation, groups=groups)
        )
    return Form(terms=tuple(terms), bias=constants if bias is None else constants + bias.reshape(-1, 1, 1))


def _gained(where: str, conv: Conv, gain: Floats) -> Floats:
    """Its weights, with those from each channel scaled."""
    if not gain.shape:
        return conv.weight * gain
    channels = gain.reshape(conv.input_shape[0], -1)
    if (channels != channels[:, :1]).any():
        raise ExtractError(where, "looks at an image whose pixels are scaled differently within a channel")
    f, c = conv.weight.shape[:2]
    per_group = np.repeat(channels[:, 0].reshape(conv.groups, c), f // conv.groups, axis=0)
    weight: Floats = conv.weight * per_group[:, :, None, None]
    return weight


def _ungrouped(weight: Floats, groups: int) -> Floats:
    """The weights of a convolution in groups, as those of one without, zeros between the groups."""
    f, c = weight.shape[:2]
    full = np.zeros((f, c * groups, *weight.shape[2:]))
    for group in range(groups):
        outs = slice(group * f // groups, (group + 1) * f // groups)
        full[outs, group * c : (group + 1) * c] = weight[outs]
    return full


def average(
    module: Where, form: Form, *, kernel: Pair, stride: Pair, padding: Pair = (0, 0), share: float, is_ceil: bool = False,
    counts_padding: bool = True,
) -> Form:  # fmt: skip
    """Pooling that adds up `share` of each pixel of its window, behind a form (channels, rows, columns)."""
    name, where = module
    image = image_of(where, form)
    if any(padding) and (not counts_padding or any(term.has_weights for term in form.terms)):
        raise ExtractError(
            where, "averages over fewer pixels at the border than elsewhere", remedy="Pool without padding, or pad before."
        )
    whole = folding.average_window(image, kernel, stride, padding, share)
    folding.check_ceil(where, is_ceil, whole)
    terms = []
    for term in form.terms:
        if isinstance(term.synapse, Dense):
            raise ExtractError(where, f"averages what {term.where} gives, which is no image", remedy="Use a convolution there.")
        channels = term.channels(where)
        pool = folding.average_window((term.n_out // (image[1] * image[2]), *image[1:]), kernel, stride, padding, share)
        pooled = pool if term.synapse is None else folding.average_of(where, term.synapse, pool)
        pixels = np.arange(1, pooled.output_shape[1] * pooled.output_shape[2] + 1).reshape(pooled.output_shape[1:])
        places = np.where(channels[:, None, None] >= 0, channels[:, None, None] * pixels.size + pixels, 0)
        named = term if term.synapse is not None else replace(term, name=name, where=where)
        terms.append(replace(named, places=places, synapse=pooled, is_pool=not term.has_weights))
    windows = torch.nn.functional.avg_pool2d(_tensor(form.bias), kernel, stride, padding, divisor_override=1)
    return Form(terms=tuple(terms), bias=np.asarray(windows) * share)


def any_of(
    module: Where, form: Form, *, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, is_ceil: bool = False
) -> Form:
    """How many of the pixels of a max pooling's window hold a spike."""
    _, where = module
    image = image_of(where, form)
    if not form.is_spikes:
        whence = next((term.where for term in form.terms if term.where), "a sum")
        raise ExtractError(
            where, f"takes the largest of what {whence} gives, which are no spikes",
            remedy="Put it behind a cell, or use AvgPool2d.",
        )  # fmt: skip
    ones = np.ones((image[0], 1, *kernel))
    window = Conv(weight=ones, input_shape=image, stride=stride, padding=padding, dilation=dilation, groups=image[0])
    folding.check_ceil(where, is_ceil, window)
    return convolution(module, form, ones, None, stride=stride, padding=padding, dilation=dilation, groups=image[0])


def image_of(where: str, form: Form) -> tuple[int, int, int]:
    """The shape of a form (channels, rows, columns)."""
    if len(form.shape) != 3:
        raise ExtractError(where, f"looks at images (channels, rows, columns), not at shape {form.shape}")
    return form.shape[0], form.shape[1], form.shape[2]


def _tensor(values: Floats) -> torch.Tensor:
    return torch.from_numpy(np.array(values))
