"""Network files beyond dense chains: what netx has for convolutions, recurrence, delays and lists, and what it has not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import grammar
import h5py
import numpy as np
import pytest
from hypothesis import given
from strategies import runs_in_lava

from neurodeploy.errors import NetxError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.targets.loihi import netx_format as rules
from neurodeploy.targets.loihi.netx_format import plain_kinds
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx

# ---------------------------------------------------------------------------------------------- networks that are drawn


@given(network=grammar.quantized_graphs())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, network: QuantizedNetwork) -> None:
    """Chains that Lava would misread are refused, and nothing else is."""
    path = tmp_path_factory.mktemp("netx", numbered=True) / "model.net"
    misread = r"would run in Lava with|has no synapse left"
    with pytest.raises(NetxError, match=misread) if is_misread(network) else nullcontext():
        write_netx(network, path)
        assert read_netx(path) == network


def is_misread(network: QuantizedNetwork) -> bool:
    """Whether it is a chain with a dense layer that Lava would make something else of."""
    chain = plain_kinds(network) or ()
    alone = [layer.weight for layer, kind in zip(network, chain, strict=False) if kind == "dense" and isinstance(
        layer.connections[0].synapse, QuantizedDense)]  # fmt: skip
    return any(not runs_in_lava(weight) for weight in alone)


@given(network=grammar.quantized_chains())
def test_chains_that_lava_reads_are_plain_netx(tmp_path_factory: pytest.TempPathFactory, network: QuantizedNetwork) -> None:
    path = write_netx(network, tmp_path_factory.mktemp("netx", numbered=True) / "model.net")
    assert read_netx(path) == network
    kinds = plain_kinds(network)
    assert kinds is not None
    with h5py.File(path) as file:
        types = [file[f"layer/{k}/type"][0].decode() for k in range(len(file["layer"]))]
    assert tuple(t for t in types if t not in ("input", "flatten")) == kinds


# ---------------------------------------------------------------------------------------------- one by one


def lif(**numbers: object) -> QuantizedLIF:
    return QuantizedLIF(**{key: np.array(value) for key, value in ({"vth": 30, "du": 1024, "dv": 128} | numbers).items()})


def layer(
    name: str, shape: tuple[int, ...], *connections: tuple[str, QuantizedSynapse, int], bias: object = 0, **numbers: object
) -> QuantizedLayer:
    return QuantizedLayer(
        name=name, shape=shape, neuron=lif(**numbers), bias=np.array(bias), scale=np.array(0.0),
        connections=tuple(Connection(source=source, synapse=s, delay_steps=delay) for source, s, delay in connections),
    )  # fmt: skip


def dense(*rows: list[int]) -> QuantizedDense:
    return QuantizedDense(weight=np.array(rows), weight_bits=8)


def chained(input_shape: tuple[int, ...], *layers: QuantizedLayer) -> QuantizedNetwork:
    return QuantizedNetwork(input_shape=input_shape, layers=layers)


KERNEL = np.arange(2 * 3 * 1 * 2).reshape(2, 3, 1, 2) * 2 - 10
CONV = QuantizedConv(
    weight=KERNEL, weight_bits=8, input_shape=(3, 4, 5), stride=(1, 2), padding=(0, 1), dilation=(1, 2)
)  # fmt: skip
IMAGES = layer("images", (2, 4, 3), (INPUT, CONV, 0), bias=7)
READ = layer("read", (2,), ("images", dense([1, 2] * 12, [3, 4] * 12), 0))
PICTURES = chained((3, 4, 5), IMAGES, READ)

SPARSE = QuantizedSparse(n_in=3, starts=np.array([0, 2, 2]), sources=np.array([0, 2]), weight=np.array([4, 6]), weight_bits=5)
LISTED = chained((3,), layer("listed", (2,), (INPUT, SPARSE, 0)))
RECURRENT = chained((2,), layer("back", (2,), (INPUT, dense([2, 4], [6, 8]), 0), ("back", dense([-2, 2], [0, 4]), 0)))
DELAYED = chained((2,), layer("late", (1,), (INPUT, dense([2, 4]), 5)))


@pytest.fixture
def file_of(tmp_path: Path) -> Callable[..., Path]:
    """``file_of(network, key, value, ...)``: written, then with other values (None: none) at ``layer/<key>``."""

    def written(network: QuantizedNetwork, *edits: object) -> Path:
        path = write_netx(network, tmp_path / "model.net")
        with h5py.File(path, "r+") as file:
            for key, value in zip(edits[::2], edits[1::2], strict=True):
                if f"layer/{key}" in file:
                    del file[f"layer/{key}"]
                if value is not None:
                    file[f"layer/{key}"] = value
        return path

    return written


def test_a_convolution_is_laid_out_as_slayer_does(file_of: Callable[..., Path]) -> None:
    """``slayer/block/base.py: AbstractConv.export_hdf5``; biases one a channel, for Lava takes no single one."""
    with h5py.File(file_of(PICTURES)) as file:
        assert [file[f"layer/{k}/type"][0] for k in range(4)] == [b"input", b"conv", b"flatten", b"dense"]
        images = file["layer/1"]
        assert {key: np.asarray(images[key]).tolist() for key in images if key not in ("type", "neuron", "scale")} == {
            "shape": [2, 4, 3], "inChannels": 3, "outChannels": 2, "kernelSize": [1, 2], "stride": [1, 2], "padding": [0, 1],
            "dilation": [1, 2], "groups": 1, "weight": KERNEL.tolist(), "bias": [7, 7],
        }  # fmt: skip


def test_a_foreign_convolution_is_read(file_of: Callable[..., Path]) -> None:
    """One number for rows and columns, a fifth side of the weights, biases that differ between channels."""
    plain = QuantizedConv(weight=KERNEL[..., :1], weight_bits=8, input_shape=(3, 4, 5))
    network = chained((3, 4, 5), layer("images", (2, 4, 5), (INPUT, plain, 0)))
    path = file_of(
        network, "1/stride", 1, "1/padding", 0, "1/dilation", 1, "1/kernelSize", 1, "1/bias", [1, 2],
        "1/weight", KERNEL[..., :1, np.newaxis], "1/neuron/vDecay", [3, 3],
    )  # fmt: skip
    read = read_netx(path).output
    assert read.connections == network.output.connections
    assert read.bias.tolist() == [1] * 20 + [2] * 20
    assert (read.neuron.dv.shape, int(read.neuron.dv)) == ((), 3)


def test_recurrence_delays_and_lists_stand_where_netx_looks_for_them(file_of: Callable[..., Path]) -> None:
    with h5py.File(file_of(RECURRENT)) as file:
        assert file["layer/1/type"][0] == b"dense_rec"
        assert file["layer/1/weight_rec"][()].tolist() == [[-2, 2], [0, 4]]
    with h5py.File(file_of(DELAYED)) as file:
        assert file["layer/1/delay"][()] == 5
    with h5py.File(file_of(LISTED)) as file:
        assert file["layer/1/weight"][()].tolist() == [[4, 0, 6], [0, 0, 0]]
        assert file["layer/1/sources"][()].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("delays", "of_synapses"),
    [([0, 3], [[0, 0], [3, 3]]), ([[4], [0]], [[4, 4], [0, 0]]), ([[0, 2], [5, 0]], [[0, 2], [5, 0]]), ([[7, 7], [7, 7]], None)],
    ids=["a neuron", "turned", "a synapse", "all one"],
)
def test_delays_that_differ_part_a_matrix_into_lists(
    delays: list[object], of_synapses: list[list[int]] | None, file_of: Callable[..., Path]
) -> None:
    """With as many neurons as inputs, a row of delays belongs to neurons (hdf5.py: create_dense)."""
    network = chained((2,), layer("late", (2,), (INPUT, dense([2, -4], [0, 8]), 0)))
    read = read_netx(file_of(network, "1/delay", delays)).output
    if of_synapses is None:
        assert read.connections == (replace(network.output.connections[0], delay_steps=7),)
        return
    weight, at = network.output.weight, np.array(of_synapses)
    assert [c.delay_steps for c in read.connections] == sorted(set(at[weight != 0].tolist()))
    for c in read.connections:
        np.testing.assert_array_equal(c.synapse.matrix(), np.where(at == c.delay_steps, weight, 0))


@pytest.mark.parametrize(
    "network",
    [
        chained((2,), layer("a", (2,), (INPUT, dense([2, 4], [6, 8]), 0)), layer("b", (2,), (INPUT, dense([2, 4], [6, 8]), 0))),
        chained((2,), layer("a", (2,), (INPUT, dense([2, 4], [6, 8]), 63))),
        chained((2,), layer("a", (2,), (INPUT, dense([2, 4], [6, 8]), 1), ("a", dense([2, 4], [6, 8]), 0))),
        chained((2,), layer("a", (2,), (INPUT, dense([0, 0], [0, 0]), 0), ("a", dense([0, 0], [0, 0]), 0))),
        chained((2,), layer("a", (2,), (INPUT, dense([0, -2], [0, -2]), 0), ("a", dense([0, 0], [0, 0]), 0))),
        chained((2,), layer("a", (2,), (INPUT, dense([2, 4], [6, 8]), 0), (INPUT, dense([2, 4], [6, 8]), 0))),
        chained((2,), layer("a", (2,), (INPUT, dense([2, 4], [6, 8]), 0), *[("a", dense([2, 4], [6, 8]), 0)] * 2)),
        chained((3,), layer("a", (2,), (INPUT, replace(SPARSE, weight=np.zeros(2)), 0))),
        chained((3, 4, 5), replace(IMAGES, connections=(replace(IMAGES.connections[0], delay_steps=1),))),
        chained((2,), layer("a", (1, 1, 2), (INPUT, dense([2, 4], [6, 8]), 0)), layer("b", (1, 1, 2), ("a", QuantizedConv(
            weight=np.array([[[[2]]]]), weight_bits=3, input_shape=(1, 1, 2)), 0))),
    ],
    ids=["branch", "long delay", "delay and recurrence", "all zeros", "misread together", "twice", "twice back", "empty lists",
         "delayed window", "window after dense"],
)  # fmt: skip
def test_what_netx_cannot_say_is_a_population(network: QuantizedNetwork, file_of: Callable[..., Path]) -> None:
    assert plain_kinds(network) is None
    path = file_of(network)
    assert read_netx(path) == network
    with h5py.File(path) as file:
        assert {file[f"layer/{k}/type"][0] for k in range(1, len(file["layer"]))} == {b"population"}


def test_lists_of_a_large_layer_are_not_written_out_as_a_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plain_kinds(LISTED) == ("dense",)
    monkeypatch.setattr(rules, "MATRIX_MAX", 5)
    assert plain_kinds(LISTED) is None


# ---------------------------------------------------------------------------------------------- what is wrong

LISTS = replace(SPARSE, n_in=2, sources=np.array([0, 1]))
SKIP = chained((2,), layer("a", (2,), (INPUT, dense([2, 4], [6, 8]), 0), (INPUT, LISTS, 1)))

WRONG: list[tuple[QuantizedNetwork, tuple[object, ...], str]] = [
    (PICTURES, ("2/type", [b"input"]), "layer/2: its type 'input' is out of place"),
    (PICTURES, ("1/type", [b"flatten"]), "layer/1: its type 'flatten' is out of place|layer/2: its type 'flatten' is out"),
    (PICTURES, ("3/type", [b"flatten"]), "layer/3: its type 'flatten' is out of place: Lava connects it only between"),
    (PICTURES, ("2", None, "2/type", [b"dense"]), "has no 'shape'"),
    (PICTURES, ("1/weight", np.ones((2, 3))), r"layer/1 'images': has weights of shape \(2, 3\), not \(out, in / groups"),
    (PICTURES, ("1/outChannels", 3), r"layer/1 'images': has outChannels 3, but weights of shape \(2, 3, 1, 2\)"),
    (PICTURES, ("1/inChannels", 4), r"layer/1 'images': has inChannels 4, but weights"),
    (PICTURES, ("1/kernelSize", [2, 2]), r"layer/1 'images': has kernelSize \[2, 2\], but weights"),
    (PICTURES, ("1/kernelSize", [1, 2, 1]), r"layer/1 'images': has kernelSize \[1, 2, 1\], but weights"),
    (PICTURES, ("1/stride", [1, 2, 3]), r"layer/1 'images': stride \[1, 2, 3\] is not one number or two"),
    (PICTURES, ("1/stride", 0), "layer/1 'images': QuantizedConv stride .* is too small"),
    (PICTURES, ("1/groups", 3), "layer/1 'images': has inChannels 3, but weights"),
    (PICTURES, ("1/shape", [2, 4, 4]), "layer/1 'images': layer 'images' has 32 neurons but weights for 24"),
    (PICTURES, ("1/delay", 1), "layer/1 'images': has delays, which Lava silently leaves out of convolutions"),
    (PICTURES, ("1/neuron", None), "layer/1 'images': has no group 'neuron', without which Lava cannot build a convolution"),
    (PICTURES, ("1/bias", [1, 2, 3]), r"layer/1 'images': bias has shape \(3,\), not \(\), \(2,\) or \(3, 4, 2\)"),
    (PICTURES, ("0", None, "0/type", [b"flatten"]), "layer/0: its type 'flatten' is out of place"),
    (RECURRENT, ("1/weight_rec", None), "layer/1 'back': has no 'weight_rec'"),
    (RECURRENT, ("1/weight_rec", [[1, 2, 3], [4, 5, 6]]), "layer/1 'back': has 2 neurons, but recurrent weights of shape"),
    (RECURRENT, ("1/delay", 1), "layer/1 'back': has delays and recurrent weights"),
    (RECURRENT, ("1/weight", [[0, 0]] * 2, "1/weight_rec", [[0, 0]] * 2), "layer/1 'back': has no synapse left"),
    (RECURRENT, ("1/weight", [[0, -2]] * 2, "1/weight_rec", [[0, 0]] * 2), "layer/1 'back': its weight would run in Lava"),
    (LISTED, ("1/sources", [0, 1]), "layer/1 'listed': lists other synapses in starts and sources than its weights have"),
    (LISTED, ("1/starts", [0, 2]), "layer/1 'listed': lists other synapses"),
    (LISTED, ("1/starts", [0, 3]), "layer/1 'listed': QuantizedSparse.starts does not divide 2 synapses"),
    (SKIP, ("1/connection/0/type", [b"pool"]), "layer/1 'a'/connection/0: its type 'pool' is not dense, sparse or conv"),
    (SKIP, ("1/connection/0/weight", [[1, 2, 3]]), "layer/1 'a'/connection/0: has 2 neurons, but weights of shape"),
    (SKIP, ("1/connection/1/inFeatures", 5), "layer 'a' expects 5 inputs, but 'input' has 2"),
    (SKIP, ("1/connection/1/inFeatures", 1), "layer/1 'a'/connection/1: .*sources holds neurons outside"),
    (SKIP, ("1/connection", None), "layer/1 'a': has no group 'connection'"),
]  # fmt: skip


@pytest.mark.parametrize(("network", "edits", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said(
    network: QuantizedNetwork, edits: tuple[object, ...], said: str, file_of: Callable[..., Path]
) -> None:
    with pytest.raises(NetxError, match=said):
        read_netx(file_of(network, *edits))


def test_a_dense_layer_after_a_convolution_needs_a_flatten(file_of: Callable[..., Path]) -> None:
    path = file_of(PICTURES)
    with h5py.File(path, "r+") as file:
        del file["layer/2"]
        file.move("layer/3", "layer/2")
    with pytest.raises(NetxError, match="layer/2 'read': follows a convolution with no 'flatten' between them"):
        read_netx(path)


def test_a_convolution_needs_the_shape_of_its_input(file_of: Callable[..., Path]) -> None:
    path = file_of(chained((3, 4, 5), IMAGES))
    with h5py.File(path, "r+") as file:
        del file["layer/0"]
        file.move("layer/1", "layer/0")
    with pytest.raises(NetxError, match="layer/0 'images': is a convolution of an input of unknown shape, not of"):
        read_netx(path)


def test_a_window_of_a_population_needs_an_image(file_of: Callable[..., Path]) -> None:
    delayed = chained((3, 4, 5), replace(IMAGES, connections=(replace(IMAGES.connections[0], delay_steps=1),)))
    with pytest.raises(NetxError, match=r"layer/1 'images'/connection/0: shapeIn \(3, 20\) is not \(C, H, W\)"):
        read_netx(file_of(delayed, "1/connection/0/shapeIn", [3, 20]))
