"""Soft thresholds: taken off the weights where synapses cost alike, from the first choice until the compression closes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from test_minimax import linear_model

from neurodeploy.budgets.sharing import share_budget
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Network
from neurodeploy.profiles import load_profile
from neurodeploy.training.minimax import Compression
from neurodeploy.training.modules import as_network
from neurodeploy.training.options import MinimaxOptions
from neurodeploy.training.soft import costs_alike
from neurodeploy.trimming import live_neurons

PLAIN = {
    "encodings": ("sparse",), "memory_unit_bits": None, "synapses_per_block": None, "block_header_bits": None,
    "weight_bits": (8,), "index_bits": (8,), "neurons_per_core": 256, "synapse_memory_bits_per_core": 16384,
    "input_axons_per_core": 256, "output_axons_per_core": 256,
}  # fmt: skip
"""Room for 1024 synapses of 8 + 8 bits."""


@pytest.fixture
def plain(make_chip: Callable[..., HardwareProfile]) -> HardwareProfile:
    return make_chip(**PLAIN)


@pytest.fixture
def network(make_network: Callable[..., Network]) -> Network:
    return make_network([64, 100, 10])


def pressed(network: Network, chip: HardwareProfile, **told: bool) -> tuple[torch.nn.Sequential, Compression]:
    model = linear_model(network)
    return model, Compression(share_budget(network, chip, cores=1), model, MinimaxOptions(**told))


def seen(model: torch.nn.Sequential, compression: Compression) -> list[torch.Tensor]:
    with compression.in_force():
        return [module.weight.detach().clone() for module in model]


def seen_of(hidden: torch.Tensor, threshold: float) -> torch.Tensor:
    """The minimiser of (w - h)^2 / 2 + threshold |w|."""
    return hidden.sign() * (hidden.abs() - threshold).clamp(min=0)


@pytest.mark.parametrize(
    "change",
    [{"memory_unit_bits": 64}, {"synapses_per_block": 32}, {"block_header_bits": 10}, {"encodings": ("dense", "sparse")}],
    ids=str,
)
def test_costs_are_alike_where_a_list_is_its_synapses(
    change: dict[str, object], make_chip: Callable[..., HardwareProfile]
) -> None:
    assert costs_alike(make_chip(**PLAIN))
    assert not costs_alike(make_chip(**{**PLAIN, **change}))
    assert not costs_alike(load_profile("loihi1"))


@pytest.mark.parametrize("by_size", [True, False])
def test_what_survives_is_seen_less_one_threshold_for_all(by_size: bool, network: Network, plain: HardwareProfile) -> None:
    model, compression = pressed(network, plain, by_size=by_size)
    hidden = [module.weight.detach().clone() for module in model]
    compression.choose(1.0)
    compression.choose(1.0)  # the grids are laid for weights that are less by now
    masks = list(compression.survivors.values())
    assert 1000 <= sum(int(mask.sum()) for mask in masks) <= 1024
    units = (1, math.log(1000) / math.log(6400)) if by_size else (1, 1)  # of 64 x 100 and 100 x 10 synapses
    threshold = min(float(weight.abs()[mask].min()) / unit for weight, mask, unit in zip(hidden, masks, units, strict=True))
    forms, found_in = compression.forms.values(), seen(model, compression)
    for weight, mask, unit, found, form in zip(hidden, masks, units, found_in, forms, strict=True):
        assert float(weight.abs()[~mask].max()) <= threshold * unit
        assert form.grid is not None
        wanted = seen_of(weight, threshold * unit)
        inside = wanted.abs() <= form.grid.largest
        assert (found - wanted)[mask & inside].abs().max() <= 0.51 * form.grid.step
        assert not found[~mask].any()
    assert all(torch.equal(module.weight, weight) for module, weight in zip(model, hidden, strict=True))


@pytest.mark.parametrize("soft", [True, False])
def test_weights_that_are_away_learn_until_it_closes(soft: bool, network: Network, plain: HardwareProfile) -> None:
    model, compression = pressed(network, plain, soft=soft)
    compression.choose(1.0)

    def learn() -> list[bool]:
        model.zero_grad()
        with compression.in_force():
            torch.autograd.backward(model(torch.rand(5, 64)).square().sum())
        compression.before_step()
        masks = compression.survivors.values()
        return [bool(module.weight.grad[~mask].any()) for module, mask in zip(model, masks, strict=True)]

    assert learn() == [soft, soft]
    compression.close()
    assert learn() == [False, False]


def test_closing_leaves_what_was_seen(network: Network, plain: HardwareProfile) -> None:
    model, compression = pressed(network, plain)
    for progress in (0.0, 0.5, 1.0):
        compression.choose(progress)
    hidden = [module.weight.detach().clone() for module in model]
    assert compression.soft is not None
    thresholds = [float(off.max()) for off in compression.soft.off.values()]
    compression.close()
    masks = list(compression.survivors.values())
    for module, weight, mask, threshold in zip(model, hidden, masks, thresholds, strict=True):
        assert threshold <= float(weight.abs()[mask].min())
        wanted = seen_of(weight, threshold) * mask
        torch.testing.assert_close(module.weight, wanted)
    assert max(compression.overruns().values()) <= 0
    before = [module.weight.detach().clone() for module in model]
    compression.after_step("finetune", 0.1)
    assert all(torch.equal(module.weight, weight) for module, weight in zip(model, before, strict=True))


def test_weights_just_above_the_threshold_are_seen_as_little(network: Network, plain: HardwareProfile) -> None:
    model, compression = pressed(network, plain)
    compression.choose(1.0)
    assert compression.soft is not None
    with torch.no_grad():
        model[1].weight *= 1.2 * float(compression.soft.off["layer2"].max()) / model[1].weight.abs().max()
    compression.choose(1.0)
    thresholds = [float(off.max()) for off in compression.soft.off.values()]
    assert thresholds[0] * compression.soft.units["layer2"] == pytest.approx(thresholds[1])
    assert thresholds[1] < float(model[1].weight.detach().abs().max()) < 1.5 * thresholds[1]


def test_a_slice_of_small_weights_is_not_silenced(network: Network, plain: HardwareProfile) -> None:
    model, compression = pressed(network, plain)
    with torch.no_grad():
        model[1].weight *= 1e-3
    compression.choose(1.0)
    compression.choose(1.0)
    compression.close()
    assert model[1].weight.any()


def test_what_idle_neurons_leave_lowers_the_threshold_for_all(
    network: Network, make_chip: Callable[..., HardwareProfile]
) -> None:
    small = make_chip(**{**PLAIN, "synapse_memory_bits_per_core": 3200})  # 200 synapses, for 100 neurons
    thresholds, n_synapses = {}, {}
    for idle in (False, True):
        _, compression = pressed(network, small, idle=idle, by_size=False)
        for progress in (0.5, 1.0, 1.0):
            compression.choose(progress)
        assert compression.soft is not None
        thresholds[idle] = float(compression.soft.off["layer1"].max())
        live = live_neurons(as_network(compression.layers, compression.survivors))["layer1"]
        onto, from_ = compression.survivors["layer1"].any(dim=1).numpy(), compression.survivors["layer2"].any(dim=0).numpy()
        assert (bool((onto == live).all() and (from_ == live).all())) is idle
        n_synapses[idle] = sum(int(mask.sum()) for mask in compression.survivors.values())
    assert thresholds[True] < 0.9 * thresholds[False]
    assert 196 <= n_synapses[True] <= 200


@pytest.mark.parametrize("idle", [False, True])
def test_a_state_is_taken_up_with_its_thresholds(idle: bool, network: Network, plain: HardwareProfile) -> None:
    model, compression = pressed(network, plain, idle=idle)
    compression.choose(0.5)
    other, taken_up = pressed(network, plain, idle=idle)
    taken_up.load_state_dict(copy.deepcopy(compression.state_dict()))
    for ours, theirs in zip(seen(model, compression), seen(other, taken_up), strict=True):
        assert torch.equal(ours, theirs)
    for one in (compression, taken_up):
        one.close()
    assert all(torch.equal(ours.weight, theirs.weight) for ours, theirs in zip(model, other, strict=True))
