"""Targets: a toy one goes the whole way; nothing outside `targets/loihi` knows Loihi; profiles without one are for counting."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from paper import in_floats, layer_of
from structure import parsed

import neurodeploy as nd
from neurodeploy import targets
from neurodeploy.__main__ import main as command_line
from neurodeploy.errors import NetworkError, ProfileError, QuantizeError, RequestError
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import COUNTING_ONLY, QuantizedDense, QuantizedLayer, QuantizedLIF, QuantizedNetwork
from neurodeploy.passes.quantize import with_rounded_weights
from neurodeploy.simulation.layer_schedule import run_reference
from neurodeploy.simulation.records import Recorded, SpikeRecord
from neurodeploy.targets import Registers, Target

# ---------------------------------------------------------------------------------------------- a toy target


class ToyTarget:
    """A chip whose decays are bit shifts, whose weights are symmetric, and whose files are NumPy's."""

    name, suffix, simulators, resets = "toy", ".toy", (), ("to zero",)
    registers = Registers(
        weight_bits=(4, 6), weight_exponent=0, current_bits=16, membrane_bits=16, threshold_bits=10, decay_bits=4, bias_min=-512,
        bias_max=511, source="toy data sheet",
    )  # fmt: skip
    other_forms: Mapping[str, Callable[[QuantizedNetwork], str]] = MappingProxyType({"txt": lambda network: network.target})

    def decay_registers(self, share: Floats) -> Integers:
        return np.clip(np.rint(-np.log2(np.maximum(share, 2.0**-15))), 0, 15).astype(np.int64)

    def decay_shares(self, registers: Integers) -> Floats:
        return np.asarray(2.0**-registers)

    def current_gain(self, du: Integers) -> Floats:
        return np.ones(du.shape)

    def adapted(self, network: nd.Network) -> nd.Network:
        return network

    def finished(self, network: QuantizedNetwork, largest: Mapping[str, float]) -> QuantizedNetwork:
        del largest
        return network

    def check_chip(self, network: QuantizedNetwork, profile: nd.HardwareProfile) -> None:
        del network, profile

    def weight_step(self, *, is_mixed: bool) -> int:
        del is_mixed
        return 1

    def most_steps(self, bits: int, *, is_mixed: bool) -> int:
        del is_mixed
        return (1 << (bits - 1)) - 1

    def as_run(self, weight: Integers) -> Integers:
        return weight

    def round_state(self, values: Floats) -> Integers:
        return np.rint(values).astype(np.int64)

    def check(self, network: QuantizedNetwork) -> None:
        for layer in network:
            if layer.weight_bits > 6:
                raise NetworkError(f"layer {layer.name!r}", "bits of a weight", need=layer.weight_bits, limit=6)

    def check_file(self, network: QuantizedNetwork) -> None:
        self.check(network)

    def write(self, network: QuantizedNetwork, path: Path) -> Path:
        names = [layer.name for layer in network]
        arrays = {}
        for layer in network:
            arrays |= {f"{layer.name}.{key}": getattr(layer.neuron, key) for key in ("vth", "du", "dv")}
            arrays |= {f"{layer.name}.weight": layer.weight, f"{layer.name}.scale": layer.scale, f"{layer.name}.bias": layer.bias}
        with path.open("wb") as file:
            np.savez(file, names=np.array(names), bits=np.array([layer.weight_bits for layer in network]), **arrays)
        return path

    def read(self, path: Path) -> QuantizedNetwork:
        layers, source = [], INPUT
        with np.load(path) as file:
            for name, bits in zip(file["names"].tolist(), file["bits"].tolist(), strict=True):
                weight = file[f"{name}.weight"]
                neuron = QuantizedLIF(**{key: file[f"{name}.{key}"] for key in ("vth", "du", "dv")})
                connection = Connection(source=source, synapse=QuantizedDense(weight=weight, weight_bits=bits))
                layers.append(QuantizedLayer(
                    name=name, shape=(len(weight),), neuron=neuron, connections=(connection,), bias=file[f"{name}.bias"],
                    scale=file[f"{name}.scale"],
                ))  # fmt: skip
                source = name
        n_inputs = layers[0].connections[0].synapse.n_in
        return QuantizedNetwork(input_shape=(n_inputs,), layers=tuple(layers), target=self.name)

    def emulate(
        self, network: QuantizedNetwork, spikes: NDArray[Any], *, record: Recorded = "output", raw: bool = False, **options: Any
    ) -> SpikeRecord:
        assert not raw
        assert not options
        return run_reference(nd.dequantize(network), spikes, record=record)

    def simulator_missing(self, simulator: str) -> str:
        return f"{simulator} does not exist"

    def run_simulator(self, network: QuantizedNetwork, spikes: NDArray[Any], **options: Any) -> SpikeRecord:
        raise NotImplementedError


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nd.HardwareProfile:
    """A profile that names the toy target, which is known as long as the test runs."""
    monkeypatch.setattr(targets, "_TARGETS", dict(targets._TARGETS))
    target: Target = ToyTarget()
    targets.register(target)
    path = tmp_path / "toychip.yaml"
    widths = '{value: [4, 6, 8], unit: bits, assumption: "a toy"}'
    path.write_text(f"name: toychip\ndescription: A toy.\nextends: tiny\ntarget: toy\nweight_bits: {widths}\n")
    return nd.load_profile(path)


