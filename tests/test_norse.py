"""Norse networks come in exactly: Norse itself is run beside the reference, step by step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from norse.torch import IAFCell, IAFParameters, LIBoxCell, LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse_runs import READOUTS, assert_alike
from numpy.typing import NDArray
from spiking import build
from strategies import one_or_each, spikes_into
from torch.nn import Dropout, Flatten, Identity, Linear

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.simulation.layer_schedule import run_reference

FIRING = (LIFCell, LIFBoxCell, IAFCell)

# ---------------------------------------------------------------------------------------------- drawn networks


@st.composite
def cells(draw: st.DrawFn, kinds: tuple[type[Any], ...], n: int, dt: float) -> Any:
    """A cell of `n` neurons in double precision; each parameter one number, or one a neuron."""

    def some(low: float, high: float) -> torch.Tensor:
        return torch.as_tensor(draw(one_or_each(n, st.floats(low, high), np.float64)))

    rest = some(-2, 2)
    leaks = {"tau_mem_inv": some(10, 1000), "v_leak": rest}
    fires = {"v_th": rest + some(0.1, 2), "v_reset": rest}
    current = {"tau_syn_inv": some(10, 1000)}
    made = {
        LIFCell: lambda: LIFCell(LIFParameters(**leaks, **fires, **current), dt=dt),
        LIFBoxCell: lambda: LIFBoxCell(LIFBoxParameters(**leaks, **fires), dt=dt),
        IAFCell: lambda: IAFCell(IAFParameters(**fires), dt=dt),
        LICell: lambda: LICell(LIParameters(**leaks, **current), dt=dt),
        LIBoxCell: lambda: LIBoxCell(LIBoxParameters(**leaks), dt=dt),
    }
    return made[draw(st.sampled_from(kinds))]()


@st.composite
def chains(draw: st.DrawFn) -> SequentialState:
    """1 to 3 layers of 1 to 6 neurons, in doubles; their random weights let no membrane meet its threshold exactly."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    sides = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    dt = draw(st.sampled_from([1e-3, 5e-4]))
    size = draw(st.floats(0.5, 30))
    modules: list[torch.nn.Module] = []
    for depth, (n_in, n_out) in enumerate(pairwise(sides), start=2):
        cell = draw(cells((*FIRING, *READOUTS) if depth == len(sides) else FIRING, n_out, dt))
        linear = Linear(n_in, n_out, bias=not isinstance(cell, (LIFCell, LICell)) and draw(st.booleans()), dtype=torch.float64)
        for parameter in linear.parameters():
            torch.nn.init.zeros_(parameter).data += torch.as_tensor(rng.normal(0.3, 1, tuple(parameter.shape)) * size)
        modules += [linear, cell]
    return SequentialState(*modules)


