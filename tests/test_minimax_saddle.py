"""The saddle point method: its steps are the paper's, its limits the chip's, and its end is within the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples, with_values
from hypothesis import given
from hypothesis import strategies as st
from spiking import SHORT, BrokenError, build, few, weights
from test_trainable_network import KINDS, made

import neurodeploy as nd
from neurodeploy.compression.minimax import MinimaxOptions
from neurodeploy.compression.minimax_saddle import (
    MinimaxSaddleOptions,
    MinimaxSaddlePruning,
    SaddlePoint,
    bottom_norm,
    make_minimax_saddle,
)
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.pruning_method import PruningSetup
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import RequestError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.checkpoint import Checkpoint
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import evaluate
from neurodeploy.training.options import Step

WAY = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0, 1.1, 1.2)
AXONS = {"input_axons_per_core": 512, "output_axons_per_core": 512}
MakeNetwork = Callable[..., Network]


def pruning_of(network: Network, chip: HardwareProfile, cores: int = 1, **options: Any) -> MinimaxSaddlePruning:
    budget = share_budget(network, chip, cores=cores)
    return MinimaxSaddlePruning(budget, TrainableNetwork(network), MinimaxSaddleOptions(**options))


@pytest.fixture
def pruning(make_network: MakeNetwork, make_chip: Callable[..., HardwareProfile]) -> MinimaxSaddlePruning:
    """64-100-10 on a core that holds a part of it, with axons for all."""
    chip = make_chip(synapse_memory_bits_per_core=12_000, neurons_per_core=256, **AXONS)
    return pruning_of(make_network([64, 100, 10]), chip, integers=False)


def sparsities(point: SaddlePoint) -> np.ndarray[Any, Any]:
    return np.array([one.s for one in point.sparsities])


# ------------------------------------------------------------------------------------------------------- the paper's steps


def test_the_bottom_norm_and_its_slope_through_the_ceiling_are_the_equations() -> None:
    squares = np.array([0.1, 0.5, 2.0, 3.0])
    assert bottom_norm(squares, 0.0) == (0.0, 0.1)
    assert bottom_norm(squares, 1.2) == (pytest.approx(0.6), 2.0)
    for s in (0.0, 1.0, 2.0):  # what one more would add
        assert bottom_norm(squares, s + 1)[0] - bottom_norm(squares, s)[0] == pytest.approx(bottom_norm(squares, s)[1])


def test_the_slope_of_the_objective_is_the_penalty_less_the_price_of_what_is_left(pruning: MinimaxSaddlePruning) -> None:
    """Only the ceiling is passed straight through: y by the next square, z by the secant of the bits."""
    pruning.choose(0.0)
    (point,) = pruning.points
    for one in point.sparsities:
        one.s = 0.6 * one.squares.size + 0.3
    (memory,) = point.limits
    memory.z, memory.allowed = 3.0, 10_000
    used, shares = point.usage(sparsities(point))
    assert used[0] == shares[0].sum() > 0
    expected = [
        one.y * one.squares[int(np.ceil(one.s))] / point.total - 3.0 / 10_000 * share / (one.squares.size - one.s)
        for one, share in zip(point.sparsities, shares[0], strict=True)
    ]
    assert point.slopes(sparsities(point)) == pytest.approx(expected)


def test_the_proximal_step_divides_what_should_be_zero_by_its_penalty(pruning: MinimaxSaddlePruning) -> None:
    for progress in WAY[:5]:
        pruning.choose(progress)
    before = {name: matrix.weight.detach().clone() for name, matrix in pruning.layers.items()}
    pruning.after_step("compress", 0.01)
    y = {part.layer: one.y for one in pruning.points[0].sparsities for part in one.parts}
    for name, matrix in pruning.layers.items():
        kept = pruning.masks[name]
        assert int((~kept).sum()) > 0
        assert torch.equal(matrix.weight[kept], before[name][kept])
        assert torch.allclose(matrix.weight[~kept], before[name][~kept] / (1 + 2 * 0.01 * y[name]))
        assert before[name][kept].abs().min() >= before[name][~kept].abs().max()  # the smallest should be zero


def test_s_grows_y_and_z_rise_where_they_are_violated_and_none_is_negative(pruning: MinimaxSaddlePruning) -> None:
    (point,) = pruning.points
    (memory,) = point.limits
    pruning.choose(0.0)
    assert [one.s for one in point.sparsities] == [0, 0]
    assert memory.z == 1.0
    over = [float(point.usage(sparsities(point))[0][0])]
    pruning.choose(0.05)
    assert memory.z > 1.0  # over its budget
    for progress in WAY[1:]:
        y = [one.y for one in point.sparsities]
        pruning.choose(progress)
        over.append(float(point.usage(sparsities(point))[0][0]))
        assert all(one.s > 0 and one.y >= before for one, before in zip(point.sparsities, y, strict=True))
        assert memory.z >= 0
        for _ in range(50):
            pruning.after_step("compress", 0.01)
    assert over[0] > 2 * 12_000 > 12_000 >= over[-1] > 0.9 * 12_000  # and what there is is used
    assert max(pruning.overruns().values()) <= 0
    y = [one.y for one in point.sparsities]
    pruning.choose(1.3)
    assert [one.y for one in point.sparsities] == pytest.approx(y, rel=1e-3)  # what should be zero is: the penalty rests


def test_z_falls_again_below_the_budget(pruning: MinimaxSaddlePruning) -> None:
    pruning.choose(0.0)
    (point,) = pruning.points
    point.limits[0].allowed, point.limits[0].z = 10**9, 5.0
    point.advance(1e-3, pruning.options)
    assert 0 <= point.limits[0].z < 5.0
    for _ in range(100):
        point.advance(1e-2, pruning.options)
    assert point.limits[0].z == 0.0


def test_the_budget_in_force_falls_in_nodes(make_network: MakeNetwork, make_chip: Callable[..., HardwareProfile]) -> None:
    chip = make_chip(synapse_memory_bits_per_core=12_000, neurons_per_core=256, **AXONS)
    pruning, allowed = pruning_of(make_network([64, 100, 10]), chip, nodes=4, integers=False), []
    for progress in np.linspace(0, 1.25, 26):
        pruning.choose(float(progress))
        allowed.append(pruning.points[0].limits[0].allowed)
    steps = sorted(set(allowed), reverse=True)
    assert len(steps) == 4
    assert allowed == sorted(allowed, reverse=True)
    assert steps[-1] == sum(part.synapse_memory_bits for part in pruning.plan.slices)
    assert np.diff(np.log(steps)) == pytest.approx([np.log(steps[1] / steps[0])] * 3, rel=1e-2)  # each the same share


def test_a_price_is_that_of_a_bit_in_squared_weight(pruning: MinimaxSaddlePruning) -> None:
    """Where s rests, the next weight costs per bit what the price says: z / y, which the exact selection finds by bisection."""
    for progress in np.linspace(0, 1, 60):
        pruning.choose(float(progress))
    saddle = pruning.multipliers["layer1[0:100] synapse_memory_bits"]
    exact = pruning_of(pruning.model.network, pruning.budget.profile, integers=False)
    exact.close()
    assert saddle == pytest.approx(exact.multipliers["layer1[0:100] synapse_memory_bits"], rel=0.7)


def test_one_sparsity_for_all_ranks_all_weights_together(
    make_network: MakeNetwork, make_chip: Callable[..., HardwareProfile]
) -> None:
    chip = make_chip(synapse_memory_bits_per_core=6_000, neurons_per_core=80, **AXONS)
    pruning = pruning_of(make_network([64, 100, 10]), chip, cores=2, scope="network", integers=False)
    (point,) = pruning.points
    assert len(point.sparsities) == 1
    assert len(point.limits) >= 2
    for progress in np.linspace(0, 0.6, 20):
        pruning.choose(float(progress))
    weight = torch.cat([matrix.weight.detach().abs().flatten() for matrix in pruning.layers.values()])
    kept = torch.cat([mask.flatten() for mask in pruning.masks.values()])
    assert 0 < int(kept.sum()) < kept.numel()
    assert weight[kept].min() >= weight[~kept].max()


# ------------------------------------------------------------------------------------------------------------- the end


@examples(25)
@given(
    sizes=st.tuples(st.integers(1, 130), st.integers(1, 100), st.integers(1, 20)),
    cores=st.integers(2, 4),
    axons=st.sampled_from([20, 128]),
    encodings=st.sampled_from([("dense", "sparse"), ("dense",), ("sparse",)]),
    scope=st.sampled_from(["slice", "network"]),
)
def test_a_closed_compression_keeps_every_limit_and_cuts_off_no_slice(
    sizes: tuple[int, ...], cores: int, axons: int, encodings: tuple[str, ...], scope: str,
    make_network: MakeNetwork, make_chip: Callable[..., HardwareProfile],
) -> None:  # fmt: skip
    network = make_network(sizes)
    chip = make_chip(input_axons_per_core=axons, encodings=encodings)
    try:
        pruning = pruning_of(network, chip, cores=cores, scope=scope)
    except nd.BudgetError:
        return  # no method could: a slice needs more
    for progress in WAY:
        pruning.choose(progress)
        assert all(one.s >= 0 and one.y >= 0 for point in pruning.points for one in point.sparsities)
        assert all(limit.z >= 0 for point in pruning.points for limit in point.limits)
        assert all(mask.any() for mask in pruning.masks.values())
        pruning.after_step("compress", 0.01)
    pruning.close()
    assert max(pruning.overruns().values()) <= 0
    assert all(pruning.masks[part.layer][part.start : part.stop].any() for part in pruning.plan.slices)


@pytest.mark.parametrize("encodings", [("dense", "sparse"), ("dense",)])
def test_columns_go_where_axons_bind_or_lists_are_dense(
    encodings: tuple[str, ...], make_network: MakeNetwork, make_chip: Callable[..., HardwareProfile]
) -> None:
    """Single synapses would not free an axon before all of a column's are gone."""
    binding = {"input_axons_per_core": 40} if "sparse" in encodings else {"synapse_memory_bits_per_core": 12_000}
    pruning = pruning_of(make_network([64, 60, 10]), make_chip(encodings=encodings, **binding), cores=2, integers=False)
    for progress in np.linspace(0, 1.2, 40):
        pruning.choose(float(progress))
        for _ in range(20):
            pruning.after_step("compress", 0.01)
    assert any(one.columns is not None and one.s > 10 for point in pruning.points for one in point.sparsities)
    for point in pruning.points:
        used, _ = point.usage(sparsities(point))
        assert (used <= [1.1 * limit.allowed for limit in point.limits]).all()
    columns = [pruning.masks["layer1"][part.start : part.stop].sum(dim=0) for part in pruning.plan.of("layer1")]
    assert sum(int((each == 0).sum()) for each in columns) >= 10
    # whole columns go: the others are not thinned to the same share
    assert all(int(each.max()) == part.neurons for each, part in zip(columns, pruning.plan.of("layer1"), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_that_trains_ends_within_its_budget(kind: str) -> None:
    """Skips, recurrence, tied weights, pools and biases: steps with gradients of a kind, and the check on the weights."""
    model, sample = made(kind)
    limits = KINDS[kind][2]
    chip = with_values(
        nd.load_profile("tiny"), synapse_memory_bits_per_core=limits.get("memory", 2**20),
        neurons_per_core=limits.get("neurons", 64), input_axons_per_core=4096, output_axons_per_core=4096,
    )  # fmt: skip
    network = trainable(model, sample)
    pruning: Any = make_minimax_saddle(nd.narrow_budget(network.network, chip, cores=1), network, PruningSetup(weight_bits=8))
    draw = torch.Generator().manual_seed(0)
    for progress in WAY:
        pruning.choose(progress)
        with pruning.in_force():
            for parameter in network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=draw)
        pruning.before_step()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.01)
        pruning.after_step("compress", 0.01)
    pruning.close()
    assert max(pruning.overruns().values()) <= 0
    assert 0 < pruning.connectivity < 1