WEIGHT = [[0.9, -0.4, 0.3], [0.2, 0.8, -0.6]]
NETWORK = in_floats(WEIGHT, threshold=[0.7, 0.7], current_decay=0.45, voltage_decay=0.3)
SPIKES = (np.random.default_rng(0).random((2, 3, 40)) < 0.4).astype(np.uint8)


def test_a_toy_target_goes_the_whole_way(toy: nd.HardwareProfile, tmp_path: Path) -> None:
    assert nd.inspect(NETWORK, toy).placement.fits
    quantized = nd.quantize(NETWORK, toy)
    assert quantized.target == "toy"
    layer = quantized.layers[0]
    assert np.abs(layer.weight).max() == 31  # the widest width of chip and target both: 6 bits, symmetric, not even
    assert (layer.weight % 2).any()
    assert (int(layer.neuron.du), int(layer.neuron.dv)) == (1, 2)  # shifts: 0.5 and 0.25

    made = nd.deploy(NETWORK, toy, out=tmp_path / "out")
    assert made.report.files["network"].endswith("model.toy")
    assert Path(made.report.files["txt"]).read_text() == "toy"
    assert made.report.to_json()["target"] == "toy"
    again = targets.target_of_file(Path("model.toy"))
    assert again is not None
    read = again.read(Path(made.report.files["network"]))
    assert read == made.quantized == quantized

    record = nd.simulate(read, SPIKES)
    expected = run_reference(nd.dequantize(quantized), SPIKES)
    np.testing.assert_array_equal(record.spikes["only"], expected.spikes["only"])
    assert record.spikes["only"].sum() > 5


