"""Sigma-delta networks (SDNN) of lava-dl: what a file says, the emulator's integers, Lava's, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from lava_runs import LONG_S, of_lava_dl
from numpy.typing import NDArray

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.errors import DataError, NetworkError, NetxError, QuantizeError, RequestError, SimulationError
from neurodeploy.frontends.nir.writing import write_nir
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSigmaDelta,
)
from neurodeploy.passes.quantize import dequantize
from neurodeploy.simulation.records import compare
from neurodeploy.targets import check_profile, target_named
from neurodeploy.targets.loihi.emulator import run_sigma_delta
from neurodeploy.targets.loihi.lava_client import Job, run_lava_jobs
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx
from neurodeploy.targets.loihi.neuron_step import SigmaDeltaNeurons

PILOTNET = "gts/pilotnet_sdnn/"


def sends(vth: int, *, only_sums: bool = False) -> QuantizedSigmaDelta:
    return QuantizedSigmaDelta(vth=np.array(vth), only_sums=only_sums)


def drawn(rng: np.random.Generator, bits: int) -> tuple[QuantizedNetwork, NDArray[np.int64]]:
    """A chain of up to a convolution and two dense layers, with input for its population: numbers of up to so many bits."""
    shape: tuple[int, ...] = (2, 5, 4) if rng.random() < 0.5 else (6,)
    network_shape, source, layers = shape, INPUT, []
    for k in range(rng.integers(1, 4)):
        synapse: Any
        high = int(rng.choice([4, 60, 254]))
        if len(shape) == 3 and k == 0:
            weight = rng.integers(-high // 2, high // 2, (3, 2, 2, 3)) * 2
            synapse = QuantizedConv(weight=weight, weight_bits=9, input_shape=shape, stride=(2, 1), padding=(1, 0))
            shape = synapse.output_shape
        else:
            sign = rng.choice([-1, 1, 2])
            size = (5, int(np.prod(shape)))
            weight = rng.integers(-high // 2, high // 2, size) * 2 if sign == 2 else sign * rng.integers(1, high, size)
            synapse, shape = QuantizedDense(weight=weight, weight_bits=9), (5,)
        only_sums = bool(rng.random() < 0.3)
        bias = np.array(0) if only_sums else rng.integers(-90, 90, int(np.prod(shape)))
        if len(shape) == 3:
            bias = np.repeat(bias.reshape(shape)[:, 0, 0], shape[1] * shape[2]) if bias.shape else bias
        layers.append(QuantizedLayer(
            name=f"layer{k + 1}", shape=shape, neuron=sends(int(rng.integers(0, 40)), only_sums=only_sums), bias=bias,
            connections=(Connection(source=source, synapse=synapse),), scale=np.array(0.0),
        ))  # fmt: skip
        source = layers[-1].name
    encoder = Encoder(neuron=sends(int(rng.integers(0, 3))), weight=1, bias=0)
    network = QuantizedNetwork(input_shape=network_shape, layers=tuple(layers), encoder=encoder)
    largest = (1 << bits) - 1
    return network, rng.integers(-largest, largest, (2, *network_shape, 7)).astype(np.int32)


def runs_in_lava(seed: int, input_bits: tuple[int, ...], *more: Job) -> None:
    """Compare drawn networks, every number of every layer and step, on input of these widths; the widest ones wrap."""
    rng = np.random.default_rng(seed)
    jobs = [*(drawn(rng, bits) for bits in input_bits), *more]
    overflows = sent = 0
    for (network, numbers), record in zip(jobs, run_lava_jobs(jobs, record="all", time_limit_s=LONG_S, raw=True), strict=True):
        expected = run_sigma_delta(network, numbers, record="all", raw=True)
        comparison = compare(expected, record)
        assert comparison.equal, f"{comparison.first}\n{network}"
        overflows, sent = overflows + sum(expected.overflows.values()), sent + comparison.n_spikes
    assert overflows > 100
    assert sent > 500


@pytest.mark.lava
def test_lava_and_the_emulator_send_the_same_numbers() -> None:
    square = read_netx(of_lava_dl(PILOTNET + "square_network.net"))  # two of its layers: Lava's convolutions are slow
    numbers = np.random.default_rng(0).integers(-64, 65, (1, *square.input_shape, 1))
    runs_in_lava(3, (7, 10, 18, 18), (replace(square, layers=square.layers[:2]), numbers))


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_lava_and_the_emulator_send_the_same_numbers_in_many_networks(seed: int) -> None:
    runs_in_lava(seed, (4, 6, 8, 10, 12, 14, 16, 17, 18, 18))


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("name", ["network", "square_network"])
def test_lava_dls_networks_are_equal_in_lava(name: str) -> None:
    comparison = nd.verify(read_netx(of_lava_dl(f"{PILOTNET}{name}.net")), n_steps=2, n_samples=1)
    assert comparison.equal, comparison.first
    assert comparison.n_spikes > 1000


# ---------------------------------------------------------------------------------------------- recorded ground truth


@pytest.mark.lava
@pytest.mark.parametrize(
    ("name", "suffix", "columns", "n_layers"), [("square_network", "_square", 33, 4), ("network", "", 100, 2)]
)
def test_the_sums_recorded_by_lava_dl(name: str, suffix: str, columns: int, n_layers: int) -> None:
    """A layer's record begins with its first input: its depth later than the recording, which begins with the chip."""
    network = read_netx(of_lava_dl(f"{PILOTNET}{name}.net"))
    network = replace(network, layers=network.layers[:n_layers])
    deltas = np.load(of_lava_dl(PILOTNET + "act0.npy"))[:columns].transpose(2, 1, 0, 3)
    record = nd.simulate(network, deltas, record="all")
    for depth, layer in enumerate(network, start=1):
        recorded = np.load(of_lava_dl(f"{PILOTNET}sigma{depth}{suffix}.npy")).transpose(2, 1, 0, 3)
        np.testing.assert_array_equal(record.v[layer.name][0, ..., :-depth], recorded[..., depth:])


