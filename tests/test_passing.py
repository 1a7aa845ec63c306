"""Every way through a synapse beside the plain matrix product: drawn windows, weights at the ends of their range, all firing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from neurodeploy.ir.connectivity import product_of
from neurodeploy.ir.quantized import QuantizedConv, QuantizedDense, QuantizedSparse, QuantizedSynapse
from neurodeploy.simulation.kernel_dispatch import KernelDispatch, kernels_of

WEIGHTS = {"least": [-255], "most": [255], "both ends": [-254, 254], "none": [0], "any": range(-254, 255, 2)}
"""What weights are drawn from: of one sign up to 255, of both signs even, up to 254."""


def drawn_weights(shape: tuple[int, ...], kind: str, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).choice(WEIGHTS[kind], shape)


def drawn_rows(n_rows: int, n: int, rate: float, seed: int) -> NDArray[np.uint8]:
    """Rows as the emulator has them: a number of bytes that eight divides; the last are nobody's, and must not matter."""
    rng = np.random.default_rng(seed)
    rows = (rng.random((n_rows, -(-n // 8) * 8)) < rate).astype(np.uint8)
    rows[:, n:] = 0
    return rows


def check_all_ways(synapse: QuantizedSynapse, rows: NDArray[np.uint8]) -> None:
    before = np.arange(len(rows) * synapse.n_out, dtype=np.int32).reshape(len(rows), -1)
    plain = before + product_of(synapse, np.float64)(rows[:, : synapse.n_in]).astype(np.int32)
    for kernel in (*kernels_of(synapse), "gemm"):
        arriving = before.copy()
        KernelDispatch(synapse, np.float64, kernel).add(rows, arriving)
        np.testing.assert_array_equal(arriving, plain, err_msg=kernel)


@st.composite
def convolutions(draw: st.DrawFn) -> QuantizedConv:
    """Windows up to 5 x 5 over images up to 11 x 19, every stride, padding, dilation and grouping that fits."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    image = (groups * per_group, draw(st.integers(1, 11)), draw(st.integers(1, 19)))
    pairs = (st.tuples(each, each) for each in (st.integers(1, 4), st.integers(0, 3), st.integers(1, 3)))
    stride, padding, dilation = (draw(each) for each in pairs)
    room = [(n + 2 * p - 1) // d + 1 for n, p, d in zip(image[1:], padding, dilation, strict=True)]
    kernel = [draw(st.integers(1, min(5, side))) for side in room]
    weight = drawn_weights(
        (groups * draw(st.integers(1, 9)), per_group, *kernel), draw(st.sampled_from(sorted(WEIGHTS))), draw(st.integers(0, 99))
    )
    return QuantizedConv(
        weight=weight, weight_bits=9, input_shape=image, stride=stride, padding=padding, dilation=dilation, groups=groups
    )  # fmt: skip


@st.composite
def lists(draw: st.DrawFn) -> QuantizedDense | QuantizedSparse:
    """Up to 50 inputs and 70 neurons, from none of the synapses to all of them."""
    n_in, n_out = draw(st.integers(1, 50)), draw(st.integers(1, 70))
    seed = draw(st.integers(0, 99))
    exist = np.random.default_rng(seed).random((n_out, n_in)) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    weight = drawn_weights((n_out, n_in), draw(st.sampled_from(sorted(WEIGHTS))), seed) * exist
    if draw(st.booleans()):
        return QuantizedDense(weight=weight, weight_bits=9)
    starts = np.concatenate([[0], np.cumsum(exist.sum(axis=1))])
    return QuantizedSparse(n_in=n_in, starts=starts, sources=np.nonzero(exist)[1], weight=weight[exist], weight_bits=9)


@examples(100)
@given(synapse=lists(), n_rows=st.integers(1, 600), rate=st.sampled_from([0.0, 0.1, 1.0]), seed=st.integers(0, 99))
def test_lists_pass_spikes_alike_by_every_way(
    synapse: QuantizedDense | QuantizedSparse, n_rows: int, rate: float, seed: int
) -> None:
    check_all_ways(synapse, drawn_rows(n_rows, synapse.n_in, rate, seed))


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
def test_sums_past_16_bits_stay_exact(kind: str) -> None:
    synapse = QuantizedDense(weight=drawn_weights((3, 300), kind, 0), weight_bits=9)
    check_all_ways(synapse, drawn_rows(3, synapse.n_in, 1.0, 0))


@examples(150)
@given(synapse=convolutions(), rate=st.sampled_from([0.0, 0.1, 0.9, 1.0]), seed=st.integers(0, 99))
def test_convolutions_pass_spikes_alike_by_every_way(synapse: QuantizedConv, rate: float, seed: int) -> None:
    check_all_ways(synapse, drawn_rows(2, synapse.n_in, rate, seed))


@pytest.mark.parametrize("kind", sorted(WEIGHTS))
def test_a_sum_of_many_weights_keeps_to_its_own_bits(kind: str) -> None:
    """1,600 places of one sign or of both: the sums of neighbouring channels, which share a word, must not meet."""
    options: dict[str, Any] = {"weight_bits": 9, "input_shape": (64, 6, 7), "padding": (1, 2)}
    synapse = QuantizedConv(weight=drawn_weights((7, 64, 5, 5), kind, 0), **options)
    check_all_ways(synapse, drawn_rows(3, synapse.n_in, 1.0, 0))
