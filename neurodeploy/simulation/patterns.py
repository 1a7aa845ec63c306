"""A convolution as tables of what eight places of its window add up to, for spikes that are many.

Sums of several channels share a word of 64 bits. None disturbs its neighbour: a channel's sum begins at the magnitude of its
negative weights, so it never falls below zero nor rises above the sum of all magnitudes, and has as many bits as that needs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurodeploy.quantized import QuantizedConv
from neurodeploy.simulation.kernels.patterns import AT_ONCE, PLACES, Lookup

WORD_BITS = 64


def table_bytes(synapse: QuantizedConv) -> int:
    """What the tables take."""
    per_word = WORD_BITS // _bits(synapse)
    of_group = synapse.weight.shape[0] // synapse.groups
    return synapse.groups * -(-of_group // per_word) * _patterns_of_group(synapse) * (1 << PLACES) * WORD_BITS // 8


def lookup_of(synapse: QuantizedConv) -> Lookup:
    """The tables; exact for spikes, 0 or 1."""
    f, groups, bits = synapse.weight.shape[0], synapse.groups, _bits(synapse)
    per_word, of_group, n_patterns = WORD_BITS // bits, f // groups, _patterns_of_group(synapse)
    words_of_group = -(-of_group // per_word)
    weights = synapse.weight.reshape(f, -1).astype(np.int64)
    channel = np.arange(f)
    word = channel // of_group * words_of_group + channel % of_group // per_word
    shift = channel % of_group % per_word * bits
    less = np.maximum(-weights, 0).sum(axis=1)
    packed = np.zeros((groups * words_of_group, n_patterns * PLACES), dtype=np.int64)
    np.add.at(packed[:, : weights.shape[1]], word, weights << shift[:, np.newaxis])
    start = np.zeros(len(packed), dtype=np.int64)
    np.add.at(start, word, less << shift)
    patterns = np.arange(1 << PLACES)[:, np.newaxis] >> np.arange(PLACES) & 1
    table = packed.reshape(len(packed), n_patterns, PLACES) @ patterns.T
    image_shape, places = _places(synapse, n_patterns)
    return Lookup(
        synapse.input_shape, synapse.output_shape, synapse.stride, synapse.padding, image_shape, places,
        table.view(np.uint64), np.arange(len(packed)) // words_of_group * n_patterns, start.view(np.uint64),
        word, shift.astype(np.uint64), np.uint64((1 << bits) - 1), less.astype(np.int32),
    )  # fmt: skip


def _bits(synapse: QuantizedConv) -> int:
    """That the sum of a channel needs."""
    return max(1, int(np.abs(synapse.weight.astype(np.int64)).sum(axis=(1, 2, 3)).max()).bit_length())


def _patterns_of_group(synapse: QuantizedConv) -> int:
    """Of the window that a group of channels looks through; as many as are looked up in one go, or that times something."""
    places = int(np.prod(synapse.weight.shape[1:]))
    return -(-places // (PLACES * AT_ONCE)) * AT_ONCE


def _places(synapse: QuantizedConv, n_patterns: int) -> tuple[tuple[int, int, int, int, int], NDArray[np.int64]]:
    """The shape of the parted image, and where in it window 0 has its places, pattern by pattern."""
    _, c, height, width = synapse.weight.shape
    (s, t), (_, rows, columns) = synapse.stride, synapse.output_shape
    i, j = (np.arange(n) * dilation for n, dilation in zip((height, width), synapse.dilation, strict=True))
    shape = (synapse.input_shape[0], s, t, rows + int(i[-1]) // s, columns + int(j[-1]) // t)
    channel, i, j = np.ix_(np.arange(synapse.input_shape[0]), i, j)
    at = np.ravel_multi_index(np.broadcast_arrays(channel, i % s, j % t, i // s, j // t), shape)
    places = np.full((synapse.groups, n_patterns * PLACES), -1, dtype=np.int64)
    places[:, : c * height * width] = at.reshape(synapse.groups, -1)
    return shape, places.reshape(-1, PLACES)
