"""Models whose neurons reset by subtraction: hand-written ones, Norse's, and what a spike takes away, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LIFBoxCell, LIFBoxParameters, SequentialState
from norse.torch.functional.reset import reset_subtract
from own_neurons import SAMPLE, TwoLayers, assert_same_spikes, drawn_input, module_spikes, reference_spikes, written

import neurodeploy as nd
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.network import Conv, SubtractiveLIF, reset_of


def subtracting(amount: Any, share: float = 0.8, is_late: bool = False) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Neurons that lose an amount in the step of a spike, before the leak, or in the next one, beside it."""

    def neurons(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if is_late:
            v = share * v + x - (v > 1.0).to(x.dtype) * amount
            return (v > 1.0).to(x.dtype), v
        v = share * v + x
        spike = (v > 1.0).to(x.dtype)
        return spike, v - spike * amount

    return neurons


@pytest.mark.parametrize(
    ("neurons", "n_own"),
    [
        (subtracting(1.0), 0),
        (subtracting(1.0, share=1.0), 0),
        (subtracting(0.5), 1),
        (subtracting(torch.tensor(1.25)), 1),
        (subtracting(1.0, is_late=True), 1),
        (subtracting(1.0, share=1.0, is_late=True), 0),  # nothing leaks, so it makes no difference
        (subtracting(0.5, share=0.25, is_late=True), 1),
    ],
)
def test_neurons_that_subtract_any_amount(neurons: Any, n_own: int) -> None:
    """What differs from the threshold in the step of the spike, neurons send to themselves."""
    model = written(neurons)
    network = extract(model, SAMPLE)
    assert isinstance(network["first"].neuron, SubtractiveLIF)
    own = [c for c in network["first"].connections if c.source == "first"]
    assert len(own) == n_own
    assert all(c.is_fixed for c in own)
    assert_same_spikes(model.double(), network)


def test_neurons_with_a_current_of_their_own_send_what_is_left_of_it_back() -> None:
    class Subtracts(torch.nn.Module):
        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            i, v = (torch.zeros_like(x), torch.zeros_like(x)) if state is None else state
            i = 0.6 * i + x
            v = 0.7 * v + i - (v >= 0.5).to(x.dtype) * 0.5
            return (v >= 0.5).to(x.dtype), (i, v)

    class Model(TwoLayers):
        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            one, two = (None, None) if state is None else state
            spikes, one = self.a(self.first(x), one)
            spikes, two = self.b(self.second(spikes), two)
            return spikes, (one, two)

    model = Model(lambda _n: Subtracts())
    network = extract(model, SAMPLE)
    own = [c for c in network["first"].connections if c.source == "first"]
    assert [c.delay_steps for c in own] == [0, 1]
    np.testing.assert_allclose(own[1].synapse.matrix(), -0.6 * own[0].synapse.matrix())  # type: ignore[union-attr]
    assert_same_spikes(model.double(), network)


@pytest.mark.parametrize("fires_at", [True, False])
@pytest.mark.parametrize("is_late", [True, False])
def test_whole_numbers_that_meet_the_threshold_when_subtracting(fires_at: bool, is_late: bool) -> None:
    """Weights, threshold and leak are whole quarters: membranes meet the threshold exactly, and are left at it."""
    compare = torch.ge if fires_at else torch.gt

    class Neurons(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Linear(3, 2, bias=False)
            with torch.no_grad():
                self.weights.weight.copy_(torch.tensor([[1.0, 0.5, -0.25], [1.0, 1.0, -1.0]]))

        def forward(self, x: torch.Tensor, v: Any = None) -> tuple[torch.Tensor, Any]:
            v = torch.zeros(len(x), 2, dtype=x.dtype) if v is None else v
            late = compare(v, 1.0).to(x.dtype) if is_late else 0.0
            v = v + self.weights(x) - late
            spike = compare(v, 1.0).to(x.dtype)
            return spike, v if is_late else v - spike

    model = Neurons().double()
    network = extract(model, torch.zeros(1, 3))
    inputs = drawn_input(200, (3,))
    theirs = module_spikes(model, inputs)
    np.testing.assert_array_equal(reference_spikes(network, inputs), theirs)
    assert 0.05 < theirs.mean() < 0.95


def test_images_that_subtract_late_inhibit_themselves_by_a_convolution() -> None:
    class Images(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Conv2d(1, 3, 3, padding=1, bias=False)
            torch.nn.init.normal_(self.first.weight, 0.3, 0.5, generator=torch.Generator().manual_seed(0))

        def forward(self, x: torch.Tensor, v: Any = None) -> tuple[torch.Tensor, Any]:
            v = torch.zeros(len(x), 3, 5, 5, dtype=x.dtype) if v is None else v
            v = 0.75 * v + self.first(x) - (v > 1).to(x.dtype)
            return (v > 1).to(x.dtype), v

    model = Images()
    network = extract(model, torch.zeros(1, 1, 5, 5))
    synapse = network["first"].connections[1].synapse
    assert isinstance(synapse, Conv)
    assert (synapse.weight.shape, synapse.weight.max()) == ((3, 1, 1, 1), pytest.approx(-0.25))
    assert_same_spikes(model.double(), network, shape=(1, 5, 5))


def test_norse_cells_that_subtract() -> None:
    torch.manual_seed(1)
    p = LIFBoxParameters(reset_method=reset_subtract, v_th=torch.tensor(0.2))
    model = SequentialState(
        torch.nn.Linear(6, 8), LIFBoxCell(p), torch.nn.Linear(8, 3), LIFBoxCell(p._replace(tau_mem_inv=torch.tensor(300.0)))
    )
    with torch.no_grad():
        for weights in (model[0].weight, model[2].weight):
            weights.mul_(8)
    network = extract(model, torch.zeros(1, 6))
    assert {reset_of(layer.neuron) for layer in network} == {"by subtraction"}
    spikes = (np.random.default_rng(2).random((4, 6, 60)) < 0.5).astype(np.uint8)
    ours, state, steps = nd.simulate(network, spikes, record="all"), None, []
    for t in range(60):
        out, state = model(torch.as_tensor(spikes[..., t]).float(), state)
        steps.append(out.detach())
    theirs = torch.stack(steps, -1).numpy()
    np.testing.assert_array_equal(ours.spikes[network.output.name], theirs)
    assert 0.05 < theirs.mean() < 0.95
    assert 0.05 < ours.spikes[network.layers[0].name].mean() < 0.95
