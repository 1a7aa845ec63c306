"""The whole way on real digits, small enough for every test run; `.ci/run` runs the demo itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.cli.experiments import digits_model
from neurodeploy.errors import DataError, RequestError
from neurodeploy.passes.dead_neurons import needed_neurons, without_neurons
from neurodeploy.training.batches import DataSplit

OPTIONS = nd.FitOptions(epochs_dense=6, epochs_compress=3, epochs_finetune=2, n_steps=8)


def model_for_digits(hidden: int = 48) -> SequentialState:
    torch.manual_seed(0)
    neurons = LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3))
    return SequentialState(
        torch.nn.Linear(64, hidden, bias=False), LIFCell(neurons), torch.nn.Linear(hidden, 10, bias=False), LICell()
    )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> tuple[nd.Deployment, Path, list[str]]:
    """A network that needs three cores of the toy chip, compressed onto one, without Lava."""
    out, news = tmp_path_factory.mktemp("deployed"), []
    made = nd.compress(
        model_for_digits(), torch.zeros(1, 64), nd.load_profile("tiny"), nd.load_data("digits"), OPTIONS,
        out=out, cores=1, lava_samples=0, say=news.append,
    )  # fmt: skip
    return made, out, news


def test_it_did_not_fit_and_now_does(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    report = deployment[0].report
    assert report.before is not None
    assert report.before.cores_used > 1
    assert deployment[0].placement.fits
    assert deployment[0].placement.cores_used == 1


def test_the_layers_keep_their_budget(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    """Memory together, for it is one core's; axons each."""
    layers = deployment[0].report.layers
    assert sum(layer.now.synapse_memory_bits for layer in layers) <= 16384
    for layer in layers:
        assert layer.budget is not None
        assert layer.now.input_axons <= layer.budget.input_axons
        assert layer.now.output_axons <= layer.budget.output_axons


