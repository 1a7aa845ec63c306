"""The Xylo target from floats to files: rounding, what the chip has not and is refused, specifications, commands."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_subtractive import network_of, subtractive
from xylo_runs import drawn, layer_of_xylo, needs_xylosim, neurons_of_xylo

import neurodeploy as nd
from neurodeploy.__main__ import main as command_line
from neurodeploy.errors import DataError, NetworkError, QuantizeError, RequestError, SimulationError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI
from neurodeploy.ir.quantized import QuantizedDense, QuantizedNetwork
from neurodeploy.targets import target_named, target_of_file
from neurodeploy.targets.xylo import XYLO_TARGET as XYLO
from neurodeploy.targets.xylo import specification
from neurodeploy.targets.xylo.emulator import core_of
from neurodeploy.training.batches import DataSplit

XYLO_CHIP = nd.load_profile("xylo")

# ---------------------------------------------------------------------------------------------- from floats to integers

FLOATS = network_of([
    np.random.default_rng(1).normal(0, 1, (12, 6)), np.random.default_rng(2).normal(0, 0.6, (9, 12)),
    np.random.default_rng(3).normal(0, 0.6, (4, 9)),
], subtractive(current=0.3, voltage=0.2))  # fmt: skip
SPIKES = (np.random.default_rng(4).random((4, 6, 60)) < 0.4).astype(np.uint8)


def test_decays_become_shifts_and_keep_the_steady_state() -> None:
    adapted = XYLO.adapted(FLOATS)
    quantized = nd.quantize(FLOATS, XYLO_CHIP)
    for layer, before, integers in zip(adapted, FLOATS, quantized, strict=True):
        assert (float(layer.neuron.current_decay), float(layer.neuron.voltage_decay)) == (0.25, 0.25)
        assert (int(integers.neuron.du), int(integers.neuron.dv)) == (2, 2)
        gains = [each.weight / (each.neuron.current_decay * each.neuron.voltage_decay) for each in (layer, before)]
        np.testing.assert_allclose(*gains, rtol=1e-9)
    assert [int(getattr(layer.neuron, "max_spikes", 0)) for layer in quantized] == [31, 31, 1]
    errors = nd.quantization_errors(FLOATS, quantized)
    assert [round(error.decay_error, 6) for error in errors] == [0.05] * 3
    assert max(error.weight_error for error in errors) < 0.02


def test_integers_fire_as_the_floats_that_they_stand_for() -> None:
    quantized = nd.quantize(FLOATS, XYLO_CHIP)
    chip, floats = (nd.simulate(each, SPIKES, record="all") for each in (quantized, nd.dequantize(quantized)))
    for name in chip.spikes:
        ours, meant = chip.spikes[name].sum(axis=-1).ravel(), floats.spikes[name].sum(axis=-1).ravel()
        assert meant.sum() > 30
        assert np.corrcoef(ours, meant)[0, 1] > 0.97


def test_a_current_of_one_step_becomes_the_shortest_that_xylo_has() -> None:
    """Of a spike, the whole weight reaches the membrane: half of it, a quarter, and so on."""
    quantized = nd.quantize(network_of([[[0.8, 0.3]], [[1.0]]], subtractive(current=1.0, voltage=0.0)), XYLO_CHIP)
    first = quantized.layers[0]
    assert int(first.neuron.du) == 1
    silent = replace(quantized, layers=(replace(first, neuron=neurons_of_xylo(32767, 1, 15)), quantized.output))
    record = nd.simulate(silent, np.array([[[1] + [0] * 20, [0] * 21]]), record="all")
    assert abs(int(record.v["layer0"].max()) / float(first.scale) / 0.8 - 1) < 0.06


@pytest.mark.parametrize("share", [1.0, 0.5, 0.36, 0.1, 0.001, 0.0])
def test_a_shift_is_the_nearest_in_the_time_constant(share: float) -> None:
    shift = int(XYLO.decay_registers(np.array(share)))
    assert shift == int(np.argmin([abs(np.log2(max(share, 2.0**-15)) + each) for each in range(16)]))


def test_every_float_kind_has_a_place_or_a_reason() -> None:
    names = ("threshold", "current_decay", "voltage_decay", "rest")
    to_zero = tuple(
        replace(layer, neuron=nd.LIF(**{name: getattr(layer.neuron, name) for name in names})) for layer in FLOATS
    )  # fmt: skip
    with pytest.raises(QuantizeError, match=r"^layer 'layer0': resets to zero, and neurons of target 'xylo' by .*loihi"):
        nd.quantize(replace(FLOATS, layers=to_zero), XYLO_CHIP)
    readout = LI(current_decay=np.array(0.3), voltage_decay=np.array(0.2), rest=np.zeros(()))
    first, second, last = FLOATS.layers
    made = nd.quantize(replace(FLOATS, layers=(first, second, replace(last, neuron=readout))), XYLO_CHIP)
    assert nd.simulate(made, SPIKES).v["layer2"].any()
    with pytest.raises(QuantizeError, match=r"^layer 'layer1': never fires, and only Xylo's readout neurons can be read so"):
        nd.quantize(replace(FLOATS, layers=(first, replace(second, neuron=readout), last)), XYLO_CHIP)


# ---------------------------------------------------------------------------------------------- refused


def pair(*layers: Any) -> QuantizedNetwork:
    return QuantizedNetwork(input_shape=(2,), layers=layers, target="xylo")


def hidden(vth: Any = 9, bias: Any = 0, **registers: Any) -> Any:
    return layer_of_xylo("hidden", [[3, 4], [5, -6]], neurons_of_xylo(vth, **registers), bias=bias)


def readout(weight: Any = ((1, 2),), source: str = "hidden") -> Any:
    return layer_of_xylo("readout", weight, neurons_of_xylo(9, most=1), source)


def late(layer: Any) -> Any:
    return replace(layer, connections=tuple(replace(c, delay_steps=1) for c in layer.connections))


def receiving(layer: Any, source: str, weight: Any, delay: int = 0) -> Any:
    synapse = QuantizedDense(weight=np.asarray(weight), weight_bits=8)
    return replace(layer, connections=(*layer.connections, Connection(source=source, synapse=synapse, delay_steps=delay)))


ONES = np.eye(2, dtype=int)
SECOND = layer_of_xylo("second", [[1, 2], [3, 4]], neurons_of_xylo(9), "hidden")
REFUSED = {
    "one layer": (pair(replace(hidden(), name="only")), r"^layer 'only': would be read and receive the input"),
    "input to readout": (pair(hidden(), receiving(readout(), INPUT, [[1, 2]])), r"^layer 'readout': receives 'input', and"),
    "readout to itself": (pair(hidden(), receiving(readout(), "readout", [[1]])), r"^layer 'readout': receives 'readout'"),
    "skip": (
        pair(hidden(), SECOND, receiving(readout(source="second"), "hidden", [[1, 2]])),
        r"^layer 'readout': its input from 'hidden' arrives 1 steps off its other input: Xylo's synapses have no delays",
    ),
    "late input": (pair(late(hidden()), readout()), r"^layer 'hidden': its input from 'input' arrives before the chip can"),
    "late loop": (pair(receiving(hidden(), "hidden", ONES, 1), readout()), r"^layer 'hidden': its input from 'hidden' comes"),
    "wide weights": (
        pair(hidden(), readout([[200, 1]])), r"^network: its readout weights 1\.\.200 need more than the 8 bits of a weight",
    ),
    "no current": (pair(hidden(du=0), readout()), r"^layer 'hidden': .*\.du: 0 is outside 1\.\.15"),
    "threshold": (pair(hidden(40000), readout()), r"^layer 'hidden': .*vth: 40000 is outside 1\.\.32767"),
    "bias": (pair(hidden(bias=40000), readout()), r"^layer 'hidden': .*bias: 40000 is outside"),
    "one spike": (pair(hidden(most=1), readout()), r"^layer 'hidden': fires at most 1 spikes in a step, and Xylo's neurons 31"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_chip_has_not_is_refused_by_layer(case: str) -> None:
    network, message = REFUSED[case]
    with pytest.raises(NetworkError, match=message):
        nd.simulate(network, np.ones((1, 2, 5)))


def test_what_the_chip_has_is_not_refused() -> None:
    for network in (pair(receiving(hidden(), "hidden", ONES), readout()), pair(hidden(), readout([[200, 4]]))):
        assert nd.simulate(network, np.ones((1, 2, 5))).n_steps == 5


def test_a_delay_that_the_chip_has_is_kept() -> None:
    """A hidden neuron receives another's spikes one step later: a delay of 1 between two layers that both receive the input."""
    other = receiving(replace(hidden(), name="other"), "hidden", [[7, 1], [0, 2]], 1)
    network = pair(hidden(), other, readout(source="other"))
    assert dict(core_of(network).lags) == {"hidden": 0, "other": 0, "readout": 1}
    spikes = np.random.default_rng(0).integers(0, 2, (1, 2, 20))
    record = nd.simulate(network, spikes, record="all")
    alone = nd.simulate(pair(hidden(), readout()), spikes, record="all")
    np.testing.assert_array_equal(record.spikes["hidden"], alone.spikes["hidden"])
    assert record.spikes["other"].any()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((17, 5, 3), r"^network: 17 inputs > 16 \(xylo\.yaml: external_inputs\)"),
        ((4, 600, 401, 3), r"^network: 1,001 hidden neurons > 1,000 \(xylo\.yaml: neurons_per_core\)"),
        ((4, 5, 9), r"^network: 9 readout neurons > 8 \(xylo\.yaml: neurons_per_core\)"),
    ],
)
def test_more_than_the_chip_has_is_refused(sizes: tuple[int, ...], message: str) -> None:
    rng = np.random.default_rng(0)
    network = network_of([rng.normal(size=(n, m)) for m, n in pairwise(sizes)])
    with pytest.raises(QuantizeError, match=message):
        nd.quantize(network, XYLO_CHIP)


