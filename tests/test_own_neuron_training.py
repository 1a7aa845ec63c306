"""Training of models with neurons of their own: densely as their authors call them, compressed as their networks, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_neurons import N_HIDDEN, N_IN, N_OUT, SAMPLE, WAYS, ByMultiplying, BySurrogate, TwoLayers, layers

import neurodeploy as nd
from neurodeploy.ir.network import nearly_equal
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.forward import run_model

INPUTS = torch.rand(24, N_IN, generator=torch.Generator().manual_seed(0))
DATA = [(INPUTS, INPUTS[:, :N_OUT].argmax(1))]
OPTIONS = nd.FitOptions(n_steps=6, epochs_dense=3, epochs_compress=1, epochs_finetune=0, readout="sum")


class Hidden(torch.nn.Module):
    """Keeps its state in an attribute, with the graph that made it."""

    def __init__(self) -> None:
        super().__init__()
        self.neurons, self.v = BySurrogate(1), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spike, self.v = self.neurons(x, self.v)
        return spike


class Chain(torch.nn.Module):
    """Takes a step and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.second, self.b = layers(N_IN, N_HIDDEN), Hidden(), layers(N_HIDDEN, N_OUT, 2.5), Hidden()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.second(self.a(self.first(x))))


class SeveralStates(torch.nn.Module):
    """A state for each layer, after the input and after the output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.neurons = layers(N_IN, N_HIDDEN), layers(N_HIDDEN, N_OUT, 2.5), BySurrogate(1)

    def forward(self, x: torch.Tensor, v: Any = None, w: Any = None) -> tuple[torch.Tensor, Any, Any]:
        spike, v = self.neurons(self.first(x), v)
        spike, w = self.neurons(self.second(spike), w)
        return spike, v, w


def snntorch_model(**options: Any) -> torch.nn.Module:
    snntorch = pytest.importorskip("snntorch")
    return TwoLayers(lambda _n: snntorch.Leaky(beta=0.85, reset_mechanism="zero", **options))


MODELS = {
    "state in attributes": Chain,
    "several states": SeveralStates,
    "one state": lambda: TwoLayers(BySurrogate),
    "snnTorch": snntorch_model,
    "snnTorch, hidden": lambda: snntorch_model(init_hidden=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_densely_as_its_author_calls_it(name: str) -> None:
    model = MODELS[name]()
    attributes = {path: set(module.__dict__) for path, module in model.named_modules()}
    before = {path: parameter.clone() for path, parameter in model.named_parameters()}
    _, history = nd.fit(model, None, DATA, OPTIONS)
    assert history[-1].loss < history[0].loss
    assert all((before[path] != parameter).any() for path, parameter in model.named_parameters() if parameter.ndim > 1)
    assert {path: set(module.__dict__) for path, module in model.named_modules()} == attributes
    if isinstance(model, Chain):
        assert model.a.v is None


def test_a_run_starts_at_rest() -> None:
    model, spikes = snntorch_model(init_hidden=True), (torch.rand(24, 6, N_IN) < 0.5).float()
    with torch.no_grad():
        first = run_model(model, spikes)
        model(torch.ones(24, N_IN))  # its neurons now hold membranes of as many samples
        assert torch.equal(run_model(model, spikes), first)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("way", [way for way in WAYS if way != "reset at the next step"])
def test_weights_and_biases_go_back_and_decays_stay(way: str, bias: bool) -> None:
    model = TwoLayers(WAYS[way], bias=bias)
    before = nd.extract(model, SAMPLE)
    network = nd.trainable(model, SAMPLE)
    assert nearly_equal(network.to_network(), before)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.2)
    assert nd.write_back(network, model, SAMPLE)
    after = nd.extract(model, SAMPLE)
    assert nearly_equal(after, network.to_network())
    assert not nearly_equal(after, before)
    for old, new in zip(before, after, strict=True):
        for name in ("threshold", "voltage_decay", "current_decay"):
            np.testing.assert_allclose(getattr(new.neuron, name), getattr(old.neuron, name), rtol=1e-12)


@pytest.mark.parametrize("make", [lambda: TwoLayers(BySurrogate), lambda: TwoLayers(lambda _n: ByMultiplying())])
def test_compress_trains_the_model_or_its_network_where_a_comparison_has_no_gradient(make: Any, tmp_path: Path) -> None:
    model = make()
    before = model.first.weight.clone()
    profile, data = nd.load_profile("loihi2"), DataSplit(DATA, DATA, (N_IN,), N_OUT)
    news: list[str] = []
    options = replace(OPTIONS, readout="max")
    made = nd.compress(model, SAMPLE, profile, data, options, cores=1, out=tmp_path, lava_samples=0, say=news.append)
    assert made.placement.fits
    assert any(line.endswith("readout 'sum' counts them.") for line in news)
    assert (model.first.weight != before).any()


def test_a_sequence_of_neurons_that_keep_their_state_trains_as_its_author_calls_it_with_a_normalisation(tmp_path: Path) -> None:
    norm = torch.nn.BatchNorm1d(N_HIDDEN)
    model = torch.nn.Sequential(layers(N_IN, N_HIDDEN), norm, Hidden(), layers(N_HIDDEN, N_OUT, 2.5), Hidden())
    data = DataSplit(DATA, DATA, (N_IN,), N_OUT)
    nd.compress(model, SAMPLE, nd.load_profile("loihi2"), data, OPTIONS, cores=1, out=tmp_path, lava_samples=0)
    assert norm.num_batches_tracked == OPTIONS.n_steps * OPTIONS.epochs_dense
    assert (tmp_path / "weights.safetensors").is_file()


NETWORK_TRAINS = {
    "nothing has a gradient": lambda: TwoLayers(lambda _n: ByMultiplying()),
    "the last neurons have one": lambda: OneWithout(),
}


class OneWithout(TwoLayers):
    def __init__(self) -> None:
        super().__init__(BySurrogate)
        self.a = ByMultiplying()


@pytest.mark.parametrize("has_budget", [False, True])
@pytest.mark.parametrize("kind", NETWORK_TRAINS)
def test_fit_trains_the_network_where_a_comparison_has_no_gradient(kind: str, has_budget: bool) -> None:
    model = NETWORK_TRAINS[kind]()
    budget = nd.narrow_budget(nd.extract(model, SAMPLE), nd.load_profile("loihi2"), cores=1) if has_budget else None
    before = model.first.weight.clone()
    trained, history = nd.fit(model, budget, DATA, OPTIONS)
    assert trained is model
    assert len(history) == 3 + has_budget
    assert history[2].loss < history[0].loss
    assert (model.first.weight != before).any()


def test_no_gradient_and_no_network_is_said_before_training() -> None:
    class Rounds(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = layers(N_IN, N_OUT)

        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            return self.first(x).detach().round(), state

    with pytest.raises(nd.TrainingError, match=r"^model: has no gradient, .*holds no neurons.*surrogate gradient"):
        nd.fit(Rounds(), None, DATA, OPTIONS)