def test_the_command_s_method_goes_the_whole_way_to_the_chip(tmp_path: Path) -> None:
    chip, data = with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=3_000), few()
    split = DataSplit(train=data, test=data, input_shape=(12,), n_classes=3)
    options = replace(SHORT, epochs_compress=6, mask_interval=1)
    deployment = nd.compress(
        build(12, 70, 3), torch.zeros(1, 12), chip, split, options, out=tmp_path, cores=1, method="minimax-saddle", lava_samples=0
    )
    assert deployment.placement.fits
    assert 0 < deployment.quantized.n_synapses < 12 * 70 + 70 * 3
    compressing = [record for record in deployment.report.history if record.phase == "compress"]
    prices = [record.multipliers["layer0[0:70] synapse_memory_bits"] for record in compressing]
    assert max(prices) > 0
    assert max(compressing[-1].overruns.values()) < max(compressing[0].overruns.values())


def test_a_wide_readout_leaves_the_layer_before_it_what_it_needs() -> None:
    """By squared weights alone they share two cores so that the network ends at 7 % of 20 classes."""
    centres = (torch.rand(20, 32, generator=torch.Generator().manual_seed(7)) < 0.4) * 0.7
    data = []
    for seed in range(12):
        target = torch.arange(50) % 20
        data.append((centres[target] + 0.2 * torch.rand(50, 32, generator=torch.Generator().manual_seed(seed)), target))
    network = trainable(build(32, 64, 200), torch.zeros(1, 32))
    options = nd.FitOptions(epochs_dense=10, n_steps=6, learning_rate=1e-2)
    fit(network, None, data[:6], options)
    assert evaluate(network, data[6:], options)[0] > 0.8
    chip = with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=4096, neurons_per_core=128)
    budget = nd.narrow_budget(network.network, chip, cores=2)
    method = partial(make_minimax_saddle, setup=PruningSetup())
    fit(network, budget, data[:6], replace(options, epochs_dense=0, epochs_finetune=3, mask_interval=3), method=method)
    assert evaluate(network, data[6:], options)[0] > 0.3


