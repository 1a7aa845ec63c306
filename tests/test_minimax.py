"""The constrained side of training: the proximal map, the multipliers, and how a compression closes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning, ascend, shrink
from neurodeploy.compression.synapse_selection import PRICED_RESOURCES
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import BudgetError, TrainingError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.budget import Budget
from neurodeploy.passes.dead_neurons import needed_neurons

PENALTY_RATE = 100.0


def products(model: TrainableNetwork, inputs: torch.Tensor) -> torch.Tensor:
    """The inputs times the weights of one layer after the other."""
    for layer in model:
        inputs = torch.nn.functional.linear(inputs, weight_of(model, layer.layer.name))
    return inputs


def weight_of(model: TrainableNetwork, name: str) -> torch.Tensor:
    (inlet,) = model[name].inlets
    return inlet.weight


@pytest.fixture
def compression(make_network: Callable[..., Network], tiny: HardwareProfile) -> MinimaxPruning:
    network = make_network([64, 100, 10])
    soft = MinimaxOptions(integers=False, penalty_rate=PENALTY_RATE)
    return MinimaxPruning(share_budget(network, tiny, cores=2), TrainableNetwork(network), soft)


def test_the_proximal_map_is_the_equation(compression: MinimaxPruning) -> None:
    compression.choose(1.0)
    compression.penalties = {"layer1": 3.0, "layer2": 0.5}
    before = {name: module.weight.detach().clone() for name, module in compression.layers.items()}
    shrink(compression.layers, compression.masks, compression.penalties, 0.1)
    for name, module in compression.layers.items():
        kept, y = compression.masks[name], compression.penalties[name]
        assert torch.equal(module.weight[kept], before[name][kept])
        assert torch.allclose(module.weight[~kept], before[name][~kept] / (1 + 2 * 0.1 * y))


def test_the_proximal_map_solves_its_problem(compression: MinimaxPruning) -> None:
    """It minimises  (x - w)^2 / (2 lr) + y x^2  for every weight w outside the survivors."""
    compression.choose(1.0)
    compression.penalties = dict.fromkeys(compression.penalties, 2.0)
    w = compression.layers["layer1"].weight.detach().clone()
    shrink(compression.layers, compression.masks, compression.penalties, 0.25)
    x = compression.layers["layer1"].weight.detach().requires_grad_()
    (((x - w) ** 2 / (2 * 0.25) + 2.0 * x**2) * ~compression.masks["layer1"]).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-5


def climb(compression: MinimaxPruning) -> None:
    ascend(compression.layers, compression.masks, compression.penalties, PENALTY_RATE)


def test_y_climbs_by_the_share_that_should_be_zero_and_rests_when_it_is(compression: MinimaxPruning) -> None:
    climb(compression)
    assert compression.penalties == {"layer1": 0.0, "layer2": 0.0}  # nothing is to be zero yet
    compression.choose(1.0)
    squared = compression.layers["layer1"].weight.detach() ** 2
    share = float((squared * ~compression.masks["layer1"]).sum() / squared.sum())
    climb(compression)
    climb(compression)
    assert compression.penalties["layer1"] == pytest.approx(2 * PENALTY_RATE * share, rel=1e-4)
    compression.hold()
    y = dict(compression.penalties)
    climb(compression)
    assert compression.penalties == y


def test_a_pruned_weight_comes_back_when_it_has_grown(compression: MinimaxPruning) -> None:
    compression.choose(1.0)
    row, column = (~compression.masks["layer1"]).nonzero()[0].tolist()
    with torch.no_grad():
        compression.layers["layer1"].weight[row, column] = 100.0
    compression.choose(1.0)
    assert compression.masks["layer1"][row, column]


def test_connectivity_is_the_share_of_the_survivors(compression: MinimaxPruning) -> None:
    assert compression.connectivity == 1.0
    compression.choose(1.0)
    masks = sum(int(mask.sum()) for mask in compression.masks.values())
    assert compression.connectivity == pytest.approx(masks / 7400)


# ---------------------------------------------------------------------------------------------- the end


@examples(30)
@given(
    sizes=st.tuples(st.integers(1, 130), st.integers(1, 100), st.integers(1, 20)),
    cores=st.integers(2, 4),
    connectivity=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 9),
)
def test_a_closed_compression_keeps_every_slice_budget_and_cuts_off_no_slice(
    sizes: tuple[int, ...],
    cores: int,
    connectivity: float,
    seed: int,
    make_network: Callable[..., Network],
    tiny: HardwareProfile,
) -> None:
    network = make_network(sizes, connectivity=connectivity, seed=seed)
    budget = share_budget(network, tiny, cores=cores)
    compression = MinimaxPruning(budget, TrainableNetwork(network))
    before = {name: module.weight.detach().clone() for name, module in compression.layers.items()}
    compression.close()
    assert max(compression.overruns().values()) <= 0
    for part in budget.slices:
        assert compression.masks[part.layer][part.start : part.stop].any()
    for name, module in compression.layers.items():
        assert torch.equal(module.weight.detach(), before[name] * compression.masks[name])
    with compression.in_force():
        for module in compression.layers.values():
            assert len(module.weight.unique()) < 256


def test_neurons_that_nobody_hears_keep_no_synapse_and_the_output_stays(
    make_network: Callable[..., Network], tiny: HardwareProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network([12, 20, 20, 4])
    model = TrainableNetwork(network)
    first, second, third = (weight_of(model, name) for name in ("layer1", "layer2", "layer3"))
    with torch.no_grad():
        third[:, 5:] = 0  # of the second layer's neurons five are heard,
        second[:5, 7:] = 0  # and they hear seven of the first layer's
    inputs = torch.rand(3, 12)
    before = products(model, inputs)
    compression = MinimaxPruning(share_budget(network, tiny), model)
    compression.masks["layer3"] &= third != 0
    compression.masks["layer2"] &= second != 0
    monkeypatch.setattr(MinimaxPruning, "choose", lambda *_: None)
    compression.close()
    assert torch.allclose(products(model, inputs), before)
    assert [int(weight.any(dim=1).sum()) for weight in (first, second, third)] == [7, 5, 4]


@pytest.mark.parametrize("rest", [True, False])
def test_only_survivors_learn_if_the_others_are_to_rest(
    rest: bool, make_network: Callable[..., Network], tiny: HardwareProfile
) -> None:
    network = make_network([64, 100, 10])
    model = TrainableNetwork(network)
    compression = MinimaxPruning(share_budget(network, tiny, cores=2), model, MinimaxOptions(rest=rest))
    compression.choose(1.0)
    before = [matrix.weight.detach().clone() for matrix in compression.layers.values()]
    with compression.in_force():
        torch.autograd.backward(products(model, torch.rand(5, 64)).square().sum())
    compression.before_step()
    for module, weight, mask in zip(compression.layers.values(), before, compression.masks.values(), strict=True):
        assert torch.equal(module.weight, weight)
        assert module.weight.grad is not None
        assert module.weight.grad[mask].any()
        assert bool(module.weight.grad[~mask].any()) != rest


def test_what_idle_neurons_leave_goes_to_the_others(
    make_network: Callable[..., Network], make_chip: Callable[..., HardwareProfile]
) -> None:
    """Of 200 neurons at most 30 are heard: five bits of index tell them apart, where eight were needed."""
    network, kept = make_network([64, 200, 10]), {}
    for idle in (False, True):
        model = TrainableNetwork(network)
        with torch.no_grad():
            weight_of(model, "layer2")[:, 30:] *= 1e-3
        budget = share_budget(network, make_chip(synapse_memory_bits_per_core=16384, neurons_per_core=256), cores=1)
        compression = MinimaxPruning(budget, model, MinimaxOptions(integers=False, idle=idle))
        compression.choose(0.5)
        assert compression.masks["layer1"][30:].any()
        compression.choose(1.0)
        compression.close()
        live = needed_neurons(model.to_network())["layer1"]
        assert 0 < live.sum() <= 30
        kept[idle] = int(compression.masks["layer1"].sum())
    assert kept[True] > 1.1 * kept[False]


def test_overruns_are_those_that_the_budget_counts(make_network: Callable[..., Network], tiny: HardwareProfile) -> None:
    network = make_network([64, 100, 10])
    budget = share_budget(network, tiny, cores=2)
    overruns = MinimaxPruning(budget, TrainableNetwork(network)).overruns()
    counted = {f"{found.slice.name} {found.resource}": found for found in budget.overruns(network)}
    assert {name for name, overrun in overruns.items() if overrun > 0} == set(counted) != set()
    for name, found in counted.items():
        memory = found.resource == "synapse_memory_bits"  # that of the whole core, where a slice is told of its own part
        assert overruns[name] == pytest.approx(found.need / found.limit - 1) or memory
    assert set(overruns) == {f"{part.name} {resource}" for part in budget.slices for resource in PRICED_RESOURCES}


def test_the_count_on_the_weights_has_the_last_word(compression: MinimaxPruning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MinimaxPruning, "choose", lambda *_: None)
    with pytest.raises(BudgetError, match=r"_bits of neurons|input_axons of neurons"):
        compression.close()


def test_a_budget_for_another_model_is_refused(make_network: Callable[..., Network], tiny: HardwareProfile) -> None:
    budget: Budget = share_budget(make_network([20, 30, 10]), tiny)
    with pytest.raises(TrainingError, match=r"^model: has the layers layer1; the budget is for layer1, layer2\. "):
        MinimaxPruning(budget, TrainableNetwork(make_network([20, 10])))
    with pytest.raises(TrainingError, match=r"layer 'layer1': has weights \(30, 21\), the budget is for \(30, 20\)"):
        MinimaxPruning(budget, TrainableNetwork(make_network([21, 30, 10])))
    with pytest.raises(TrainingError, match=r"layer 'layer1': has weights \(31, 20\), the budget is for \(30, 20\)"):
        MinimaxPruning(budget, TrainableNetwork(make_network([20, 31, 10])))
