"""Which neurons synapses connect: sums, counts and matrices agree, and wiring that cannot be is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from grammar import graphs
from hypothesis import given

from neurodeploy.errors import ArgumentTypeError, NetworkError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, Conv, Dense, Layer, Network, Sparse
from neurodeploy.ir.quantized import QuantizedConv
from neurodeploy.targets.loihi.target import check_synapse

# ---------------------------------------------------------------------------------------------- many ways to one number


@given(network=graphs())
def test_what_is_said_of_synapses_is_what_their_matrix_says(network: Network) -> None:
    for synapse in (c.synapse for layer in network for c in layer.connections):
        matrix = synapse.matrix()
        assert matrix.shape == (synapse.n_out, synapse.n_in)
        np.testing.assert_array_equal(synapse.fan_in(), np.count_nonzero(matrix, axis=1))
        assert synapse.n_synapses == np.count_nonzero(matrix)
        np.testing.assert_allclose(synapse.total(synapse.weight), matrix.sum(axis=1), atol=1e-9)
        np.testing.assert_array_equal(np.broadcast_to(synapse.per_weight(np.array(3.0)), synapse.weight.shape) == 3.0, True)


def test_numbers_of_neurons_beside_their_weights() -> None:
    each = np.array([2.0, 3.0])
    assert Dense(weight=np.ones((2, 3))).per_weight(each).tolist() == [[2.0], [3.0]]
    listed = Sparse(n_in=3, starts=np.array([0, 1, 3]), sources=np.array([2, 0, 1]), weight=np.ones(3))
    assert listed.per_weight(each).tolist() == [2.0, 3.0, 3.0]
    window = Conv(weight=np.ones((2, 1, 1, 1)), input_shape=(1, 1, 2))
    assert window.per_weight(np.array([2.0, 2.0, 3.0, 3.0])).ravel().tolist() == [2.0, 3.0]
    with pytest.raises(NetworkError, match=r"^Conv: needs one scale a channel, because"):
        window.per_weight(np.array([2.0, 3.0, 3.0, 3.0]))


def test_windows_that_leave_pixels_out() -> None:
    """Rows 0 and 2 of 4, columns -1, 2 of 4 and two to the right of each: synapses onto the padding do not exist."""
    window = Conv(weight=np.ones((1, 1, 1, 2)), input_shape=(1, 4, 4), stride=(2, 3), padding=(0, 1), dilation=(1, 2))
    assert window.output_shape == (1, 2, 2)
    assert window.fan_in().tolist() == [1, 1, 1, 1]
    assert [np.flatnonzero(row).tolist() for row in window.matrix()] == [[1], [2], [9], [10]]


# ---------------------------------------------------------------------------------------------- what cannot be


def conv(**changes: Any) -> Conv:
    given: dict[str, Any] = {"weight": np.ones((4, 1, 3, 3)), "input_shape": (2, 5, 5), "groups": 2}
    return Conv(**(given | changes))


def lists(**changes: Any) -> Sparse:
    given = {"n_in": 3, "starts": np.array([0, 2, 3]), "sources": np.array([0, 2, 1]), "weight": np.ones(3)}
    return Sparse(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.ones((4, 1, 3))}, r"^Conv\.weight: has shape \(4, 1, 3\), not \(out, in / groups, rows, columns\)"),
        ({"weight": np.ones((4, 0, 3, 3))}, r"^Conv\.weight: has shape \(4, 0, 3, 3\), not"),
        ({"input_shape": (2, 5)}, r"^Conv, argument 'input_shape': is of type tuple of 2 int, and has to be a tuple of 3 int\.$"),
        ({"input_shape": (2, 0, 5)}, r"^Conv\.input_shape: \(2, 0, 5\) is not"),
        ({"stride": (0, 1)}, r"^Conv: stride \(0, 1\), dilation \(1, 1\), groups 2 or padding \(0, 0\) is too small"),
        ({"padding": (0, -1)}, r"^Conv: stride .* padding \(0, -1\) is too small"),
        ({"groups": 3}, r"^Conv: weights \(4, 1, 3, 3\) in 3 groups do not fit 2 input channels"),
        ({"groups": 1}, r"^Conv: weights \(4, 1, 3, 3\) in 1 groups do not fit 2 input channels"),
        ({"dilation": (1, 3)}, r"^Conv: kernel is larger than its padded input \(2, 5, 5\)"),
    ],
)
def test_a_window_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    assert conv().output_shape == (4, 3, 3)
    with pytest.raises((NetworkError, ArgumentTypeError), match=message):
        conv(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": np.array([0, 2])}, r"^Sparse\.starts: does not divide 3 synapses among neurons"),
        ({"starts": np.array([3])}, r"^Sparse\.starts: does not divide 3 synapses"),
        ({"starts": np.array([0, 3, 2, 3])}, r"^Sparse\.starts: does not divide 3 synapses"),
        ({"starts": np.array([1, 2, 3])}, r"^Sparse\.starts: does not divide 3 synapses"),
        ({"weight": np.ones(2)}, r"^Sparse\.weight: has shape \(2,\), not that of its sources, \(3,\)"),
        ({"sources": np.array([0, 3, 1])}, r"^Sparse\.sources: holds neurons outside 0\.\.2"),
        ({"sources": np.array([-1, 2, 1])}, r"^Sparse\.sources: holds neurons outside 0\.\.2"),
        ({"sources": np.array([2, 0, 1])}, r"^Sparse\.sources: is not ascending and distinct within each neuron"),
        ({"sources": np.array([2, 2, 1])}, r"^Sparse\.sources: is not ascending and distinct"),
    ],
)
def test_lists_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    assert lists().matrix().tolist() == [[1, 0, 1], [0, 1, 0]]
    with pytest.raises(NetworkError, match=message):
        lists(**changes)


def test_a_matrix_has_two_sides() -> None:
    with pytest.raises(NetworkError, match=r"^Dense\.weight: has shape \(3,\), not \(n_out, n_in\)"):
        Dense(weight=np.ones(3))


def test_integers_of_a_window_are_checked_as_any() -> None:
    with pytest.raises(NetworkError, match=r"^QuantizedConv\.weight: has odd numbers among weights of both signs"):
        check_synapse(QuantizedConv(weight=np.array([[[[1, -2]]]]), input_shape=(1, 1, 2), weight_bits=8))


# ---------------------------------------------------------------------------------------------- layers that hear others


def layer(name: str, shape: tuple[int, ...], *connections: Connection[Any]) -> Layer:
    at_once = LI(current_decay=np.ones(()), voltage_decay=np.ones(()), rest=np.zeros(()))
    return Layer(name=name, shape=shape, neuron=at_once, connections=connections, bias=np.zeros(()))


def net(*layers: Layer, input_shape: tuple[int, ...] = (1, 2, 2)) -> Network:
    return Network(input_shape=input_shape, layers=layers, timestep_s=1e-3)


def full(source: str, n_out: int, n_in: int, delay_steps: int = 0) -> Connection[Any]:
    return Connection(source=source, synapse=Dense(weight=np.ones((n_out, n_in))), delay_steps=delay_steps)


POINTS = Connection(source=INPUT, synapse=Conv(weight=np.ones((1, 1, 1, 1)), input_shape=(1, 2, 2)))


def test_skips_and_recurrence_are_heard_by_name() -> None:
    graph = net(layer("hidden", (1, 2, 2), POINTS), layer("out", (2,), full(INPUT, 2, 4), full("out", 2, 2, delay_steps=3)))
    assert [(target.name, c.delay_steps) for target, c in graph.targets("out")] == [("out", 3)]
    assert [target.name for target, _ in graph.targets(INPUT)] == ["hidden", "out"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: net(layer("a", (2,), full("b", 2, 2)), layer("b", (2,), full(INPUT, 2, 4))),
            "layer 'a': receives spikes from 'b'",
        ),
        (lambda: net(layer("a", (1, 2, 2), POINTS), input_shape=(4, 1, 1)), r"layer 'a': convolves \(1, 2, 2\), but 'input' has"),
        (lambda: layer("a", (4, 1, 1), POINTS), r"layer 'a': has shape \(4, 1, 1\), but its convolution gives \(1, 2, 2\)"),
    ],
)  # fmt: skip
def test_layers_that_do_not_meet(build: Callable[[], object], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        build()
