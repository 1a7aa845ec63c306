"""Network files: what is written is read back, Lava runs it, and what is wrong with a file is said."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import strategies
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from neurodeploy.errors import NetxError
from neurodeploy.ir import arrays
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import Encoder, QuantizedDense, QuantizedLayer, QuantizedLI, QuantizedLIF, QuantizedNetwork
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx
from neurodeploy.targets.loihi.target import NEVER_FIRES


def lif(vth: int = 30, du: int = 1024, dv: int = 128) -> QuantizedLIF:
    return QuantizedLIF(vth=np.array(vth), du=np.array(du), dv=np.array(dv))


def chain(*matrices: list[list[int]], input_shape: tuple[int, ...] = (2,), encoder: Encoder | None = None) -> QuantizedNetwork:
    """Layers ``layer1``, ``layer2``, ... of LIF neurons with these weights."""
    layers = []
    for source, (k, matrix) in zip((INPUT, "layer1", "layer2"), enumerate(matrices, start=1), strict=False):
        synapse = QuantizedDense(weight=np.array(matrix), weight_bits=8)
        layers.append(QuantizedLayer(
            name=f"layer{k}", shape=(len(matrix),), neuron=lif(), bias=np.array(0), scale=np.array(0.0),
            connections=(Connection(source=source, synapse=synapse),),
        ))  # fmt: skip
    return QuantizedNetwork(input_shape=input_shape, layers=tuple(layers), encoder=encoder)


TWO_LAYERS = chain([[4, -6], [8, 2], [-256, 254]], [[1, 2, 3]])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_netx(TWO_LAYERS, tmp_path / "model.net")


# ---------------------------------------------------------------------------------------------- there and back


@given(network=strategies.quantized_networks())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, network: QuantizedNetwork) -> None:
    path = tmp_path_factory.mktemp("netx", numbered=True) / "model.net"
    assert read_netx(write_netx(network, path)) == network


def test_writing_replaces_a_file_and_leaves_no_scratch(written: Path) -> None:
    other = chain([[1, 2]])
    write_netx(other, written)
    assert read_netx(written) == other
    assert [path.name for path in written.parent.iterdir()] == ["model.net"]


def test_a_network_that_is_refused_leaves_the_old_file(written: Path) -> None:
    with pytest.raises(NetxError):
        write_netx(chain([[0, 0]]), written)
    assert read_netx(written) == TWO_LAYERS
    assert [path.name for path in written.parent.iterdir()] == ["model.net"]


def test_layout(written: Path) -> None:
    with h5py.File(written) as file:
        assert list(file["layer"]) == ["0", "1", "2"]
        assert [file[f"layer/{k}/type"][0] for k in range(3)] == [b"input", b"dense", b"dense"]
        layer = file["layer/1"]
        assert set(layer) == {"type", "shape", "inFeatures", "outFeatures", "weight", "scale", "neuron"}
        assert dict(layer.attrs) == {"name": "layer1", "weight_bits": 8}
        assert {key: layer["neuron"][key][()] for key in ("iDecay", "vDecay", "vThMant", "refDelay", "gradedSpike")} == {
            "iDecay": 1024, "vDecay": 128, "vThMant": 30, "refDelay": 1, "gradedSpike": False,
        }  # fmt: skip


def test_a_readout_never_fires_in_the_file(tmp_path: Path) -> None:
    layer = replace(TWO_LAYERS.layers[0], neuron=QuantizedLI(du=np.array(7), dv=np.array([1, 2, 3])))
    path = write_netx(QuantizedNetwork(input_shape=(2,), layers=(layer,)), tmp_path / "model.net")
    with h5py.File(path) as file:
        assert file["layer/1/neuron/vThMant"][()] == NEVER_FIRES


# ---------------------------------------------------------------------------------------------- foreign files


def edited(path: Path, edit: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "r+") as file:
        edit(file)
    return path


def put(key: str, value: object) -> Callable[[h5py.File], object]:
    """An edit that puts `value` in place of what a file holds at ``layer/<key>``; None takes it away."""

    def edit(file: h5py.File) -> None:
        if f"layer/{key}" in file:
            del file[f"layer/{key}"]
        if value is not None:
            file[f"layer/{key}"] = value

    return edit


def test_a_file_of_slayers_own_making(written: Path) -> None:
    """Names, widths and scales are not there; numbers are floats, types plain strings, weights in a row."""
    with h5py.File(written, "r+") as file:
        for key in ("1", "2"):
            layer = file[f"layer/{key}"]
            layer.attrs.clear()
            del layer["scale"]
            put(f"{key}/weight", layer["weight"][()].astype(np.float32).ravel())(file)
            put(f"{key}/neuron/type", "LOIHI")(file)
        put("0", None)(file)
        file.move("layer/1", "layer/0")
        file.move("layer/2", "layer/1")
    network = read_netx(written)
    assert network.input_shape == (2,)
    assert [layer.name for layer in network] == ["layer1", "layer2"]
    assert [layer.weight_bits for layer in network] == [8, 2]
    assert [float(layer.scale) for layer in network] == [0.0, 0.0]
    assert np.array_equal(network.output.weight, TWO_LAYERS.output.weight)


def test_no_neuron_is_lavas_integrator(written: Path) -> None:
    assert read_netx(edited(written, put("2/neuron", None))).output.neuron == QuantizedLI(du=np.array(0), dv=np.array(4096))


@pytest.mark.parametrize("stored", [np.array([9, 511, 9], np.int16), np.array([9, 1023, 9], np.uint16), np.int16(3000)])
def test_thresholds_that_lava_shifts_without_loss_are_read(written: Path, stored: np.ndarray) -> None:
    """Measured in Lava: thresholds [3000] * 4 run as others in int16 and uint16, as themselves in int32 or as one for all."""
    first = read_netx(edited(written, put("1/neuron/vThMant", stored))).layers[0].neuron
    assert isinstance(first, QuantizedLIF)
    assert np.array_equal(first.vth, stored)


def test_keys_that_nothing_in_lava_reads_change_nothing(written: Path) -> None:
    """Neither a refractory period, nor an exponent, nor graded spikes without bits of a message."""
    for key, value in (("refDelay", 5), ("wgtExp", 3), ("gradedSpike", True)):
        edited(written, put(f"1/neuron/{key}", value))
    assert read_netx(written) == TWO_LAYERS


def test_delays_of_zero_are_none(written: Path) -> None:
    assert read_netx(edited(written, put("1/delay", np.zeros((3, 2))))) == TWO_LAYERS


def test_an_encoder_without_weight_takes_lavas(tmp_path: Path) -> None:
    path = write_netx(chain([[4, 6]], encoder=Encoder(neuron=lif(), weight=3, bias=4)), tmp_path / "model.net")
    edited(path, put("0/weight", None))
    edited(path, put("0/bias", None))
    assert read_netx(path).encoder == Encoder(neuron=lif(), weight=64, bias=0)


# ---------------------------------------------------------------------------------------------- what Lava would read otherwise


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        ([[0, 0]], "layer 'layer2': has no synapse left.* Prune less"),
        ([[0, -2]], r"layer 'layer2': would run in Lava with -?\d+ for its weight\[0, 1\] = -2 .*Change a weight"),
    ],
)
def test_lavas_traps_when_writing(tmp_path: Path, matrix: list[list[int]], said: str) -> None:
    with pytest.raises(NetxError, match=said):
        write_netx(chain([[4, 6], [2, 2]], matrix), tmp_path / "model.net")


def test_an_encoder_of_many_kinds_is_refused(tmp_path: Path) -> None:
    encoder = Encoder(neuron=QuantizedLIF(vth=np.array([1, 2]), du=np.array(0), dv=np.array(0)), weight=1, bias=0)
    with pytest.raises(NetxError, match="has neurons of different parameters"):
        write_netx(chain([[4, 6]], encoder=encoder), tmp_path / "model.net")


def test_nowhere_to_write(tmp_path: Path) -> None:
    with pytest.raises(NetxError, match="cannot be written: No such file or directory"):
        write_netx(TWO_LAYERS, tmp_path / "nowhere" / "model.net")


# ---------------------------------------------------------------------------------------------- what is no network file

WRONG: list[tuple[str, object, str]] = [
    ("1/type", [b"pool"], "layer/1: its type 'pool' is one that Lava itself does not implement"),
    *[
        ("1/type", [kind.encode()], f"layer/1: its type '{kind}' is one that Lava itself does not implement")
        for kind in ("convT", "unpool", "average", "concat")
    ],
    ("1/type", [b"dense_comp"], "layer/1: its type 'dense_comp' is complex-valued"),
    ("2/type", [b"flatten"], "layer/2: its type 'flatten' is out of place"),
    ("2/type", [b"input"], "layer/2: its type 'input' is out of place: only the first"),
    ("2/type", [b"dnese"], "layer/2: its type 'dnese' is unknown: Lava would skip it silently"),
    ("1/type", 7, "layer/1: type is not one ASCII string"),
    ("1/type", [b"\xff"], "layer/1: type is not one ASCII string"),
    ("1/type", None, "layer/1: has no 'type'"),
    ("1", None, "model.net/layer: has no group '1'"),
    ("1/shape", None, "layer/1 'layer1': has no 'shape'"),
    ("1/shape", np.dtype("int32"), "layer/1 'layer1': has no 'shape'"),  # to HDF5 a thing like any other: a type with a name
    ("1/shape", [0, 3], r"layer/1 'layer1': shape \[0, 3\] is not a shape"),
    ("1/weight", None, "layer/1 'layer1': has no 'weight'"),
    ("1/weight", [[1.5, 2], [3, 4], [5, 6]], "layer/1 'layer1': weight is not whole numbers"),
    ("1/weight", [[np.nan, 2], [3, 4], [5, 6]], "layer/1 'layer1': weight is not finite numbers"),
    ("1/weight", "abc", "layer/1 'layer1': weight is not finite numbers"),
    ("1/weight", [[1, 2], [3, 4]], r"layer/1 'layer1': has 3 neurons, but weights of shape \(2, 2\)"),
    ("1/weight", [1, 2, 3, 4], r"layer/1 'layer1': has 3 neurons, but weights of shape \(4,\)"),
    ("1/weight", [[1], [3], [5]], r"layer/1 'layer1': has inFeatures 2, but weights of shape \(3, 1\)"),
    ("1/weight", [[1, 256], [3, 4], [5, 6]], "layer/1 'layer1': .*256 is outside -256..255"),
    ("1/weight", [[1, -2], [3, 4], [5, 6]], "layer/1 'layer1': .*odd numbers among weights of both signs"),
    ("1/weight", [[0, 0]] * 3, "layer/1 'layer1': has no synapse left"),
    ("1/weight", [[0, -2]] * 3, "layer/1 'layer1': would run in Lava with"),
    ("1/outFeatures", 4, "layer/1 'layer1': has outFeatures 4"),
    ("1/outFeatures", [3, 3], r"layer/1 'layer1': outFeatures has shape \(2,\)"),
    ("1/bias", [1, 2], r"layer/1 'layer1': .*bias has shape \(2,\)"),
    ("1/bias", 4096, "layer/1 'layer1': .*4096 is outside -4096..4095"),
    ("1/scale", -1.0, "layer/1 'layer1': .*scale of at least zero"),
    ("1/delay", [1, 2, 3, 4], r"layer/1 'layer1': has delays of shape \(4,\) for weights of shape \(3, 2\)"),
    ("1/delay", np.ones((2, 3)), r"layer/1 'layer1': has delays of shape \(2, 3\) for weights of shape \(3, 2\)"),
    ("1/delay", [], "layer/1 'layer1': has delays outside 0..62 steps"),
    ("1/delay", 63, r"layer/1 'layer1': has delays outside 0..62 steps \(netx/hdf5.py: create_dense"),
    ("1/delay", -1, "layer/1 'layer1': has delays outside 0..62 steps"),
    ("1/neuron", 3, "layer/1 'layer1': has no group 'neuron'"),
    ("1/neuron/iDecay", None, "layer/1 'layer1'/neuron: has no 'iDecay'"),
    ("1/neuron/iDecay", 4097, "layer/1 'layer1'/neuron: .*4097 is outside 0..4096"),
    ("1/neuron/vDecay", [1, 2], r"layer/1 'layer1'.*: .*dv has shape \(2,\)"),
    ("1/neuron/vThMant", -1, "layer/1 'layer1'/neuron: .*-1 is outside 0..inf"),
    ("1/neuron/vThMant", [1, 2, 1 << 17], "layer/1 'layer1'/neuron: .*131072 is outside 0..131071"),
    ("1/neuron/vThMant", np.array([9, 512, 9], np.int16), r"layer/1 'layer1'/neuron: vThMant is int16, .* of 512 \(lava-nc"),
    ("1/neuron/vThMant", np.array([9, 1024, 9], np.uint16), r"layer/1 'layer1'/neuron: vThMant is uint16, .* Store it as int32"),
    ("1/neuron/type", [b"SDNN"], "layer 'layer2' has spiking neurons, and other layers of the network sigma-delta neurons"),
    ("1/neuron/type", [b"RF"], "layer/1 'layer1'/neuron: its type 'RF' is not supported"),
    ("1/neuron/type", [b"cuba"], "layer/1 'layer1'/neuron: its type 'cuba' is not supported"),
    ("1/neuron/messageBits", 16, "layer/1 'layer1'/neuron: sends graded spikes"),
    ("2/inFeatures", 3.5, "layer/2 'layer2': inFeatures is not whole numbers"),
    ("0/shape", [3], r"layer/0: has shape \(3,\) for Lava, but input_shape \(2,\)"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_what_is_wrong_is_said(written: Path, key: str, value: object, said: str) -> None:
    with pytest.raises(NetxError, match=said):
        read_netx(edited(written, put(key, value)))


def test_an_average_at_the_end_is_the_hosts(written: Path) -> None:
    edited(written, put("3/type", [b"average"]))
    edited(written, put("3/shape", [1]))
    network = read_netx(written)
    assert network == TWO_LAYERS
    assert network.notes == (
        "The file ends in an average of the outputs of 'layer2': 1 group of 1 in a row. As in Lava, it is left to the host.",
    )
    with pytest.raises(NetxError, match="layer/3: averages 1 outputs in 2 groups, which are of unequal size"):
        read_netx(edited(written, put("3/shape", [2])))


def test_complex_weights_are_refused(written: Path) -> None:
    edited(written, put("1/weight", None))
    with pytest.raises(NetxError, match="layer/1 'layer1': has no 'weight'"):
        read_netx(edited(written, put("1/weight/imag", np.ones((3, 2)))))


def test_layers_that_do_not_meet(written: Path) -> None:
    edited(written, put("2/weight", [[1, 2]]))
    with pytest.raises(NetxError, match=r"model\.net: layer 'layer2' expects 2 inputs, but 'layer1' has 3"):
        read_netx(edited(written, put("2/inFeatures", 2)))


def test_an_encoder_that_never_fires(tmp_path: Path) -> None:
    path = write_netx(chain([[4, 6]], encoder=Encoder(neuron=lif(), weight=3, bias=4)), tmp_path / "model.net")
    with pytest.raises(NetxError, match="layer/0: has neurons that never fire"):
        read_netx(edited(path, put("0/neuron/vThMant", NEVER_FIRES)))


def test_no_network_at_all(tmp_path: Path, written: Path) -> None:
    with pytest.raises(NetxError, match=r"nowhere\.net: does not exist"):
        read_netx(tmp_path / "nowhere.net")
    with pytest.raises(NetxError, match="is not a file"):
        read_netx(tmp_path)
    (tmp_path / "text.net").write_text("hello")
    with pytest.raises(NetxError, match=r"text\.net: is not an HDF5 file"):
        read_netx(tmp_path / "text.net")
    with pytest.raises(NetxError, match="holds no layer of neurons"):
        read_netx(edited(edited(written, put("1", None)), put("2", None)))
    with pytest.raises(NetxError, match=r"has no group 'layer'.* Is it a network file of netx"):
        read_netx(edited(written, lambda file: file.pop("layer")))


STRING = bytes.fromhex("19010000")
"""How HDF5 says that a text in ASCII is stored: one byte of version and class, then bits, the character set in the second."""


@pytest.mark.parametrize("damage", ["19010200", "19000000"], ids=["in no alphabet", "lists of text"])
def test_text_whose_kind_was_damaged(written: Path, damage: str) -> None:
    """The second, once read, would end this process."""
    content = written.read_bytes()
    assert STRING in content
    written.write_bytes(content.replace(STRING, bytes.fromhex(damage)))
    with pytest.raises(NetxError, match=r"type (cannot be read: |is neither numbers nor text)"):
        read_netx(written)


def test_texts_that_the_library_would_read_for_ever(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "READ_LIMIT_S", 1.0)
    content = bytearray(written.read_bytes())
    heap = content.find(b"GCOL")
    content[heap + 8] = 0x58  # of the heap's size, which was 4096: behind its end there are zeros
    written.write_bytes(content)
    with pytest.raises(NetxError, match=r"it is damaged, or too large: reading it takes longer than 1 s\.$"):
        read_netx(written)


def test_a_file_cut_short(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:4000])
    with pytest.raises(NetxError, match="cannot be read: "):
        read_netx(written)


@examples(300)
@given(data=st.data())
def test_damaged_bytes_are_an_error_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_netx(TWO_LAYERS, tmp_path_factory.mktemp("netx", numbered=True) / "model.net")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(NetxError):
        assert isinstance(read_netx(path), QuantizedNetwork)
