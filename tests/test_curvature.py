"""How much the loss minds a weight decides with the weight's size on who survives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_minimax import products, weight_of

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.pruning_method import FisherDiagonal
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, Dense, Layer, Network
from neurodeploy.mapping.allocation import share_budget


def matrix(weight: torch.Tensor) -> WeightMatrix:
    """A layer with these weights."""
    neuron = LI(current_decay=np.array(1.0), voltage_decay=np.array(1.0), rest=np.array(0.0))
    # random at first: columns that are equal from the start would be one parameter, as behind a pool
    drawn = np.random.default_rng(0).normal(size=tuple(weight.shape))
    connection = Connection(source=INPUT, synapse=Dense(weight=drawn))
    layer = Layer(name="layer", shape=(len(weight),), neuron=neuron, connections=(connection,), bias=np.array(0.0))
    network = TrainableNetwork(Network(input_shape=(weight.shape[1],), layers=(layer,), timestep_s=1e-3))
    made = WeightMatrix(network["layer"])
    made.parts[0].data.copy_(weight)
    return made


def heard(gradients: list[torch.Tensor], weight: torch.Tensor) -> FisherDiagonal:
    """A layer's, after these gradients."""
    module = matrix(weight)
    curvature = FisherDiagonal({"layer": module})
    for gradient in gradients:
        module.weight.grad = gradient
        curvature.update()
    return curvature


def test_it_is_the_mean_of_squares_over_few_steps_and_follows_later() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4) for _ in range(20)]
    mean = torch.stack(gradients).square().mean(dim=0)
    assert torch.allclose(heard(gradients, torch.ones(3, 4)).means["layer"], mean)
    later = heard([*gradients, *[torch.full((3, 4), 7.0)] * 400], torch.ones(3, 4)).means["layer"]
    assert torch.allclose(later, torch.tensor(49.0), rtol=0.01)


def test_of_one_layer_the_squares_of_weights_that_are_alive_add_up_to_the_same() -> None:
    torch.manual_seed(0)
    weight, alive = torch.randn(5, 6), torch.rand(5, 6) < 0.5
    curvature = heard([torch.randn(5, 6) * 1e-3], weight).normalized({"layer": alive})["layer"]
    squares = (weight.double().square() * alive).numpy()
    assert (curvature * squares).sum() == pytest.approx(squares.sum())
    assert curvature.std() > 0.1


def test_between_layers_the_root_counts() -> None:
    modules = {name: matrix(torch.ones(2, 3)) for name in ("a", "b")}
    curvature = FisherDiagonal(modules)
    for module, slope in zip(modules.values(), (1.0, 4.0), strict=True):
        module.weight.grad = torch.full((2, 3), slope)
    curvature.update()
    found = curvature.normalized({name: torch.ones(2, 3, dtype=torch.bool) for name in modules})
    assert (found["b"] / found["a"]).flatten().tolist() == pytest.approx([4.0] * 6)  # of 1 and 16


def test_weights_without_a_gradient_are_minded_a_little_so_that_larger_ones_go_first() -> None:
    alive = torch.ones(1, 2, dtype=torch.bool)
    found = heard([torch.tensor([[3.0, 0.0]])], torch.ones(1, 2)).normalized({"layer": alive})["layer"]
    assert found[0, 0] == pytest.approx(2.0, rel=1e-5)
    assert 0 < found[0, 1] < 1e-4


@pytest.mark.parametrize("gradients", [[], [torch.zeros(2, 3)]], ids=["nothing was heard", "no gradient came"])
def test_all_are_minded_alike_where_nothing_tells_them_apart(gradients: list[torch.Tensor]) -> None:
    alive = {"layer": torch.ones(2, 3, dtype=torch.bool)}
    assert (heard(gradients, torch.ones(2, 3)).normalized(alive)["layer"] == 1).all()


@pytest.mark.parametrize("minds", [True, False])
def test_small_weights_survive_where_the_loss_minds_them(
    minds: bool, make_network: Callable[..., Network], tiny: HardwareProfile
) -> None:
    """Of 64 axons 16 are heard; the weights of the others are twice as large."""
    network = make_network([64, 100, 10])
    model = TrainableNetwork(network)
    with torch.no_grad():
        weight_of(model, "layer1").copy_(torch.where(torch.arange(64) < 16, 1.0, 2.0) * torch.rand(100, 64))
    compression = MinimaxPruning(share_budget(network, tiny, cores=2), model, MinimaxOptions(curvature=minds))
    inputs = torch.rand(32, 64)
    inputs[:, 16:] *= 0.01
    for _ in range(3):
        model.zero_grad()
        with compression.in_force():
            torch.autograd.backward(products(model, inputs).square().sum())
        compression.before_step()
    compression.choose(1.0)
    by_axon = compression.masks["layer1"].sum(dim=0)
    assert (by_axon[:16].sum() > by_axon[16:].sum()) == minds
    assert max(compression.overruns().values()) <= 0
