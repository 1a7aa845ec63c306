"""The rivals of the compression benchmark: each ends on the chip, and each is the method that it is named after."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import LIFCell, SequentialState
from recount import memory_of
from spiking import budget_for, build, few

from benchmarks.compression.rivals import RIVALS
from benchmarks.compression.rivals.admm import ADMM
from benchmarks.compression.rivals.fisher import FisherNeurons
from benchmarks.compression.rivals.knapsack import Knapsack
from benchmarks.compression.rivals.magnitude import Gradual, Lottery, OneShot
from benchmarks.compression.rivals.masked import Masked
from benchmarks.compression.rivals.one_sparsity import GlobalMinimax
from benchmarks.compression.rivals.rewiring import STDS, GradR
from benchmarks.compression.rivals.rigl import RigL
from benchmarks.compression.rivals.threshold import Scored, best_on_core
from neurodeploy.budgets.budget import Budget
from neurodeploy.frontends.norse import extract
from neurodeploy.hardware import HardwareProfile
from neurodeploy.quantization import quantize
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.rounding import quantization_errors
from neurodeploy.training import DataSplit, FitOptions, fit, load_data, run_model
from neurodeploy.training.checkpoints import load_state, save_state
from neurodeploy.training.direct import in_levels
from neurodeploy.training.integers import one_threshold_each
from neurodeploy.training.schedule import memory_in_force
from neurodeploy.trimming import live_neurons, without_neurons

WIDTH = 6
MEMORY_BITS = 20_480
FIRST, LAST = "layer0", "layer2"
LEVELS = 15
OPTIONS = FitOptions(
    epochs_dense=0, epochs_compress=4, epochs_finetune=2, n_steps=6, encoder="direct", readout="mean", mask_interval=5,
    learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> DataSplit:
    return load_data("digits")


@pytest.fixture(scope="module")
def dense(digits: DataSplit) -> SequentialState:
    model = build(64, 100, 10)
    fit(model, None, digits.train, FitOptions(epochs_dense=5, n_steps=6, encoder="direct", readout="mean", learning_rate=1e-2))
    return model


@pytest.fixture(scope="module", params=RIVALS)
def fitted(request: Any, digits: DataSplit, dense: SequentialState, loihi1: HardwareProfile) -> Any:
    """A rival, the model that it fitted to a fiftieth of a core, the budget and what happened on the way."""
    model = copy.deepcopy(dense)
    budget = budget_for(model, with_values(loihi1, synapse_memory_bits_per_core=MEMORY_BITS), 1)
    thresholds, made = one_threshold_each(extract(model, torch.zeros(1, 64)), LEVELS), list[Any]()

    def method(budget: Budget, model: torch.nn.Module) -> Any:
        made.append(RIVALS[request.param](budget, model, width=WIDTH, thresholds=thresholds))
        return made[0]

    _, history = fit(model, budget, digits.train, OPTIONS, test=digits.test, method=method)
    return made[0], model, budget, history


def in_integers(model: SequentialState, rival: Masked) -> tuple[Any, QuantizedNetwork]:
    """As `neurodeploy.compress` brings a compressed model to the chip."""
    network = in_levels(extract(model, torch.zeros(1, 64)), LEVELS)
    network = without_neurons(network, live_neurons(network))
    return network, quantize(network, rival.budget.profile, bits=rival.widths)


# ---------------------------------------------------------------------------------------------- what all of them keep


def test_it_ends_within_the_core_counted_anew_from_integers(fitted: Any) -> None:
    rival, model, budget, _ = fitted
    _, quantized = in_integers(model, rival)
    used = 0
    for layer in quantized:
        (connection,) = layer.connections
        there = connection.synapse.weight != 0
        used += memory_of(connection, budget.of(layer.name)[0].region, there, WIDTH, budget.profile)
    assert 0 < used <= MEMORY_BITS
    assert max(rival.overruns().values()) <= 0


def test_it_learns(fitted: Any) -> None:
    history = fitted[3]
    assert history[-1].test_accuracy > 0.5  # chance is a tenth
    assert history[-1].connectivity < 0.35


def test_its_weights_are_the_chips(fitted: Any) -> None:
    rival, model, _, history = fitted
    network, quantized = in_integers(model, rival)
    for error in quantization_errors(network, quantized):
        assert error.weight_error < 1e-5
        assert error.synapses_lost == 0
    left = sum(int((module.weight != 0).sum()) for module in (model[0], model[2]))
    assert history[-1].connectivity == pytest.approx(left / 7400, abs=0.01)


def test_what_it_keeps_goes_through_a_checkpoint(fitted: Any, tmp_path: Path) -> None:
    rival, model, budget, _ = fitted
    save_state(rival.state_dict(), tmp_path / "state")
    thresholds = {name: form.threshold for name, form in rival.forms.items() if form.threshold is not None}
    other = type(rival)(budget, copy.deepcopy(model), width=WIDTH, thresholds=thresholds)
    other.load_state_dict(load_state(tmp_path / "state"))
    assert told(other.state_dict()) == told(rival.state_dict())
    with rival.in_force(), other.in_force():
        for name, module in rival.layers.items():
            assert torch.equal(other.layers[name].weight, module.weight)


def told(value: Any) -> Any:
    """A state whose parts compare."""
    if isinstance(value, dict):
        return {key: told(each) for key, each in value.items()}
    return np.asarray(value).tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value


# ---------------------------------------------------------------------------------------------- the threshold


def test_the_threshold_is_the_lowest_that_fits(loihi1: HardwareProfile) -> None:
    model = build(40, 60, 10)
    budget = budget_for(model, with_values(loihi1, synapse_memory_bits_per_core=8192), 1)
    slices = [
        Scored(part=part, score=module.weight.detach().abs())
        for part, module in zip(budget.slices, (model[0], model[2]), strict=True)
    ]
    kept, threshold = best_on_core(slices, 8192, WIDTH, loihi1)
    assert bits_of(kept, budget) <= 8192
    below = max(float(one.score[one.score < threshold].max()) for one in slices)
    assert bits_of([one.score >= below for one in slices], budget) > 8192
    assert all(bool((mask == (one.score >= threshold)).all()) for mask, one in zip(kept, slices, strict=True))


def bits_of(masks: list[torch.Tensor], budget: Budget) -> int:
    network = extract(build(40, 60, 10), torch.zeros(1, 40))
    return sum(
        memory_of(network[part.layer].connections[0], part.region, mask.numpy(), WIDTH, budget.profile)
        for part, mask in zip(budget.slices, masks, strict=True)
    )


def test_caps_on_axons_are_kept_and_no_slice_is_emptied(make_chip: Callable[..., HardwareProfile]) -> None:
    model = build(40, 20, 3)
    chip = make_chip(input_axons_per_core=15, synapse_memory_bits_per_core=2048)
    rival = OneShot(budget_for(model, chip, 2), model, width=8)
    with torch.no_grad():
        model[2].weight.mul_(1e-6)  # below every threshold
    rival.close()
    assert max(rival.overruns().values()) <= 0
    assert all(mask.any() for mask in rival.survivors.values())


# ---------------------------------------------------------------------------------------------- what each of them does


@pytest.fixture
def small(loihi1: HardwareProfile) -> Callable[..., Any]:
    """``small(RigL, share=0.5)``: the method beside a model of 24-70-5, whose core holds a part of its synapses."""

    def make(method: Callable[..., Any], **own: Any) -> Any:
        model, chip = build(24, 70, 5), with_values(loihi1, synapse_memory_bits_per_core=8192)
        with torch.no_grad():
            model[2].weight.mul_(2)  # as large as those before
        return method(budget_for(model, chip, 1), model, width=8, **own)

    return make


def moved(rival: Masked, by: float = 0.05, seed: int = 1) -> None:
    """A training step of a kind, with its gradients left in place as the loop leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for module in rival.layers.values():
        module.weight.grad = torch.randn(module.weight.shape, generator=generator)
        with torch.no_grad():
            module.weight.sub_(module.weight.grad, alpha=by)


