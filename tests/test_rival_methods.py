"""What each rival of the compression benchmark does, by the equations of its paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from conftest import with_values
from norse.torch import LIFCell, SequentialState
from spiking import budget_for, build, few
from torch.nn.functional import linear

from benchmarks.compression.rivals.admm import ADMM
from benchmarks.compression.rivals.fisher import FisherNeurons
from benchmarks.compression.rivals.knapsack import Knapsack
from benchmarks.compression.rivals.magnitude import Gradual, Lottery, OneShot
from benchmarks.compression.rivals.masked import Masked
from benchmarks.compression.rivals.rewiring import STDS, GradR
from benchmarks.compression.rivals.rigl import RigL
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.pruning_method import memory_in_force
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.training.forward import run_model

FIRST, LAST = "layer0", "layer2"


@pytest.fixture
def small(loihi1: HardwareProfile) -> Callable[..., Any]:
    """``small(RigL, share=0.5)``: the method beside a model of 24-70-5, whose core holds a part of its synapses."""

    def make(method: Callable[..., Any], bits: int = 8192, **own: Any) -> Any:
        model, chip = build(24, 70, 5), with_values(loihi1, synapse_memory_bits_per_core=bits)
        with torch.no_grad():
            model[2].weight.mul_(5)  # so that all neurons are heard
        return method(budget_for(model, chip, 1), trainable(model, torch.zeros(1, 24)), width=8, **own)

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
    """Those of both layers under the masks, and the others, as far as they lie at hidden neurons that have synapses."""
    live = masks[FIRST].any(dim=1)
    pairs = [(values[FIRST][live], masks[FIRST][live]), (values[LAST][:, live], masks[LAST][:, live])]
    return torch.cat([value[mask] for value, mask in pairs]), torch.cat([value[~mask] for value, mask in pairs])


def test_one_shot_keeps_the_largest_of_all_layers_and_never_asks_again(small: Callable[..., Any]) -> None:
    rival = small(OneShot)
    sizes = rival.magnitudes()
    rival.choose(0.0)
    first = {name: mask.clone() for name, mask in rival.masks.items()}
    kept, lost = parted(sizes, rival.masks)
    assert kept.min() > lost.max()
    moved(rival)
    rival.after_step("compress", 1e-3)
    rival.choose(1.0)
    assert all(torch.equal(rival.masks[name], mask) for name, mask in first.items())
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
        awake = rival.masks[name]
        assert torch.equal(weight[~awake], before[name][~awake])
        assert not torch.equal(weight[awake], before[name][awake])
    name, asleep = FIRST, ~rival.masks[FIRST]
    with torch.no_grad():
        rival.layers[name].weight[rival.masks[name]] *= 1e-3
    rival.choose(0.9)
    assert (rival.masks[name] & asleep).any()  # back, since the others have fallen below
    rival.choose(1.0)
    assert rival.is_final


def test_gradual_with_feedback_lets_sleeping_weights_learn(small: Callable[..., Any]) -> None:
    rival = small(partial(Gradual, feedback=True))
    rival.choose(0.8)
    before = weights(rival)
    moved(rival)
    rival.after_step("compress", 1e-3)
    assert not torch.equal(weights(rival)[FIRST], before[FIRST] * rival.masks[FIRST])
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
            assert torch.equal(weight, (early if is_round else trained)[name] * rival.masks[name])
        left += [rival.connectivity]
    assert left[0] == left[1] > left[2] > left[3] > left[4] == left[5]
    assert max(rival.overruns().values()) <= 0


def test_admm_pulls_towards_what_fits_and_cuts_only_in_the_end(small: Callable[..., Any]) -> None:
    rival = small(ADMM, rho=0.5)
    loss_of(rival)
    without = {name: module.weight.grad.clone() for name, module in rival.layers.items()}  # no penalty before the first choice
    rival.choose(0.0)
    assert rival.connectivity == 1.0
    for name, weight in weights(rival).items():
        assert torch.equal(rival.projection[name] + rival.dual[name], weight)
    rival.formats = {name: replace(form, is_rounded=False) for name, form in rival.formats.items()}
    loss_of(rival)
    for name, module in rival.layers.items():
        penalty = 0.5 * (module.weight - rival.projection[name] + rival.dual[name])
        assert torch.allclose(module.weight.grad, without[name] + penalty, atol=1e-6)
    sparse = sum(int((z != 0).sum()) for z in rival.projection.values()) / (24 * 70 + 70 * 5)
    rival.close()
    assert rival.connectivity <= sparse + 0.05 < 0.9
    assert max(rival.overruns().values()) <= 0


def loss_of(rival: Masked) -> None:
    """The gradients of a loss, as the loop takes them."""
    first, last = rival.layers.values()
    for module in (first, last):
        module.weight.grad = None
    with rival.in_force():
        (linear(linear(torch.ones(2, 24), first.weight).tanh(), last.weight) ** 2).sum().backward()


def test_rigl_keeps_the_budget_from_the_start_and_grows_by_gradient(small: Callable[..., Any]) -> None:
    rival = small(RigL, share=0.5, every=1)
    rival.choose(0.0)
    for step in range(1, 5):
        before = {name: mask.clone() for name, mask in rival.masks.items()}
        moved(rival, seed=step)
        rival.after_step("compress", 1e-3)
        sizes = rival.magnitudes()
        rival.choose(step / 10)
        assert max(rival.overruns().values()) <= 0
        name, mask, was = FIRST, rival.masks[FIRST], before[FIRST]
        dropped, grown, slope = was & ~mask, mask & ~was, rival.layers[FIRST].weight.grad.abs()
        assert dropped.any()
        assert grown.any()
        assert sizes[name][dropped].max() <= sizes[name][was].quantile(0.51)
        assert slope[grown].min() > slope[~mask].quantile(0.5)
        assert not rival.layers[name].weight[grown].any()
    rival.choose(1.5)
    last = {name: mask.clone() for name, mask in rival.masks.items()}
    moved(rival)
    rival.choose(1.6)
    assert all(torch.equal(mask, last[name]) for name, mask in rival.masks.items())


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
    assert not rival.masks[FIRST][0, 0]
    with torch.no_grad():
        rival.layers[FIRST].weight[0, 0] = signs[FIRST][0, 0]
    rival.choose(0.5)
    assert rival.masks[FIRST][0, 0]
    rival.close()
    assert all(bool((weight * signs[name] >= 0).all()) for name, weight in weights(rival).items())


def test_stds_is_a_soft_threshold_that_rises(small: Callable[..., Any]) -> None:
    rival, widths = small(STDS), list[float]()
    theta = weights(rival)
    for progress in (0.0, 0.4, 0.7, 1.0):
        rival.choose(progress)
        widths += [float(rival.widths_of_zero[FIRST].max())]
        shrunk = {
            name: torch.nn.functional.softshrink(theta[name], float(width.max())) for name, width in rival.widths_of_zero.items()
        }
        for name in theta:
            assert torch.allclose(rival.effective(name), shrunk[name] * rival.masks[name], atol=1e-6)
            assert torch.equal(theta[name], weights(rival)[name])
        seen, lost = parted(shrunk, rival.masks)
        assert seen.all()
        assert not lost.any()
    assert widths == sorted(widths)
    assert widths[0] < 1e-6 < widths[1] < widths[3]
    before = {name: rival.effective(name) for name in theta}
    rival.close()
    assert all(torch.equal(weight, before[name] * rival.masks[name]) for name, weight in weights(rival).items())


def test_fisher_takes_whole_neurons_by_what_their_spikes_contribute(small: Callable[..., Any]) -> None:
    rival = small(FisherNeurons, integers=False)
    first, last = (rival.layers[name].weight for name in (FIRST, LAST))
    factor, (inputs, target) = torch.ones(70, requires_grad=True), few(n_in=24, n_classes=5)[0]
    with rival.in_force():
        spikes = (inputs > 0.5).float().unsqueeze(1).expand(-1, 8, -1)
        fired = run_model(SequentialState(LIFCell()), linear(spikes * 8, first))
        torch.nn.functional.cross_entropy(linear(fired * factor, last).sum(dim=0), target).backward()
    assert factor.grad is not None
    assert factor.grad.any()
    assert torch.allclose(rival.contribution[FIRST].float(), factor.grad.square(), rtol=1e-3, atol=1e-8)  # other sums
    rival.choose(1.0)
    gone = ~rival.masks[FIRST].any(dim=1)
    assert 0 < int(gone.sum()) < 70
    assert rival.contribution[FIRST][gone].max() <= rival.contribution[FIRST][~gone].min()
    assert torch.equal(rival.masks[LAST], (~gone).expand(5, 70))
    assert rival.masks[FIRST][~gone].all()
    rival.close()
    assert max(rival.overruns().values()) <= 0


def test_a_knapsack_fills_units_and_never_takes_a_synapse_back(small: Callable[..., Any]) -> None:
    rival = small(Knapsack, bits=12288)
    with torch.no_grad():
        rival.layers[LAST].weight.sign_()
    rival.choose(1.0)
    lengths = set(rival.masks[FIRST].sum(dim=0).tolist())  # of 8 + 7 bits, ten of header: 3, 7, 12, ... fill units of 64
    assert lengths <= {0, 3, 7, 12, 16, 20, 24, 29, 33, 37, 42, 46, 50, 54, 59, 63, 64, 67, 70}
    rival, before = small(Knapsack), None
    for progress in (0.0, 0.4, 0.8, 1.0, 1.5):
        rival.choose(progress)
        assert before is None or all(bool((mask <= before[name]).all()) for name, mask in rival.masks.items())
        before = {name: mask.clone() for name, mask in rival.masks.items()}
        moved(rival, by=1.0)
        rival.after_step("compress", 1e-3)
    assert rival.connectivity < 0.9


def test_a_rival_may_compare_weights_as_ours_are_compared(small: Callable[..., Any]) -> None:
    """Of 24 axons the first six are minded a hundred times as much."""
    heard = {}
    for curvature in (False, True):
        rival = small(Knapsack, curvature=curvature)
        moved(rival)
        rival.layers[FIRST].weight.grad[:, 6:] *= 0.1
        rival.before_step()
        rival.choose(1.0)
        heard[curvature] = float(rival.masks[FIRST][:, :6].sum() / rival.masks[FIRST].sum())
        rival.close()
        assert max(rival.overruns().values()) <= 0
    assert heard[False] < 0.4
    assert heard[True] > 0.8