def test_a_toy_target_goes_the_whole_way_on_the_command_line(
    toy: nd.HardwareProfile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del toy
    nd.write_nir(NETWORK, tmp_path / "net.nir")
    np.save(tmp_path / "spikes.npy", SPIKES)
    monkeypatch.chdir(tmp_path)
    for command in (
        "inspect net.nir --target toychip.yaml --json",
        "deploy net.nir --target toychip.yaml --out out --json",
        "export net.nir --to exported.toy --target toychip.yaml",
        "simulate out/model.toy --input spikes.npy --out record.npz",
    ):
        assert command_line(command.split()) == 0, capsys.readouterr().err
        if command.endswith("--json"):
            assert json.loads(capsys.readouterr().out)["target"] == "toy"
    assert (tmp_path / "exported.toy").is_file()
    assert (tmp_path / "record.npz").is_file()


def test_a_target_refuses_other_integers_and_what_it_cannot_hold(toy: nd.HardwareProfile) -> None:
    loihis = nd.quantize(NETWORK, nd.load_profile("tiny"))
    with pytest.raises(QuantizeError, match=r"^network: holds integers of target 'loihi', and toychip runs those of 'toy'"):
        nd.deploy(loihis, toy, out="unused")
    with pytest.raises(QuantizeError, match=r"^layer 'only': weights of 8 bits do not exist on toychip .*Choose from 4, 6\.$"):
        nd.quantize(NETWORK, toy, bits=8)
    with pytest.raises(RequestError, match=r"^end: 'lava' is no simulator\. Give one of 'emulator'"):
        nd.simulate(nd.quantize(NETWORK, toy), SPIKES, end="lava")
    with pytest.raises(RequestError, match=r"^verify: has nothing to compare with: target 'toy' has no simulator"):
        nd.verify(nd.quantize(NETWORK, toy))


def test_a_target_that_does_not_exist_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "chip.yaml"
    path.write_text("name: chip\ndescription: A toy.\nextends: tiny\ntarget: loihi3\n")
    with pytest.raises(ProfileError, match=r"^chip\.yaml: target: no target is called 'loihi3'\. Known targets are loihi"):
        nd.quantize(NETWORK, nd.load_profile(path))


@pytest.mark.parametrize(
    ("key", "bits", "message"),
    [
        ("decay_bits", 4, r"^layer 'only': its current decay \d+ is no multiple of 256 \(chip\.yaml: decay_bits\)"),
        ("state_bits", 8, r"^layer 'only': [\d,]+ threshold in the state > 127 \(chip\.yaml: state_bits\)"),
    ],
)
def test_registers_narrower_than_the_targets_hold_too(tmp_path: Path, key: str, bits: int, message: str) -> None:
    path = tmp_path / "chip.yaml"
    narrow = f'{key}: {{value: {bits}, unit: bits, assumption: "a toy"}}'
    path.write_text(f"name: chip\ndescription: A toy.\nextends: tiny\n{narrow}\n")
    with pytest.raises(QuantizeError, match=message):
        nd.quantize(NETWORK, nd.load_profile(path))


def test_a_narrow_threshold_register_lowers_the_scale(tmp_path: Path) -> None:
    path = tmp_path / "chip.yaml"
    path.write_text(
        'name: chip\ndescription: A toy.\nextends: tiny\nthreshold_bits: {value: 5, unit: bits, assumption: "a toy"}\n'
    )
    profile = nd.load_profile(path)
    neuron = nd.quantize(NETWORK, profile).layers[0].neuron
    assert isinstance(neuron, QuantizedLIF)
    assert int(neuron.vth) == 31
    with pytest.raises(QuantizeError, match=r"^layer 'only': 100 threshold > 31 \(chip\.yaml: threshold_bits\)"):
        nd.deploy(QuantizedNetwork(input_shape=(3,), layers=(layer_of([[1, 2, 3]], vth=100),)), profile, out="unused")


# ---------------------------------------------------------------------------------------------- counting only


@pytest.mark.parametrize("chip", ["odin", "truenorth", "dynapcnn"])
def test_a_profile_without_a_target_gives_verdict_and_report_but_no_network_file(chip: str, tmp_path: Path) -> None:
    profile = nd.load_profile(chip)
    assert profile.target is None
    made = nd.deploy(NETWORK, profile, out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.txt"]
    line = f"No network file: profile '{chip}' names no target; it is for counting only."
    (line,) = (one for one in made.report.warnings if one.startswith(line))
    assert line.endswith("add the line 'target: loihi'.")
    assert line in " ".join((tmp_path / "report.txt").read_text().split())
    assert json.loads((tmp_path / "report.json").read_text())["target"] is None
    assert made.quantized.target == COUNTING_ONLY
    assert made.quantized.layers[0].weight_bits == max(profile["weight_bits"].choices)  # the widest by default
    with pytest.raises(RequestError, match=r"^network: is rounded for a profile that names no target: it is for counting only\."):
        nd.simulate(made.quantized, SPIKES)


@pytest.mark.parametrize(("chip", "width"), [("odin", "4 bits"), ("truenorth", "1 bit"), ("loihi2", "")])
def test_inspect_says_that_it_counts_what_narrow_widths_round_to_zero(chip: str, width: str) -> None:
    note = f"Counted before rounding: `deploy` does not count the synapses that {width} round to zero."
    profile = nd.load_profile(chip)
    assert (note in nd.inspect(NETWORK, profile).sentences) == bool(width)
    assert not any("before rounding" in line for line in nd.inspect(nd.quantize(NETWORK, profile), profile).sentences)


def test_integers_for_counting_round_weights_alone() -> None:
    quantized = nd.quantize(NETWORK, nd.load_profile("odin"))
    rounded = with_rounded_weights(NETWORK, quantized)
    assert rounded.layers[0].neuron == NETWORK.layers[0].neuron
    steps = rounded.layers[0].weight / (0.9 / 7)  # 4 bits, both signs
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-9)
    assert np.abs(rounded.layers[0].weight - NETWORK.layers[0].weight).max() <= 0.9 / 14 + 1e-12


# ---------------------------------------------------------------------------------------------- who may know Loihi


def test_nothing_outside_the_targets_knows_loihis_registers_or_files() -> None:
    """The face re-exports `read_netx` and `write_netx`; all else goes through `neurodeploy.targets`."""
    package = Path(nd.__file__).parent
    found = []
    for path, tree in parsed().items():
        inside = path.relative_to(package).as_posix()
        if inside == "__init__.py" or inside.startswith("targets/loihi/"):
            continue
        for node in ast.walk(tree):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(module.startswith("neurodeploy.targets.loihi") for module in modules):
                found.append(inside)
            if isinstance(node, ast.Name | ast.Attribute) and (getattr(node, "id", "") or getattr(node, "attr", "")) in (
            "write_netx", "DECAY_UNITY", "STATE_MAX", "THRESHOLD_MAX", "MANTISSA_SHIFT", "BIAS_MAX", "NEVER_FIRES",
            ):  # fmt: skip
                found.append(inside)
    assert found == []