# -------------------------------------------------------------------------------------------------- state and options


@pytest.mark.parametrize("options", [{}, {"scope": "network", "curvature": True, "rest": True}], ids=["paper", "others"])
def test_a_run_broken_off_anywhere_ends_in_the_same_network(options: dict[str, Any], tmp_path: Path) -> None:
    chip = with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=3_000, input_axons_per_core=10)
    schedule = replace(SHORT, epochs_dense=0, epochs_compress=3, mask_interval=2)

    def run(stop: tuple[str, int, int] | None, **more: Any) -> tuple[list[Any], Any]:
        model = trainable(build(12, 70, 3), torch.zeros(1, 12))
        method = partial(MinimaxSaddlePruning, options=MinimaxSaddleOptions(**options))

        def progress(step: Step) -> None:
            if (step.phase, step.epoch, step.step) == stop:
                raise BrokenError

        budget = share_budget(model.network, chip, cores=1)
        _, history = fit(model, budget, few(), schedule, method=method, progress=progress, **more)
        return weights(model), [(record.loss, record.multipliers) for record in history]

    expected, losses = run(None)
    checkpoint = Checkpoint(path=tmp_path / "run.safetensors", every_s=0)
    for stop in (("compress", 0, 1), ("compress", 1, 0), ("compress", 2, 1), ("finetune", 0, 0)):
        with pytest.raises(BrokenError):
            run(stop, checkpoint=checkpoint, resume=True)
    found, history = run(None, checkpoint=checkpoint, resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert history == losses


def test_state_holds_s_y_and_z(pruning: MinimaxSaddlePruning) -> None:
    for progress in WAY[:4]:
        pruning.choose(progress)
    other = MinimaxSaddlePruning(pruning.budget, TrainableNetwork(pruning.model.network), pruning.options)
    other.load_state_dict(pruning.state_dict())
    variables = [[(one.s, one.y) for one in each.points[0].sparsities] for each in (pruning, other)]
    assert variables[0] == variables[1]
    assert all(s > 0 for s, _ in variables[0])
    assert other.points[0].limits[0].z == pruning.points[0].limits[0].z
    for each in (pruning, other):
        each.choose(0.7)
        each.after_step("compress", 0.01)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(pruning.layers.values(), other.layers.values(), strict=True))