@examples(150)
@given(model=chains(), data=st.data())
def test_a_drawn_network_answers_in_every_layer_as_norse_does(model: SequentialState, data: st.DataObject) -> None:
    network = extract(model, torch.zeros(1, model[0].in_features))
    assert_alike(model, data.draw(spikes_into(network, max_steps=20)), atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_a_network_in_single_precision_spikes_as_norse_does(seed: int) -> None:
    """Norse rounds to 24 bits, the reference to 53; over 60 steps no membrane of these lies so near its threshold."""
    spikes = (np.random.default_rng(seed).random((4, 20, 60)) < 0.4).astype(np.uint8)
    model = build(20, 30, 30, 5, seed=seed)
    with torch.no_grad():
        for linear in (model[0], model[2]):
            linear.weight.mul_(6).add_(0.2)
    assert assert_alike(model, spikes, atol=1e-5) > 1000


# ---------------------------------------------------------------------------------------------- what passes


def steps_of(model: SequentialState, spikes: NDArray[np.uint8]) -> NDArray[Any]:
    """The whole model's answer, called as its user calls it."""
    state, said = None, []
    with torch.no_grad():
        for t in range(spikes.shape[-1]):
            x, state = model(torch.as_tensor(spikes[..., t], dtype=torch.float32), state)
            said.append(x.clone())
    return torch.stack(said, dim=-1).numpy()


def drive(model: SequentialState) -> SequentialState:
    """Make its neurons fire."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Linear):
                module.weight.mul_(5).add_(2)
    return model


def linear(n_in: int, n_out: int) -> Linear:
    torch.manual_seed(n_in + 10 * n_out)
    return Linear(n_in, n_out, bias=False)


SPIKES = (np.random.default_rng(0).random((2, 2, 3, 30)) < 0.5).astype(np.uint8)


def test_nested_models_are_read_in_order_and_inputs_of_many_sides_flattened() -> None:
    inner = SequentialState(linear(6, 4), LIFCell(), linear(4, 5), LIFCell())
    model = drive(SequentialState(Flatten(), inner, SequentialState(linear(5, 3), LICell())))
    network = extract(model, torch.as_tensor(SPIKES[..., 0]))
    assert network.input_shape == (2, 3)
    assert [layer.name for layer in network] == ["1.0", "1.2", "2.0"]
    record = run_reference(network, SPIKES, record="all")
    assert record.spikes["1.2"].any()
    np.testing.assert_allclose(record.v["2.0"], steps_of(model, SPIKES), rtol=1e-5, atol=1e-5)


def test_a_module_that_stands_twice_makes_two_layers() -> None:
    cell, shared = LIFCell(), linear(4, 4)
    model = drive(SequentialState(Flatten(), linear(6, 4), cell, shared, cell, shared, LICell()))
    network = extract(model, torch.as_tensor(SPIKES[..., 0]))
    assert [layer.name for layer in network] == ["layer1", "layer3", "layer5"]
    np.testing.assert_array_equal(network.layers[1].weight, network.layers[2].weight)
    record = run_reference(network, SPIKES, record="all")
    assert record.spikes["layer3"].any()
    np.testing.assert_allclose(record.v["layer5"], steps_of(model, SPIKES), rtol=1e-5, atol=1e-5)


def test_dropout_and_identity_leave_no_trace() -> None:
    first, second = linear(3, 4), linear(4, 2)
    plain = extract(SequentialState(first, LIFCell(), second, LICell()), torch.zeros(1, 3))
    model = SequentialState(first, LIFCell(), second, Dropout(0.5), Identity(), LICell())
    assert extract(model, torch.zeros(1, 3)) == plain
    assert model.training


def test_the_sample_tells_the_shape_and_the_cells_the_time() -> None:
    network = extract(SequentialState(Flatten(), linear(6, 4), LIFCell(dt=0.002)), torch.ones(5, 3, 2))
    assert (network.input_shape, network.timestep_s) == ((3, 2), 0.002)
    assert extract(SequentialState(linear(6, 4), IAFCell()), torch.zeros(1, 6)).timestep_s == 0.001


def test_a_bias_of_zeros_is_none() -> None:
    model = SequentialState(Linear(3, 4), LIFCell())
    torch.nn.init.zeros_(model[0].bias)
    assert extract(model, torch.zeros(1, 3)).layers[0].bias == 0


def test_layers_are_named_by_their_path_in_the_model() -> None:
    model = SequentialState()
    for name, module in (("hidden", linear(3, 4)), ("cell", LIFCell()), ("readout", linear(4, 2)), ("v", LICell())):
        model.add_module(name, module)
    assert [layer.name for layer in extract(model, torch.zeros(1, 3))] == ["hidden", "readout"]


def test_weights_are_scaled_by_the_membranes_gain() -> None:
    """V <- v + 0.1 (i - v) adds a tenth of a weight; the chip's recurrence has no such factor, so the weight takes it."""
    layer = linear(1, 1)
    torch.nn.init.constant_(layer.weight, 3.0)
    (made,) = extract(SequentialState(layer, LIFCell(LIFParameters(tau_mem_inv=torch.tensor(100.0)))), torch.zeros(1, 1))
    np.testing.assert_allclose(made.weight, [[0.3]], rtol=1e-7)
    np.testing.assert_allclose([made.neuron.voltage_decay, made.neuron.current_decay], [0.1, 0.2], rtol=1e-7)