def test_it_still_reads_digits_on_every_rung(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    rungs = deployment[0].report.accuracy
    assert rungs.test_samples == 454
    assert rungs.dense is not None
    assert rungs.emulated is not None
    assert rungs.dense > 0.85
    assert rungs.emulated > 0.75
    assert abs(rungs.emulated - (rungs.compressed or 0)) < 0.05
    assert rungs.lava is None


def test_the_report_tells_each_layers_rounding_error(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    said = " ".join(str(deployment[0].report).split())
    for error in deployment[0].report.rounding:
        assert 0 < error.weight_error < 0.05
        assert f"{error.layer}: weights {error.weight_error:.2%}, thresholds {error.threshold_error:.2%}" in said


def test_its_files_are_there_and_agree(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    made, out, _ = deployment
    said = json.loads((out / "report.json").read_text())
    assert said == json.loads(json.dumps(made.report.to_json()))
    assert (out / "report.txt").read_text() == f"{made.report}\n"
    assert nd.read_netx(out / "model.net") == made.quantized
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint-compressed.safetensors",
        "checkpoint-dense.safetensors",
        "model.net",
        "record.npz",
        "report.html",
        "report.json",
        "report.txt",
        "weights.safetensors",
    ]


def test_its_weights_can_be_loaded_and_deployed_again(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    made, out, _ = deployment
    model = model_for_digits()
    nd.load_weights(model, out / "weights.safetensors")
    network = nd.extract(model, torch.zeros(1, 64))
    network = without_neurons(network, needed_neurons(network))
    widths = {layer.name: layer.weight_bits for layer in made.quantized}
    assert nd.quantize(network, nd.load_profile("tiny"), bits=widths) == made.quantized


def test_it_tells_the_news_on_the_way(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    news = deployment[2]
    assert news[0].startswith("Does not fit: ")
    assert any(line.startswith("Dense: ") for line in news)
    assert news[-1].endswith("Fits: 1 of 1 core.")


def test_the_files_of_an_earlier_run_are_kept_and_not_passed_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_text("of an earlier run")
    network = nd.extract(model_for_digits(), torch.zeros(1, 64))
    report = nd.deploy(network, nd.load_profile("loihi2"), out=tmp_path).report
    assert set(report.files) == {"network", "page", "report", "text"}
    assert (tmp_path / "weights.safetensors").read_text() == "of an earlier run"


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    network = nd.extract(model_for_digits(), torch.zeros(1, 64))
    with pytest.raises(RequestError, match="out: is no folder to write to"):
        nd.deploy(network, nd.load_profile("loihi2"), out=tmp_path / "out")


def test_without_lava_the_emulators_spikes_are_recorded(deployment: tuple[nd.Deployment, Path, list[str]]) -> None:
    with np.load(deployment[1] / "record.npz") as record:
        assert record["spikes"].shape == (1, 10, 8)
        assert json.loads(str(record["meta"]))["end"] == "emulator"


@pytest.mark.lava
def test_a_lava_that_hangs_costs_its_rung_and_nothing_else(tmp_path: Path) -> None:
    made = nd.compress(
        model_for_digits(24), torch.zeros(1, 64), nd.load_profile("tiny"), nd.load_data("digits"),
        nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=0, n_steps=4), out=tmp_path, time_limit_s=0.1,
    )  # fmt: skip
    assert made.report.lava is None
    assert made.report.accuracy.lava is None
    assert made.report.accuracy.emulated is not None
    assert "was not done after 0.1 s" in str(made.report)
    assert (tmp_path / "report.json").is_file()


def test_a_layer_that_rounding_silences_is_named_with_its_rates(tmp_path: Path) -> None:
    model = model_for_digits(8)
    with torch.no_grad():
        model[0].weight.fill_(0.02)
        model[0].weight[0, 0] = -10.0  # takes the whole range of the integers, and all others round to nothing
    report = nd.deploy(nd.extract(model, torch.zeros(1, 64)), nd.load_profile("loihi2"), out=tmp_path).report
    silent = next(warning for warning in report.warnings if "went silent" in warning)
    assert re.fullmatch(
        r"Layer 'layer0' went silent by quantising: 0\.\d*[1-9]\d* spikes a neuron and step before, 0\.0000 after "
        r"\(on random input spikes\)\.",
        silent,
    )
    assert "Layer 'layer0' lost 511 synapses that rounded to zero." in report.warnings
    assert all(note[0].isupper() and note.endswith(".") for note in report.warnings)  # sentences


@pytest.mark.lava
def test_emulator_and_lava_agree_on_the_deployed_network(tmp_path: Path) -> None:
    made = nd.compress(
        model_for_digits(24), torch.zeros(1, 64), nd.load_profile("tiny"), nd.load_data("digits"),
        nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=0, n_steps=6), out=tmp_path, cores=1, lava_samples=5,
    )  # fmt: skip
    assert made.report.lava is not None
    assert (made.report.lava.steps, made.report.lava.mismatches) == (30, 0)
    assert made.report.lava.spikes > 0
    assert made.report.accuracy.lava_samples == 5
    assert made.report.accuracy.emulated_on_lava_samples == made.report.accuracy.lava  # spike for spike
    with np.load(tmp_path / "record.npz") as record:
        assert record["spikes"].shape == record["v"].shape == (5, 10, 6)
        assert json.loads(str(record["meta"]))["end"] == "lava"


def test_the_demo_does_not_fit_the_core_that_it_is_given() -> None:
    network = nd.extract(digits_model(), torch.zeros(1, 64))
    assert not nd.inspect(network, nd.load_profile("loihi2"), cores=1).placement.fits


class Skipping(torch.nn.Module):
    """Its outputs hear hidden neurons and the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.skip = torch.nn.Linear(64, 12, bias=False), torch.nn.Linear(64, 10, bias=False)
        self.second = torch.nn.Linear(12, 10, bias=False)
        self.hidden, self.out = LIFCell(), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        hidden, out = (None, None) if state is None else state
        spikes, hidden = self.hidden(self.first(x), hidden)
        v, out = self.out(self.second(spikes) + self.skip(x), out)
        return v, (hidden, out)


def test_a_skip_is_trained_under_a_budget(tmp_path: Path) -> None:
    chip, data = nd.load_profile("loihi2"), nd.load_data("digits")
    made = nd.compress(Skipping(), torch.zeros(1, 64), chip, data, OPTIONS, out=tmp_path, lava_samples=0)
    assert made.placement.fits
    assert any(len(layer.connections) == 2 for layer in made.quantized)
    assert made.report.accuracy.compressed == pytest.approx(made.report.accuracy.emulated, abs=0.02)


def test_a_neuron_that_hears_nobody_and_always_fires_is_deployed_and_told_of(tmp_path: Path) -> None:
    """It brings the bias to neurons with a current; there is nothing of it to prune."""
    model = SequentialState(torch.nn.Linear(6, 5), LIFCell(), torch.nn.Linear(5, 3, bias=False), LICell())
    made = nd.deploy(nd.extract(model, torch.zeros(1, 6)), nd.load_profile("loihi2"), out=tmp_path)
    lonely = next(layer for layer in made.report.layers if layer.now.synapses == 0)
    assert lonely.connectivity == 1.0
    assert lonely.now.layer in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_inspect_says_what_compression_can_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Synapses, channels of convolutions, hidden neurons, or nothing: the output has more neurons than cores hold."""
    tiny = nd.load_profile("tiny")
    dense = nd.inspect(nd.extract(model_for_digits(), torch.zeros(1, 64)), tiny, cores=1)
    assert dense.compressible == "Compressible: yes."
    torch.manual_seed(0)
    images = SequentialState(
        torch.nn.Conv2d(1, 8, 3, padding=1, bias=False), LIFCell(), torch.nn.Flatten(),
        torch.nn.Linear(512, 4, bias=False), LICell(),
    )  # fmt: skip
    network = nd.extract(images, torch.zeros(1, 1, 8, 8))
    seen = nd.inspect(network, tiny, cores=4)
    assert seen.budget is not None
    left = seen.budget.grid("layer0")[0]
    assert 1 <= left < 8
    assert seen.compressible == f"Compressible: yes; channels: layer0 keeps {left} of 8."
    assert nd.narrow_budget(network, tiny, cores=4).grid("layer0")[0] == left
    wide = nd.extract(model_for_digits(200), torch.zeros(1, 64))
    fewer = nd.inspect(wide, tiny, cores=1)
    assert fewer.budget is not None
    hidden = fewer.budget.layers[0].neurons
    assert 1 <= hidden <= 54
    assert fewer.compressible == f"Compressible: yes; neurons: layer0 keeps {hidden} of 200."
    torch.manual_seed(0)
    wide = nd.extract(SequentialState(torch.nn.Linear(64, 210, bias=False), LICell()), torch.zeros(1, 64))
    refused = nd.inspect(wide, tiny, cores=1)
    assert refused.budget is None
    assert refused.compressible.startswith("Compressible: no. layer 'layer0': 210 neurons of the network on 1 core")
    assert refused.to_json()["compressible"] is False
    file = nd.write_netx(nd.quantize(wide, tiny), tmp_path / "wide.net")
    assert main(["inspect", str(file), "--target", "tiny", "--cores", "1"]) == 1
    assert "Compressible: no. layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.flatten(1)[:, :32], y), "inputs: have shape"),
        (lambda x, y: (x, y + 5), "class 14 is outside 0..9"),
        (lambda x, y: (x, y.float()), "not whole numbers"),
    ],
)
def test_what_would_fail_after_training_fails_before_it(
    change: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]], message: str, tmp_path: Path
) -> None:
    digits, steps = nd.load_data("digits"), list[object]()
    test = [change(torch.as_tensor(x), torch.as_tensor(y)) for x, y in digits.test]
    data = DataSplit(train=digits.train, test=test, input_shape=digits.input_shape, n_classes=digits.n_classes)
    with pytest.raises(DataError, match=message):
        nd.compress(
            model_for_digits(), torch.zeros(1, 64), nd.load_profile("tiny"), data, OPTIONS,
            out=tmp_path, cores=1, lava_samples=0, progress=steps.append,
        )  # fmt: skip
    assert steps == []