def test_other_input_and_options_are_refused() -> None:
    network = pair(hidden(), readout())
    with pytest.raises(DataError, match=r"^input spikes: 0\.\.16 in a step are not within 0\.\.15"):
        nd.simulate(network, np.array([[[16, 0], [1, 0]]]), graded=True)
    with pytest.raises(RequestError, match=r"^raw: input needs an input population"):
        nd.simulate(network, np.ones((1, 2, 5)), raw=True)
    with pytest.raises(RequestError, match=r"^reset_interval: is no option of target 'xylo'"):
        nd.simulate(network, np.ones((1, 2, 5)), reset_interval=2)
    with pytest.raises(RequestError, match=r"^device: is no option of target 'xylo'"):
        nd.simulate(network, np.ones((1, 2, 5)), device="cpu")
    saturating, spikes = drawn(2)
    with pytest.raises(SimulationError, match=r"^layer 'layer\d': left 16 bits [\d,]+ times: it was saturated"):
        nd.simulate(saturating, spikes, graded=True, on_overflow="raise")


def test_a_missing_simulator_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("neurodeploy.targets.simulator_process.is_importable", lambda _: False)
    missing = r"^xylo: xylosim cannot be imported by Python .* neurodeploy simulators install xylo"
    assert re.match(missing, XYLO.simulator_missing("xylosim"))
    with pytest.raises(SimulationError, match=missing):
        nd.simulate(pair(hidden(), readout()), np.ones((1, 2, 5)), end="xylosim")