def weights(rival: Masked) -> dict[str, torch.Tensor]:
    return {name: module.weight.detach().clone() for name, module in rival.layers.items()}


def parted(values: dict[str, torch.Tensor], masks: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of all layers under the masks, and the others."""
    return torch.cat([values[name][mask] for name, mask in masks.items()]), torch.cat(
        [values[name][~mask] for name, mask in masks.items()]
    )


def test_one_shot_keeps_the_largest_of_all_layers_and_never_asks_again(small: Callable[..., Any]) -> None:
    rival = small(OneShot)
    sizes = rival.magnitudes()
    rival.choose(0.0)
    first = {name: mask.clone() for name, mask in rival.survivors.items()}
    kept, lost = parted(sizes, rival.survivors)
    assert kept.min() > lost.max()
    moved(rival)
    rival.after_step("compress", 1e-3)
    rival.choose(1.0)
    assert all(torch.equal(rival.survivors[name], mask) for name, mask in first.items())
    assert all(not module.weight[~first[name]].any() for name, module in rival.layers.items())


def test_gradual_shrinks_by_the_cubic_and_what_sleeps_keeps_its_value(small: Callable[..., Any]) -> None:
    rival = small(Gradual)
    need, limit = (memory_in_force(rival.budget.slices, rival.budget, progress) for progress in (0.0, 1.0))
    assert rival.memory(rival.budget.slices, 0.5) == pytest.approx(limit + (need - limit) / 8, abs=1)
    rival.choose(0.8)
    before = weights(rival)
    moved(rival)
    rival.after_step("compress", 1e-3)
    for name, weight in weights(rival).items():
        awake = rival.survivors[name]
        assert torch.equal(weight[~awake], before[name][~awake])
        assert not torch.equal(weight[awake], before[name][awake])
    name, asleep = FIRST, ~rival.survivors[FIRST]
    with torch.no_grad():
        rival.layers[name].weight[rival.survivors[name]] *= 1e-3
    rival.choose(0.9)
    assert (rival.survivors[name] & asleep).any()  # back, since the others have fallen below
    rival.choose(1.0)
    assert rival.is_final


def test_gradual_with_feedback_lets_sleeping_weights_learn(small: Callable[..., Any]) -> None:
    rival = small(partial(Gradual, feedback=True))
    rival.choose(0.8)
    before = weights(rival)
    moved(rival)
    rival.after_step("compress", 1e-3)
    assert not torch.equal(weights(rival)[FIRST], before[FIRST] * rival.survivors[FIRST])
    assert (weights(rival)[FIRST] != before[FIRST]).all()


def test_a_lottery_goes_back_to_the_early_weights_in_every_round(small: Callable[..., Any]) -> None:
    rival = small(Lottery, rounds=4)
    early, left = weights(rival), list[float]()
    for progress in (0.0, 0.1, 0.25, 0.5, 0.75, 1.0):
        moved(rival)
        trained = weights(rival)
        rival.choose(progress)
        is_round = progress in (0.0, 0.25, 0.5, 0.75)
        for name, weight in weights(rival).items():
            assert torch.equal(weight, (early if is_round else trained)[name] * rival.survivors[name])
        left += [rival.connectivity]
    assert left[0] == left[1] > left[2] > left[3] > left[4] == left[5]
    assert max(rival.overruns().values()) <= 0


def test_admm_pulls_towards_what_fits_and_cuts_only_in_the_end(small: Callable[..., Any]) -> None:
    rival = small(ADMM, rho=1.0)
    rival.choose(0.0)
    assert rival.connectivity == 1.0
    before, there = weights(rival), {name: z - rival.dual[name] for name, z in rival.projection.items()}
    rival.after_step("compress", 0.5)
    for name, weight in weights(rival).items():
        assert torch.allclose(weight, (before[name] + 0.5 * there[name]) / 1.5, atol=1e-6)
        assert torch.allclose(rival.projection[name] + rival.dual[name], before[name], atol=1e-6)
    sparse = sum(int((z != 0).sum()) for z in rival.projection.values()) / (24 * 70 + 70 * 5)
    rival.close()
    assert rival.connectivity <= sparse + 0.05 < 0.9
    assert max(rival.overruns().values()) <= 0


def test_rigl_keeps_the_budget_from_the_start_and_grows_by_gradient(small: Callable[..., Any]) -> None:
    rival = small(RigL, share=0.5, every=1)
    rival.choose(0.0)
    for step in range(1, 5):
        before = {name: mask.clone() for name, mask in rival.survivors.items()}
        moved(rival, seed=step)
        rival.after_step("compress", 1e-3)
        sizes = rival.magnitudes()
        rival.choose(step / 10)
        assert max(rival.overruns().values()) <= 0
        name, mask, was = FIRST, rival.survivors[FIRST], before[FIRST]
        dropped, grown, slope = was & ~mask, mask & ~was, rival.layers[FIRST].weight.grad.abs()
        assert dropped.any()
        assert grown.any()
        assert sizes[name][dropped].max() <= sizes[name][was].quantile(0.51)
        assert slope[grown].min() > slope[~mask].quantile(0.5)
        assert not rival.layers[name].weight[grown].any()
    rival.choose(1.5)
    last = {name: mask.clone() for name, mask in rival.survivors.items()}
    moved(rival)
    rival.choose(1.6)
    assert all(torch.equal(mask, last[name]) for name, mask in rival.survivors.items())


def test_grad_r_fixes_signs_and_lets_a_synapse_come_back(small: Callable[..., Any]) -> None:
    rival = small(GradR, alpha=0.1)
    rival.choose(0.5)
    signs, before = {name: sign.clone() for name, sign in rival.signs.items()}, weights(rival)
    rival.after_step("compress", 0.01)
    for name, weight in weights(rival).items():  # the prior alone: every theta falls
        assert torch.allclose(weight * signs[name], before[name] * signs[name] - 0.001, atol=1e-7)
    with torch.no_grad():
        rival.layers[FIRST].weight[0, 0] = -signs[FIRST][0, 0]  # theta = -1
    rival.choose(0.5)
    assert not rival.survivors[FIRST][0, 0]
    with torch.no_grad():
        rival.layers[FIRST].weight[0, 0] = signs[FIRST][0, 0]
    rival.choose(0.5)
    assert rival.survivors[FIRST][0, 0]
    rival.close()
    assert all(bool((weight * signs[name] >= 0).all()) for name, weight in weights(rival).items())


def test_stds_is_a_soft_threshold_that_rises(small: Callable[..., Any]) -> None:
    rival, widths = small(STDS), list[float]()
    theta = weights(rival)
    for progress in (0.0, 0.4, 0.7, 1.0):
        rival.choose(progress)
        widths += [float(rival.widths_of_zero[FIRST].max())]
        for name in theta:
            shrunk = torch.nn.functional.softshrink(theta[name], float(rival.widths_of_zero[name].max()))
            assert torch.allclose(rival.effective(name), shrunk, atol=1e-6)
            assert torch.equal(theta[name], weights(rival)[name])
    assert widths == sorted(widths)
    assert widths[0] < 1e-6 < widths[1] < widths[3]
    seen = {name: rival.effective(name) for name in theta}
    rival.close()
    assert all(torch.equal(weight, seen[name] * rival.survivors[name]) for name, weight in weights(rival).items())


def test_the_papers_minimax_has_one_sparsity_and_prices_that_climb(small: Callable[..., Any]) -> None:
    rival = small(GlobalMinimax)
    for step in range(11):
        rival.choose(step / 10)
    kept, lost = parted(rival.magnitudes(), rival.survivors)
    assert kept.min() > lost.max()
    assert rival.sparsity > 0.3
    assert rival.y > 10
    before = weights(rival)
    rival.after_step("compress", 0.01)
    for name, weight in weights(rival).items():
        assert torch.allclose(weight, before[name] * torch.where(rival.survivors[name], 1.0, 1 / (1 + 0.02 * rival.y)))


def test_fisher_takes_whole_neurons_by_what_their_spikes_contribute(small: Callable[..., Any]) -> None:
    rival = small(FisherNeurons, integers=False)
    model = SequentialState(rival.layers[FIRST], LIFCell(), rival.layers[LAST])
    factor, (inputs, target) = torch.ones(70, requires_grad=True), few(n_in=24, n_classes=5)[0]
    model[1].register_forward_hook(lambda _, __, output: (output[0] * factor, output[1]))
    with rival.in_force():
        spikes = (inputs > 0.5).float().unsqueeze(1).expand(-1, 8, -1)
        torch.nn.functional.cross_entropy(run_model(model, spikes * 8).sum(dim=0), target).backward()
    assert factor.grad is not None
    assert factor.grad.any()
    assert torch.allclose(rival.contribution[FIRST].float(), factor.grad.square(), atol=1e-8)
    rival.choose(1.0)
    gone = ~rival.survivors[FIRST].any(dim=1)
    assert 0 < int(gone.sum()) < 70
    assert rival.contribution[FIRST][gone].max() <= rival.contribution[FIRST][~gone].min()
    assert torch.equal(rival.survivors[LAST], (~gone).expand(5, 70))
    assert rival.survivors[FIRST][~gone].all()
    rival.close()
    assert max(rival.overruns().values()) <= 0


def test_a_knapsack_fills_units_and_never_takes_a_synapse_back(small: Callable[..., Any]) -> None:
    rival = small(Knapsack)
    rival.choose(1.0)
    lengths = set(rival.survivors[FIRST].sum(dim=0).tolist())  # of 8 + 7 bits, ten of header: 3, 7, 12, ... fill units of 64
    assert lengths <= {0, 3, 7, 12, 16, 20, 24, 29, 33, 37, 42, 46, 50, 54, 59, 63, 64, 67, 70}
    rival, before = small(Knapsack), None
    for progress in (0.0, 0.4, 0.8, 1.0, 1.5):
        rival.choose(progress)
        assert before is None or all(bool((mask <= before[name]).all()) for name, mask in rival.survivors.items())
        before = {name: mask.clone() for name, mask in rival.survivors.items()}
        moved(rival, by=1.0)
        rival.after_step("compress", 1e-3)
    assert rival.connectivity < 0.9