@pytest.mark.parametrize(("options", "message"), [
    ({"nodes": 0}, r"^nodes: is 0, not a whole number of at least 1\.$"),
    ({"inner_steps": 1.5}, r"argument 'inner_steps': is of type float \(1\.5\), and has to be int\.$"),
    ({"price_rate": -1.0}, r"^price_rate: is -1\.0, not a number of at least 0\.$"),
    ({"initial_penalty": float("nan")}, r"^initial_penalty: is nan"),
    ({"penalty_rate": -1.0}, r"^penalty_rate: is -1\.0"),
    ({"scope": "layer"}, r"argument 'scope': is of type str \('layer'\), and has to be 'slice' or 'network'\.$"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        MinimaxSaddleOptions(**options)


def test_options_that_it_does_not_have_are_refused(pruning: MinimaxSaddlePruning, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'learning_rate_of_z'"):
        MinimaxSaddleOptions(learning_rate_of_z=1.0)  # type: ignore[call-arg]
    for method, wrong in (("minimax-saddle", MinimaxOptions()), ("minimax", MinimaxSaddleOptions())):
        data = DataSplit(train=few(), test=few(), input_shape=(12,), n_classes=3)
        with pytest.raises(RequestError, match=rf"^minimax: are not options of the method '{method}'\. Pass Minimax"):
            nd.compress(
                build(12, 70, 3), torch.zeros(1, 12), pruning.budget.profile, data, SHORT, out=tmp_path, cores=1, method=method,
                minimax=wrong,
            )  # fmt: skip