@needs_xylosim
def test_a_run_that_takes_too_long_or_dies_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    network = pair(hidden(), readout())
    with pytest.raises(SimulationError, match=r"^xylo: was not done after 0\.01 s"):
        nd.simulate(network, np.ones((1, 2, 5)), end="xylosim", time_limit_s=0.01)
    monkeypatch.setattr(specification, "specification_of", lambda _: {"threshold": np.ones(1)})
    with pytest.raises(SimulationError, match=r"^xylo: died: KeyError"):
        nd.simulate(network, np.ones((1, 2, 5)), end="xylosim")


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("seed", range(6))
def test_a_file_comes_back_equal(seed: int, tmp_path: Path) -> None:
    network, spikes = drawn(seed)
    path = XYLO.write(network, tmp_path / "model.npz")
    assert target_of_file(path) is target_named("xylo")
    assert XYLO.read(path) == network
    # what a board takes: plain arrays, of the shapes and ranges that rockpool's config_from_specification wants
    with np.load(path) as file:
        plain = {name: array for name, array in file.items() if "/" not in name}
    n_hidden, n_readout = plain["weights_out"].shape
    assert plain["weights_in"].shape == (network.n_inputs, n_hidden)
    assert plain["weights_rec"].shape == (n_hidden, n_hidden)
    for memory in ("in", "rec", "out"):
        assert -128 <= plain[f"weights_{memory}"].min() <= plain[f"weights_{memory}"].max() <= 127
        assert 0 <= plain[f"weight_shift_{memory}"] <= 7
    assert {len(plain[f"{name}_out"]) for name in ("dash_mem", "dash_syn", "threshold")} == {n_readout}
    # without the layers, as one that rockpool wrote, it is one hidden layer that fires the same
    np.savez(tmp_path / "plain.npz", **plain)
    output, lag = network.output.name, core_of(network).lags[network.output.name] - 1
    padded = np.pad(spikes, ((0, 0), (0, 0), (0, lag)))
    record = nd.simulate(XYLO.read(tmp_path / "plain.npz"), padded, graded=True)
    np.testing.assert_array_equal(record.spikes["readout"][..., lag:], nd.simulate(network, spikes, graded=True).spikes[output])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.pop("weights_out"), r"has layers that do not make its weights_out"),
        (lambda file: file.update(threshold=file["threshold"] + 1), r"has layers that do not make its threshold"),
        (lambda file: file.update({"/layers": np.array("{}")}), r"is no network for Xylo: it has no layers"),
        (lambda file: file.update({"/layers": np.array("[")}), r"is no network for Xylo: Expecting value"),
        (lambda file: [file.pop(name) for name in list(file) if "/" in name or name == "weights_in"], r"it has no weights_in"),
    ],
)
def test_a_damaged_file_is_refused(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = XYLO.write(drawn(0)[0], tmp_path / "model.npz")
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=message):
        XYLO.read(path)