@pytest.mark.lava
def test_the_output_recorded_by_lava_dl() -> None:
    network = read_netx(of_lava_dl(PILOTNET + "network.net"))
    image = np.load(of_lava_dl(PILOTNET + "input.npy")).transpose(2, 1, 0, 3)
    record = nd.simulate(network, image / network.encoder.weight, raw=True)
    recorded = np.load(of_lava_dl(PILOTNET + "output.npy"))
    assert record.spikes[network.output.name].item() == recorded[0, len(network.layers)]
    assert not sum(record.overflows.values())


@pytest.mark.lava
def test_the_changes_that_an_input_block_of_lava_dl_sent() -> None:
    recorded = np.load(of_lava_dl("gts/tinynet_sdnn/input.npy"))
    waves = np.load(of_lava_dl("gts/tinynet_sdnn/input_bias.npy"))[..., np.newaxis] * np.sin(2 * np.pi * np.arange(15) / 15)
    neurons = SigmaDeltaNeurons(sends(20), np.array(0), recorded[..., 0].size, 1)
    for t in range(15):
        neurons.encode(waves[..., t].astype(int).reshape(-1, 1))
        np.testing.assert_array_equal(neurons.sent.reshape(recorded.shape[:-1]), recorded[..., t])


@pytest.mark.lava
@pytest.mark.slow
def test_a_file_that_ends_in_an_average_is_read_up_to_it() -> None:
    """The spikes that lava-dl recorded before the average, which it leaves out, too."""
    network = read_netx(of_lava_dl("gts/ntidigits/ntidigits.net"))
    record = nd.simulate(network, np.load(of_lava_dl("gts/ntidigits/input.npy")).reshape(*network.input_shape, -1))
    recorded = np.load(of_lava_dl("gts/ntidigits/output.npy"))
    np.testing.assert_array_equal(record.spikes[network.output.name].reshape(recorded.shape)[:, :-4], recorded[:, 4:])


# ---------------------------------------------------------------------------------------------- without Lava


def two_layers(**of_network: Any) -> QuantizedNetwork:
    """Two inputs, one neuron that rectifies their difference, and the sum of three times what it sends."""

    def layer(name: str, neuron: QuantizedSigmaDelta, source: str, weight: list[int]) -> QuantizedLayer:
        synapse = QuantizedDense(weight=np.array([weight]), weight_bits=8)
        return QuantizedLayer(
            name=name, shape=(1,), neuron=neuron, connections=(Connection(source=source, synapse=synapse),), bias=np.array(0),
            scale=np.array(0.0),
        )  # fmt: skip

    layers = (
        layer("difference", sends(of_network.pop("vth", 3)), INPUT, [64, -64]),
        layer("sum", sends(0, only_sums=True), "difference", [3]),
    )
    encoder = Encoder(neuron=sends(2), weight=1, bias=0)
    return QuantizedNetwork(**{"input_shape": (2,), "layers": layers, "encoder": encoder} | of_network)


def test_changes_below_the_threshold_wait_for_the_next() -> None:
    # The second input goes up by 1, which is not sent, then by 2 more, and all 3 are. Spikes have 6 fractional bits, states 12.
    record = nd.simulate(two_layers(), [[5, 5, 5, 9], [0, 1, 3, 3]], raw=True, record="all")
    assert (record.v["difference"] / 4096).tolist() == [[[5, 5, 2, 6]]]
    assert (record.spikes["difference"] / 64).tolist() == [[[5, 0, -3, 4]]]
    assert (record.spikes["sum"] / 64).tolist() == [[[15, 15, 6, 18]]]
    assert record.counts["difference"].tolist() == [[3]]
    assert record.rates() == {"difference": 0.75, "sum": 1.0}


def test_a_bias_sends_before_the_first_input() -> None:
    first, second = two_layers().layers
    record = nd.simulate(two_layers(layers=(replace(first, bias=np.array([8])), second)), [[0], [0]], raw=True, record="all")
    assert record.spikes["sum"].tolist() == [[[3 * 8 * 64]]]  # as the chip does from power-up; nothing is left to send later
    assert record.spikes["difference"].tolist() == [[[0]]]


