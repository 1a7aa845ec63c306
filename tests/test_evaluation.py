"""Evaluations: worked on paper, on images and in time, batch by batch; what is no data for a network."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import grammar
import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from paper import in_integers, layer_of
from rich.console import Console

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.pipeline.evaluation import Evaluation, evaluate, steps_to_decision
from neurodeploy.targets.loihi.netx_io import write_netx
from neurodeploy.training.encoders import READOUTS, decide
from neurodeploy.training.options import FitOptions

TWO = in_integers(
    layer_of([[2, 0], [0, 2], [2, 2]], name="hidden", vth=1), layer_of([[2, 0, 0], [0, 2, 2]], name="out", source="hidden", dv=0)
)


def test_on_paper() -> None:
    """Three steps: the first input fires twice, then the second once, so hidden neurons 0, 0 and 1 fire, and 2 all the time.

    The output adds up what it hears: 128 each, so (128, 128), (256, 256), (256, 512). A tie is the first's.
    """
    spikes = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    found = evaluate(TWO, [(spikes, torch.tensor([1])), (spikes, torch.tensor([0]))], FitOptions(readout="last"))
    assert found.rates == pytest.approx({"hidden": 6 / 9})
    assert (found.classification_accuracy, found.latency_steps, found.n_samples, found.n_steps) == (0.5, 3, 2, 3)
    assert found.synaptic_operations == {"Effective_MACs": 0, "Effective_ACs": 3 * 2 + 6, "Dense": 3 * 12}
    assert found.activation_sparsity == pytest.approx(3 / 9)
    assert found.connection_sparsity == pytest.approx(5 / 12)
    assert found.footprint == 12
    assert found.overflows == {"hidden": 0, "out": 0}
    assert found.seconds > 0


def test_layers_that_never_fire_are_named() -> None:
    spikes = torch.zeros(1, 3, 2)
    found = evaluate(TWO, [(spikes, torch.tensor([0]))], FitOptions())
    assert found.silent == ["hidden"]
    assert "'hidden' is silent: none of its neurons ever fired, or no spike can reach it." in str(found)
    spikes[0, 0] = 1
    assert evaluate(TWO, [(spikes, torch.tensor([0]))], FitOptions()).silent == []


def test_a_device_changes_nothing_but_the_time() -> None:
    spikes = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (8, 5, 2)))
    data = [(spikes, torch.arange(8) % 2)]
    here, there = (replace(evaluate(TWO, data, FitOptions(), device=device), seconds=0) for device in (None, "cpu"))
    assert here == there
    with pytest.raises(
        nd.NeurodeployError, match=r"^device: is for quantised networks\. Move the model instead: model\.to\('cpu'\)\.$"
    ):
        evaluate(torch.nn.Linear(2, 2), data, FitOptions(), device="cpu")  # type: ignore[call-overload]  # wrong on purpose


def test_images_are_encoded_and_a_model_is_evaluated_as_ever() -> None:
    images = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    found = nd.evaluate(TWO, [(images, torch.tensor([0, 1]))], FitOptions(n_steps=4, readout="sum"))
    assert isinstance(found, Evaluation)
    assert found.rates["hidden"] == pytest.approx((2 * 2 + 2 * 4) / (3 * 8))
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(3, 2))  # the second does not take what the first gives
    with pytest.raises(nd.NeurodeployError, match=r"^model: failed on spikes \(2, 2\) of a step "):
        nd.evaluate(model, [(images, torch.tensor([0, 1]))], FitOptions())


@pytest.mark.parametrize("progress", [True, False])
def test_a_terminal_gets_a_bar_unless_it_asks_for_none(progress: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("neurodeploy.pipeline.evaluation.Console", lambda **_: Console(file=shown, force_terminal=True))
    images = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    evaluate(TWO, [(images, torch.tensor([0, 1]))] * 3, FitOptions(n_steps=4), progress=progress)
    assert ("evaluate" in shown.getvalue() and "100%" in shown.getvalue()) == progress


DATA = """
import torch

