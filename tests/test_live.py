"""A step that calculates only the neurons that matter answers, and learns, what the whole step does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from spiking import SHORT, budget_for, build, few

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.saliency import ActiveNeurons, NeuronSubset, active_neurons
from neurodeploy.compression.weight_matrices import WeightMatrix
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import run_model

if TYPE_CHECKING:
    from collections.abc import Iterator

Model = SequentialState
LIF = LIFParameters(v_th=torch.tensor(0.3), tau_mem_inv=torch.tensor(300.0))
EACH = LIF._replace(v_th=torch.linspace(0.2, 0.4, 30))
RESTLESS = LIF._replace(v_th=torch.tensor(0.05), v_leak=torch.tensor(0.1))


def layer(n_in: int, n_out: int, *, bias: bool = False) -> torch.nn.Linear:
    return torch.nn.Linear(n_in, n_out, bias=bias)


MODELS: Mapping[str, Callable[[], Model]] = {
    "plain": lambda: Model(layer(20, 30), LIFCell(LIF), layer(30, 40), LIFCell(LIF), layer(40, 5), LICell()),
    "with biases": lambda: Model(
        layer(20, 30, bias=True), LIFCell(LIF), layer(30, 40, bias=True), LIFCell(LIF), layer(40, 5, bias=True), LICell()
    ),
    "a threshold each": lambda: Model(layer(20, 30), LIFCell(EACH), layer(30, 5), LICell()),
    "restless": lambda: Model(layer(20, 30), LIFCell(RESTLESS), layer(30, 5), LICell()),
    "something between": lambda: Model(
        layer(20, 30), LIFCell(LIF), torch.nn.Unflatten(1, (3, 10)), torch.nn.Flatten(), layer(30, 5), LICell()
    ),
    "recurrent": lambda: Model(
        layer(20, 30), LIFCell(LIF), LIFRecurrentCell(30, 40, p=LIF), layer(40, 30), LIFCell(LIF), layer(30, 5), LICell()
    ),
    "membranes in between": lambda: Model(layer(20, 30), LICell(), layer(30, 5), LICell()),
}


def sparse(kind: str) -> tuple[Model, dict[str, WeightMatrix], dict[str, torch.Tensor]]:
    """A model most of whose weights are zero, its matrices, and which weights are not."""
    torch.manual_seed(0)
    model = MODELS[kind]()
    layers = {
        str(n): WeightMatrix(module) for n, module in enumerate(model) if isinstance(module, (torch.nn.Linear, LIFRecurrentCell))
    }
    masks = {name: torch.rand_like(matrix.weight) < 1.5 / matrix.weight.shape[0] for name, matrix in layers.items()}
    for name, matrix in layers.items():
        matrix.scale(8 * masks[name])
    return model, layers, masks


def answers(
    model: Model, layers: Mapping[str, WeightMatrix], masks: Mapping[str, torch.Tensor], live: ActiveNeurons
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
    live = active_neurons(layers, masks)
    assert live
    assert all(0 < len(some.numbers) < some.of for some in live.values())
    whole, part = answers(model, layers, masks, {}), answers(model, layers, masks, live)
    assert whole[0].any()
    assert any(gradient.any() for gradient in whole[1:])
    for expected, found in zip(whole, part, strict=True):
        torch.testing.assert_close(found, expected)


def test_neurons_between_those_that_hear_nobody_and_those_that_nobody_hears_are_left_out() -> None:
    model = MODELS["plain"]()
    layers = {str(n): WeightMatrix(module) for n, module in enumerate(model) if isinstance(module, torch.nn.Linear)}
    masks = {name: torch.zeros_like(matrix.weight, dtype=torch.bool) for name, matrix in layers.items()}
    for path in ((0, 1, 2, 3), (4, 5, 6, 0)):
        for mask, before, after in zip(masks.values(), path, path[1:], strict=False):
            mask[after, before] = True
    masks["0"][7, 3] = masks["2"][8, 7] = True  # 8 is not heard, so 7 is not
    masks["2"][9, 10] = masks["4"][1, 9] = True  # 10 hears nobody, so 9 does not
    live = active_neurons(layers, masks)
    assert {module.out_features: some.numbers.tolist() for module, some in live.items()} == {30: [1, 5], 40: [2, 6]}
    with torch.no_grad():
        model[0].bias = torch.nn.Parameter(torch.ones(30))  # now 10 may fire
    layers["0"] = WeightMatrix(model[0])
    assert {module.out_features: some.numbers.tolist() for module, some in active_neurons(layers, masks).items()} == {
        30: [1, 5, 10], 40: [2, 6, 9],
    }  # fmt: skip


def test_a_model_somebody_listens_to_is_run_whole() -> None:
    model, layers, masks = sparse("plain")
    heard: list[torch.Size] = []
    model[2].register_forward_hook(lambda _, inputs, answer: heard.extend((inputs[0].shape[-1:], answer.shape[-1:])))
    expected = answers(model, layers, masks, {})
    found = answers(model, layers, masks, active_neurons(layers, masks))
    assert heard == [torch.Size([30]), torch.Size([40])] * 2
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b, a)


@pytest.mark.parametrize(
    "options", [MinimaxOptions(idle=True, widths=True), MinimaxOptions(rest=False), MinimaxOptions(integers=False)],
    ids=["others rest", "others learn on", "not in integers"],
)  # fmt: skip
def test_a_network_is_compressed_as_if_all_neurons_were_calculated(
    options: MinimaxOptions, make_chip: Callable[..., HardwareProfile]
) -> None:
    told: list[Mapping[torch.nn.Module, NeuronSubset]] = []

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