def test_files_hold_sigma_delta_networks(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for network in (two_layers(), two_layers(encoder=None), *(drawn(rng, 4)[0] for _ in range(12))):
        assert read_netx(write_netx(network, tmp_path / "network.net"), trusted=True) == network


SPIKING = {"vth": np.array(3), "du": np.array(9), "dv": np.array(9)}


def recurrent(network: QuantizedNetwork) -> QuantizedNetwork:
    first, second = network.layers
    loop = Connection(source="difference", synapse=QuantizedDense(weight=np.array([[2]]), weight_bits=3))
    return replace(network, layers=(replace(first, connections=(*first.connections, loop)), second))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (recurrent(two_layers()), "layer 'difference': .*in a chain without delays and recurrence"),
        (two_layers(encoder=Encoder(neuron=QuantizedLIF(**SPIKING), weight=1, bias=0)), "layer 'input': has spiking neurons"),
        (
            two_layers(layers=(replace(two_layers().layers[0], neuron=sends(1 << 19)), two_layers().layers[1])),
            "524288 is outside",
        ),
    ],
)
def test_what_netx_does_not_build_is_refused(network: QuantizedNetwork, said: str, tmp_path: Path) -> None:
    with pytest.raises(NetxError, match=said):
        write_netx(network, tmp_path / "network.net")
    with pytest.raises(NetworkError, match=said):
        nd.simulate(network, np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("neuron/activation", b"elu", "its activation 'elu' would run in Lava as 'relu'"),
        ("neuron/messageBits", 16, "has messageBits, which Lava cannot read"),
        ("delay", 3, "in a chain without delays"),
        ("neuron/vThMant", [3, 4], r"vThMant has shape \(2,\), not \(\)"),
    ],
)
def test_files_that_lava_would_run_as_something_else_are_refused(key: str, value: Any, said: str, tmp_path: Path) -> None:
    path = write_netx(two_layers(), tmp_path / "network.net")
    with h5py.File(path, "r+") as file:
        group = file["layer/1"]
        if key in group:
            del group[key]
        group[key] = value
    with pytest.raises(NetxError, match=said):
        read_netx(path)


def test_what_does_not_know_sigma_delta_neurons_refuses_them(tmp_path: Path) -> None:
    network = two_layers()
    with pytest.raises(QuantizeError, match=r"layer 'difference': sends graded spikes, and spikes of loihi1 carry no numbers"):
        check_profile(network, load_profile("loihi1"))
    check_profile(network, load_profile("loihi2"))
    for refused in (lambda: dequantize(network), lambda: write_nir(network, tmp_path / "network.nir")):
        with pytest.raises(NetworkError, match=r"layer 'difference': has sigma-delta neurons, .* simulated and verified"):
            refused()
    with pytest.raises(NetworkError, match=r"has sigma-delta neurons"):
        target_named("xylo").check(replace(network, target="xylo"))
    for option in ({"reset_interval": 3}, {"threads": 2}, {"device": "cpu"}):
        with pytest.raises(RequestError, match="is not for sigma-delta neurons"):
            nd.simulate(network, np.zeros((2, 3)), **option)
    with pytest.raises(DataError, match=r"beyond -262143\.\.262143 \(19 bits\)"):
        nd.simulate(network, np.full((2, 3), 1 << 18), raw=True)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_netx(two_layers(), tmp_path / "network.net"))
    assert main(["inspect", path, "--target", "loihi2"]) == 0
    assert re.search(r"Now: fits\..* Compressible: no\. .*sigma-delta neurons", " ".join(capsys.readouterr().out.split()))
    assert read_netx(path).notes == ("Neurons are sigma-delta: their spikes carry the change of a number, 16 bits each.",)
    assert main(["inspect", path, "--target", "loihi1"]) == 1
    assert "fits, but cannot be deployed: layer 'difference': sends graded spikes" in capsys.readouterr().out
    np.save(tmp_path / "raw.npy", [[5, 5, 5, 9], [0, 1, 3, 3]])
    record = str(tmp_path / "record.npz")
    assert main(["simulate", path, "--input", str(tmp_path / "raw.npy"), "--raw", "--out", record]) == 0
    assert (np.load(record)["spikes"] / 64).tolist() == [[[15, 15, 6, 18]]]
    assert main(["deploy", path, "--target", "loihi2", "--out", str(tmp_path / "out")]) == 0
    assert read_netx(tmp_path / "out" / "model.net") == two_layers()
    assert "carry the change of a number, 16 bits each" in (tmp_path / "out" / "report.txt").read_text()
    capsys.readouterr()
    for refused in (["compress", path, "--target", "loihi2", "--out", str(tmp_path / "compressed")], ["evaluate", path]):
        assert main([*refused, "--data", "digits"]) == 2
        assert "has sigma-delta neurons" in capsys.readouterr().err


def test_sums_that_wrap_are_overflows() -> None:
    network = two_layers(encoder=None)
    numbers = np.full((2, 3), [[1 << 29], [-(1 << 29)]])
    assert nd.simulate(network, numbers, graded=True).overflows["difference"]
    with pytest.raises(SimulationError, match=r"layer 'difference': left 32 bits 3 times: sums wrapped"):
        nd.simulate(network, numbers, graded=True, on_overflow="raise")
