"""Evaluations: worked on paper, on images and in time, batch by batch; what is no data for a network."""

from __future__ import annotations

from dataclasses import replace

import grammar
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from paper import in_integers, layer_of

import neurodeploy as nd
from neurodeploy.evaluation import Evaluation, evaluate, steps_to_decision
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.training import FitOptions
from neurodeploy.training.readouts import READOUTS, decide

TWO = in_integers(
    layer_of([[2, 0], [0, 2], [2, 2]], name="hidden", vth=1), layer_of([[2, 0, 0], [0, 2, 2]], name="out", source="hidden", dv=0)
)


def test_on_paper() -> None:
    """Three steps: the first input fires twice, then the second once, so hidden neurons 0, 0 and 1 fire, and 2 all the time.

    The output adds up what it hears: 128 each, so (128, 128), (256, 256), (256, 512). A tie is the first's.
    """
    spikes = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])
    found = evaluate(TWO, [(spikes, torch.tensor([1])), (spikes, torch.tensor([0]))], FitOptions(readout="last"))
    assert found.rates == pytest.approx({"hidden": 6 / 9, "out": 0})
    assert (found.classification_accuracy, found.latency_steps, found.n_samples, found.n_steps) == (0.5, 3, 2, 3)
    assert found.synaptic_operations == {"Effective_MACs": 0, "Effective_ACs": 3 * 2 + 6, "Dense": 3 * 12}
    assert found.activation_sparsity == pytest.approx(3 / 9)
    assert found.connection_sparsity == pytest.approx(5 / 12)
    assert found.overflows == {"hidden": 0, "out": 0}
    assert found.seconds > 0


def test_a_device_changes_nothing_but_the_time() -> None:
    spikes = torch.from_numpy(np.random.default_rng(2).integers(0, 2, (8, 5, 2)))
    data = [(spikes, torch.arange(8) % 2)]
    here, there = (replace(evaluate(TWO, data, FitOptions(), device=device), seconds=0) for device in (None, "cpu"))
    assert here == there
    with pytest.raises(
        nd.NeurodeployError, match=r"^device: is the emulator's\. A model runs where it is: model\.to\('cpu'\)\.$"
    ):
        evaluate(torch.nn.Linear(2, 2), data, FitOptions(), device="cpu")  # type: ignore[call-overload]  # wrong on purpose


def test_images_are_encoded_and_a_model_is_evaluated_as_ever() -> None:
    images = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    found = nd.evaluate(TWO, [(images, torch.tensor([0, 1]))], FitOptions(n_steps=4, readout="sum"))
    assert isinstance(found, Evaluation)
    assert found.rates["hidden"] == pytest.approx((2 * 2 + 2 * 4) / (3 * 8))
    model = torch.nn.Linear(2, 2)
    with pytest.raises(nd.NeurodeployError, match="model"):
        nd.evaluate(model, [(images, torch.tensor([0, 1]))], FitOptions())


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


@settings(max_examples=60)
@given(network=grammar.quantized_graphs())
def test_synapses_from_each_neuron_are_those_of_the_matrix(network: QuantizedNetwork) -> None:
    for synapse in (connection.synapse for layer in network for connection in layer.connections):
        assert synapse.fan_out().sum() == synapse.fan_in().sum()
        if (synapse.weight >= 0).all():  # places of a window that lie on one pixel do not cancel out
            np.testing.assert_array_equal(synapse.fan_out(), np.count_nonzero(synapse.matrix(), axis=0))