# ---------------------------------------------------------------------------------------------- the commands

MODEL = """
import torch

def data():
    batch = torch.rand(8, 6), torch.arange(8) % 4
    return [batch], [batch]
"""


@needs_xylosim
def test_the_whole_way_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MODEL)

    def run(command: str) -> dict[str, Any]:
        code = command_line([*command.split(), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        found: dict[str, Any] = json.loads(captured.out)
        return found

    made = nd.deploy(FLOATS, XYLO_CHIP, out="out")
    # the specification without NumPy: what the .npz has for a board, and nothing else
    listed = json.loads(Path(made.report.files["json"]).read_text())
    with np.load(made.report.files["network"]) as file:
        assert sorted(listed) == sorted(name for name in file if "/" not in name)
        assert all(np.array_equal(file[name], value) for name, value in listed.items())
    assert made.report.to_json()["target"] == "xylo"
    assert any(
        re.search(r"Layer 'layer0' has the chip's decays: .* up to 0\.050 of a state", line) for line in made.report.warnings
    )
    assert run("inspect out/model.npz --target xylo")["fits"]
    assert run("deploy out/model.npz --target xylo --out again")["target"] == "xylo"
    assert run("verify out/model.npz --target xylo --steps 20")["equal"]
    assert 0 <= run("evaluate out/model.npz --data mine.py:data --steps 20")["classification_accuracy"] <= 1


XYLO_TYPE = type(XYLO)
OPTIONS = nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=0, n_steps=6)


def halves() -> DataSplit:
    batch = torch.rand(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
    return DataSplit(train=[batch], test=[batch], input_shape=(6,), n_classes=4)


@pytest.mark.parametrize("start", [nd.compress, "command"])
def test_decays_that_are_shifts_do_not_learn(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused before any training."""
    message = (
        r"learn_decays: target 'xylo' has few decays, far apart \(0\.5, 0\.25, 0\.125 \.\.\.\): they cannot learn .*Leave it out"
    )
    if start == "command":
        monkeypatch.chdir(tmp_path)
        Path("mine.py").write_text(MODEL)
        nd.write_nir(FLOATS, "net.nir")
        command = "compress net.nir --reset subtract --data mine.py:data --target xylo --steps 6 --learn-decays --out out"
        assert command_line(command.split()) == 2
        assert re.search(message, " ".join(capsys.readouterr().err.split()))
        return
    steps: list[Any] = []
    options = replace(OPTIONS, learn_decays=True)
    with pytest.raises(RequestError, match=f"^{message}"):
        start(FLOATS, None, XYLO_CHIP, halves(), options, out=tmp_path / "out", progress=steps.append)
    assert not steps


class OfSnnTorch(torch.nn.Module):
    """Two layers of snnTorch's neurons as they are by default; with other options of the last, and a linear layer behind it."""

    def __init__(self, *, behind: bool = False, membrane: bool = False) -> None:
        super().__init__()
        snntorch = pytest.importorskip("snntorch")
        self.membrane, reset = membrane, {"reset_mechanism": "none"} if membrane else {}
        self.first, self.hidden = torch.nn.Linear(6, 12, bias=False), snntorch.Leaky(0.8)
        self.second, self.last = torch.nn.Linear(12, 4, bias=False), snntorch.Leaky(0.8, **reset)
        self.behind = torch.nn.Linear(4, 4, bias=False) if behind else torch.nn.Identity()
        for linear in filter(lambda module: isinstance(module, torch.nn.Linear), self.children()):
            torch.nn.init.uniform_(linear.weight, -0.3, 0.9, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Any, state: Any = None) -> Any:
        first, last = (self.hidden.init_leaky(), self.last.init_leaky()) if state is None else state
        spikes, first = self.hidden(self.first(x), first)
        spikes, last = self.last(self.second(spikes), last)
        return (last if self.membrane else self.behind(spikes)), (first, last)


def test_a_last_layer_that_resets_late_has_a_remedy_that_works() -> None:
    def run(**options: bool) -> tuple[nd.SpikeRecord, nd.SpikeRecord]:
        network = nd.extract(OfSnnTorch(**options), torch.zeros(1, 6))
        return nd.simulate(nd.quantize(network, XYLO_CHIP), SPIKES, record="all"), nd.simulate(network, SPIKES, record="all")

    remedy = r"reset_mechanism='none', return mem\), or put a linear layer behind it"
    with pytest.raises(NetworkError, match=rf"^layer '\w+': receives '\w+', and Xylo's readout .*{remedy}"):
        run()
    for options in ({"membrane": True}, {"behind": True}):
        chip, floats = run(**options)
        assert floats.spikes[next(iter(floats.spikes))].sum() > 100
        assert np.corrcoef(chip.v[chip.output].ravel(), floats.v[floats.output].ravel())[0, 1] > 0.8, options