def few():
    batches = [(torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))]
    return batches, batches
"""


def test_the_command_line_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data.py").write_text(DATA)
    command = ["evaluate", str(write_netx(TWO, tmp_path / "two.net")), "--data", f"{tmp_path}/data.py:few"]
    command += ["--steps", "4", "--readout", "sum"]
    images = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    expected = evaluate(TWO, [(images, torch.tensor([0, 1]))], FitOptions(n_steps=4, readout="sum"))
    for device in ([], ["--device", "cpu"]):
        assert main([*command, *device, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said.pop("seconds") > 0
        assert said == {name: value for name, value in asdict(expected).items() if name != "seconds"}
    assert main(command) == 0
    text = capsys.readouterr().out
    assert f"Accuracy {expected.classification_accuracy:.2%} on 2 samples; the predicted class is final after" in text
    assert "'hidden': 0.5000 spikes per neuron and step" in text
    assert main([*command, "--device", "gpu"]) == 2
    assert "device: 'gpu' cannot be used here" in capsys.readouterr().err


def test_a_model_in_floats_is_rounded_for_the_levels_of_its_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neurons that forget, above 0.4: 8/15 of a half is below, of one above; one and a half are above. Three of four fire.

    In whole numbers, 8 and 15, each would, if weights did not count for parts of 15.
    """
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "model.py").write_text(MODEL)
    command = ["evaluate", f"{tmp_path}/model.py:one", "--data", f"{tmp_path}/data.py:few", "--steps", "3", "--encoder", "direct"]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rates"] == {"layer0": 3 / 4}
    assert said["synaptic_operations"]["Effective_MACs"] == 3 * 2


MODEL = """
import torch
from norse.torch import LIFBoxCell, SequentialState
from norse.torch.functional.lif_box import LIFBoxParameters

def one():
    linear = torch.nn.Linear(2, 2, bias=False)
    linear.weight.data = torch.tensor([[0.5, 1.0], [1.0, 0.5]])
    parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.4))
    return SequentialState(linear, LIFBoxCell(parameters))
"""


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(nd.NeurodeployError, match=r"^data: holds no samples"):
        evaluate(TWO, [], FitOptions())
    with pytest.raises(nd.NeurodeployError, match=r"^inputs: have shape \(1, 3\), but the network takes 2 values\. Give images"):
        evaluate(TWO, [(torch.zeros(1, 3), torch.tensor([0]))], FitOptions())
    with pytest.raises(nd.NeurodeployError, match=r"^input: holds values other than 0 and 1\. The chip takes spikes"):
        evaluate(TWO, [(torch.full((1, 5, 2), 0.5), torch.tensor([0]))], FitOptions())


@pytest.mark.parametrize("readout", [*READOUTS, lambda outputs: outputs[-1]])
def test_a_decision_stands_from_its_step_on(readout: str) -> None:
    said = np.random.default_rng(0).integers(-3, 4, (40, 3, 6)).astype(float)
    for outputs, step in zip(said, steps_to_decision(said, readout), strict=True):
        so_far = [decide(outputs[np.newaxis, :, :t], readout)[0] for t in range(1, 7)]
        assert len(set(so_far[step - 1 :])) == 1
        assert step == 1 or so_far[step - 2] != so_far[-1]


@examples(60)
@given(network=grammar.quantized_graphs())
def test_synapses_from_each_neuron_are_those_of_the_matrix(network: QuantizedNetwork) -> None:
    for synapse in (connection.synapse for layer in network for connection in layer.connections):
        assert synapse.fan_out().sum() == synapse.fan_in().sum()
        if (synapse.weight >= 0).all():  # places of a window that lie on one pixel do not cancel out
            np.testing.assert_array_equal(synapse.fan_out(), np.count_nonzero(synapse.matrix(), axis=0))
