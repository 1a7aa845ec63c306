"""A step that calculates only the neurons that matter answers, and learns, what the whole step does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from norse.torch import IAFCell, LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from norse.torch.functional.iaf import IAFParameters
from spiking import SHORT, budget_for, build, few

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.pruning_method import ActiveNeurons, NeuronSubset, active_neurons
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import WeightMatrix
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import run_model

if TYPE_CHECKING:
    from collections.abc import Iterator

Model = SequentialState
LIF = LIFParameters(v_th=torch.tensor(0.3), tau_mem_inv=torch.tensor(300.0))
EACH = LIF._replace(v_th=torch.linspace(0.2, 0.4, 30))


def layer(n_in: int, n_out: int, *, bias: bool = False) -> torch.nn.Linear:
    return torch.nn.Linear(n_in, n_out, bias=bias)


def driven(n_in: int, n_out: int) -> torch.nn.Linear:
    """With biases that half of the neurons fire by."""
    linear = layer(n_in, n_out, bias=True)
    with torch.no_grad():
        linear.bias.copy_(torch.where(torch.arange(n_out) % 2 == 0, 2.0, -1.0))
    return linear


MODELS: Mapping[str, Callable[[], Model]] = {
    "plain": lambda: Model(layer(20, 30), LIFCell(LIF), layer(30, 40), LIFCell(LIF), layer(40, 5), LICell()),
    "with biases": lambda: Model(
        layer(20, 30, bias=True), LIFCell(LIF), layer(30, 40, bias=True), LIFCell(LIF), layer(40, 5, bias=True), LICell()
    ),
    "a threshold each": lambda: Model(layer(20, 30), LIFCell(EACH), layer(30, 5), LICell()),
    "restless": lambda: Model(driven(20, 30), LIFCell(LIF), layer(30, 5), LICell()),
    "no leak": lambda: Model(layer(20, 30), IAFCell(IAFParameters(v_th=torch.tensor(2.0))), layer(30, 5), LICell()),
    "something between": lambda: Model(
        layer(20, 30), LIFCell(LIF), torch.nn.Unflatten(1, (3, 10)), torch.nn.Flatten(), layer(30, 5), LICell()
    ),
    "recurrent": lambda: Model(
        layer(20, 30), LIFCell(LIF), LIFRecurrentCell(30, 40, p=LIF), layer(40, 30), LIFCell(LIF), layer(30, 5), LICell()
    ),
}


def matrices(model: TrainableNetwork) -> dict[str, WeightMatrix]:
    found = {layer.layer.name: WeightMatrix(layer) for layer in model}
    return {name: matrix for name, matrix in found.items() if matrix.parts}


def sparse(kind: str) -> tuple[TrainableNetwork, dict[str, WeightMatrix], dict[str, torch.Tensor]]:
    """A network most of whose weights are zero, its matrices, and which weights are not."""
    torch.manual_seed(0)
    model = trainable(MODELS[kind](), torch.zeros(1, 20))
    layers = matrices(model)
    masks = {name: torch.rand_like(matrix.weight) < 1.5 / matrix.weight.shape[0] for name, matrix in layers.items()}
    for name, matrix in layers.items():
        matrix.scale(8 * masks[name])
    return model, layers, masks


def answers(
    model: TrainableNetwork, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor], live: ActiveNeurons
) -> list[torch.Tensor]:
    """What the model says, and what its surviving weights, and its biases, learn from that."""
    spikes = (torch.rand(6, 9, 20, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    model.zero_grad()
    output = run_model(model, spikes, live)
    output.square().sum().backward()
    for name, matrix in layers.items():
        matrix.scale_gradient(masks[name])
    return [output.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("kind", MODELS)
def test_the_answers_and_gradients_are_those_of_the_whole(kind: str) -> None:
    model, layers, masks = sparse(kind)
    live = active_neurons(model, layers, masks)
    assert live
    assert all(0 < len(some.numbers) < some.of for some in live.values())
    whole, part = answers(model, layers, masks, {}), answers(model, layers, masks, live)
    assert whole[0].any()
    assert any(gradient.any() for gradient in whole[1:])
    for expected, found in zip(whole, part, strict=True):
        torch.testing.assert_close(found, expected)


def test_neurons_between_those_that_hear_nobody_and_those_that_nobody_hears_are_left_out() -> None:
    def live(*, biased: bool) -> dict[str, list[int]]:
        chain = Model(layer(20, 30, bias=biased), LIFCell(LIF), layer(30, 40), LIFCell(LIF), layer(40, 5), LICell())
        model = trainable(chain, torch.zeros(1, 20))
        layers = matrices(model)
        masks = {name: torch.zeros_like(matrix.weight, dtype=torch.bool) for name, matrix in layers.items()}
        for path in ((0, 1, 2, 3), (4, 5, 6, 0)):
            for mask, before, after in zip(masks.values(), path, path[1:], strict=False):
                mask[after, before] = True
        masks["layer0"][7, 3] = masks["layer2"][8, 7] = True  # 8 is not heard, so 7 is not
        masks["layer2"][9, 10] = masks["layer4"][1, 9] = True  # 10 hears nobody, so 9 does not
        return {name: some.numbers.tolist() for name, some in active_neurons(model, layers, masks).items()}

    assert live(biased=False) == {"layer0": [1, 5], "layer2": [2, 6]}
    assert live(biased=True) == {"layer0": [1, 5, 10], "layer2": [2, 6, 9]}  # now 10 may fire


@pytest.mark.parametrize(
    "options", [MinimaxOptions(idle=True, widths=True), MinimaxOptions(rest=False), MinimaxOptions(integers=False)],
    ids=["others rest", "others learn on", "not in integers"],
)  # fmt: skip
def test_a_network_is_compressed_as_if_all_neurons_were_calculated(
    options: MinimaxOptions, make_chip: Callable[..., HardwareProfile]
) -> None:
    told: list[Mapping[str, NeuronSubset]] = []

    class Whole(MinimaxPruning):
        @contextmanager
        def in_force(self) -> Iterator[None]:
            with super().in_force() as live:
                told.append(live or {})
                yield None

    profile, trained = make_chip(synapse_memory_bits_per_core=800, neurons_per_core=64), []
    for method in (MinimaxPruning, Whole):
        model = build(12, 40, 3)
        model, _ = fit(
            model, budget_for(model, profile, 1), few(), SHORT,
            method=lambda budget, net, method=method: method(budget, net, options),
        )  # fmt: skip
        trained.append([parameter.detach().clone() for parameter in model.parameters()])
    assert any(told) == (options.rest and options.integers)
    for a, b in zip(*trained, strict=True):
        torch.testing.assert_close(a, b)