def test_a_network_that_cannot_be_written_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Path:
        raise RequestError("model.net", "cannot be written")

    monkeypatch.setattr("neurodeploy.targets.loihi.netx_io.write_netx", broken)
    steps: list[object] = []
    with pytest.raises(RequestError, match="cannot be written"):
        nd.compress(
            model_for_digits(), torch.zeros(1, 64), nd.load_profile("tiny"), nd.load_data("digits"), OPTIONS,
            out=tmp_path, cores=1, lava_samples=0, progress=steps.append,
        )  # fmt: skip
    assert steps == []


class OneFilterTwice(torch.nn.Module):
    """A convolution that two layers use, with a bias in front of a current, which reaches them as a row."""

    def __init__(self) -> None:
        super().__init__()
        self.filters, self.out = torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Linear(64, 10, bias=False)
        self.cells = torch.nn.ModuleList([LIFCell(), LIFCell(), LICell()])

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        a, b, c = state or (None, None, None)
        spikes, a = self.cells[0](self.filters(x), a)
        spikes, b = self.cells[1](self.filters(spikes), b)
        out, c = self.cells[2](self.out(spikes.flatten(1)), c)
        return out, (a, b, c)


@pytest.mark.parametrize("is_file", [False, True])
def test_weights_that_no_file_can_hold_are_told_of_before_training_and_do_not_end_it(is_file: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, sample, digits = OneFilterTwice(), torch.zeros(1, 1, 8, 8), nd.load_data("digits")
    train, test = ([(torch.as_tensor(x).reshape(-1, 1, 8, 8), y) for x, y in half] for half in (digits.train, digits.test))
    data = DataSplit(train=train[:2], test=test[:1], input_shape=(1, 8, 8), n_classes=10)
    options = nd.FitOptions(epochs_dense=0, epochs_compress=1, epochs_finetune=0, n_steps=4)
    news: list[str] = []
    made = nd.compress(
        nd.extract(model, sample) if is_file else model, None if is_file else sample, nd.load_profile("tiny"), data, options,
        out=tmp_path, cores=4, lava_samples=0, say=news.append,
    )  # fmt: skip
    (told,) = (line for line in made.report.warnings if "No trained.nir: layer" in line)
    assert told.endswith("The trained network is in model.net, in the chip's integers.")
    first_stage = next(number for number, line in enumerate(news) if line.startswith("Dense:"))
    assert told in news[:first_stage]
    shared = [line for line in made.report.warnings if "'filters.weight' of the model is in layers" in line]
    assert len(shared) == (not is_file)
    assert sorted(made.report.files) == ["network", "page", "record", "report", "text"]
    assert not (tmp_path / "trained.nir").exists()


@pytest.mark.parametrize("kind", ["as it is", "no synapses", "weights of 1e30", "a threshold of 1e30"])
def test_inspect_says_what_deploy_refuses(kind: str, make_network: Callable[..., nd.Network], tmp_path: Path) -> None:
    network = make_network([6, 5, 3])
    first, last = network.layers
    (connection,) = first.connections
    factor = {"no synapses": 0.0, "weights of 1e30": 1e30}.get(kind, 1.0)
    neuron = replace(first.neuron, threshold=np.array(1e30)) if "threshold" in kind else first.neuron
    synapse = replace(connection.synapse, weight=connection.synapse.weight * factor)
    network = replace(network, layers=(replace(first, neuron=neuron, connections=(replace(connection, synapse=synapse),)), last))
    seen, refused = nd.inspect(network, nd.load_profile("loihi2")), ""
    try:
        nd.deploy(network, nd.load_profile("loihi2"), out=tmp_path / "out")
    except nd.NeurodeployError as error:
        refused = str(error)
    assert bool(refused) == (kind != "as it is")
    assert str(seen.unwritable or "") == refused
    assert seen.fits == (not refused)
    assert (f"Now: fits, but cannot be deployed: {refused}" in seen.sentences) == bool(refused)
    assert ("layer1" in seen.silent) == (kind == "no synapses")


def test_a_silent_layer_is_named_and_a_readout_is_none(make_network: Callable[..., nd.Network], tmp_path: Path) -> None:
    network = make_network([6, 5, 3])
    first, last = network.layers
    (connection,) = first.connections
    negative = replace(connection.synapse, weight=-np.abs(connection.synapse.weight))
    inhibited = replace(network, layers=(replace(first, connections=(replace(connection, synapse=negative),)), last))
    said = [nd.deploy(one, "loihi2", out=tmp_path / str(n)).report.warnings for n, one in enumerate((network, inhibited))]
    assert [line for line in said[0] if "never fires" in line] == []
    assert [line for line in said[1] if "never fires" in line] == [
        "Layer 'layer1' never fires (on random input spikes): lower its threshold, or scale up the weights into it."
    ]
