"""Convolutions under a budget: how many channels there is room for, which stay, and that what is deployed keeps to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import MODELS, SAMPLE, lif, pooled, strided
from norse.torch import LIBoxCell, LICell, LIFCell, LIFParameters, SequentialState
from spiking import few

import neurodeploy as nd
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.channel_selection import Channels, KernelSelection
from neurodeploy.compression.minimax import MinimaxPruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.errors import BudgetError, TrainingError
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.passes.dead_neurons import needed_neurons, without_neurons
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.forward import run_model

OPTIONS = nd.FitOptions(epochs_dense=6, epochs_compress=3, epochs_finetune=2, n_steps=6, readout="mean")


def small_core(neurons: int, memory: int = 2**20) -> nd.HardwareProfile:
    """A Loihi 1 with cores of so many neurons and bits for synapses."""
    from conftest import with_values

    return with_values(nd.load_profile("loihi1"), neurons_per_core=neurons, synapse_memory_bits_per_core=memory)


# ---------------------------------------------------------------------------------------------- how many


def test_what_fits_keeps_every_channel() -> None:
    network = nd.extract(strided(), SAMPLE)
    budget = narrow_budget(network, small_core(1024))
    assert [budget.grid(layer.name) for layer in network] == [(12, 6, 6), (20, 2, 2), (10,)]
    assert all(layer.kept == 1 for layer in budget.layers)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cores", [1, 2])
def test_shares_go_by_the_root_of_neurons_and_the_cores_hold_what_is_left(name: str, cores: int) -> None:
    network, chip = nd.extract(MODELS[name](), SAMPLE), small_core(250)
    budget = narrow_budget(network, chip, cores=cores)
    neurons = sum(part.neurons for part in budget.slices)
    assert neurons <= 250 * cores < network.n_neurons
    first, *_, last = [layer for layer in network if len(layer.shape) == 3]
    kept = [budget.grid(layer.name)[0] / layer.shape[0] for layer in (first, last)]
    pool = sum(layer.n_neurons for layer in network if layer.name == "layer3" and name == "normalised")
    root = ((first.n_neurons + pool) / last.n_neurons) ** 0.5
    assert kept[0] < 1
    assert kept[1] == pytest.approx(min(1, root * kept[0]), abs=1 / 12 * root)


def test_pools_keep_the_channels_of_what_they_pool() -> None:
    network = nd.extract(MODELS["normalised"](), SAMPLE)
    budget = narrow_budget(network, small_core(400), cores=1)
    first, pool, _, _ = (budget.grid(layer.name)[0] for layer in network)
    assert first == pool < 12


class SpikeSum(torch.nn.Module):
    """Spikes of two convolutions are added; the first's are read by themselves, too."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((1, 12), (12, 12), (12, 16))
        self.convolutions = torch.nn.ModuleList([torch.nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in widths])
        self.neurons = torch.nn.ModuleList([lif() for _ in widths])
        self.head, self.out = torch.nn.Linear(16 * 64, 10, bias=False), LIBoxCell()

    def forward(self, x: torch.Tensor, state: Any = (None,) * 4) -> Any:
        state, (first, second, third) = list(state), self.convolutions
        z, state[0] = self.neurons[0](first(x), state[0])
        y, state[1] = self.neurons[1](second(z), state[1])
        z, state[2] = self.neurons[2](third(z + y), state[2])
        v, state[3] = self.out(self.head(z.flatten(1)), state[3])
        return v, state


def test_summands_lose_the_same_channels() -> None:
    """Their weights are shared: a channel that one of them keeps and the other loses would be lost to both."""
    torch.manual_seed(0)
    model = trainable(SpikeSum(), SAMPLE)
    compression = compression_of(model, 1000)
    first, second, third = (compression.budget.grid(name)[0] for name in ("convolutions.0", "convolutions.1", "convolutions.2"))
    assert first == second < 12
    assert third < 16
    compression.close()
    kept = needed_neurons(model.to_network())
    assert np.array_equal(kept["convolutions.0"], kept["convolutions.1"])
    left = without_neurons(model.to_network(), kept)
    assert [layer.shape[0] for layer in left][:3] == [first, second, third]
    one, other = left["convolutions.2"].connections
    assert one.synapse == other.synapse


def test_convolutions_stay_whole_where_dense_layers_lose_memory() -> None:
    network = nd.extract(pooled(), SAMPLE)
    budget = narrow_budget(network, small_core(1200, memory=60_000), cores=1)
    kept = {layer.layer: layer.kept for layer in budget.layers}
    assert [kept[name] for name in ("layer0", "layer3")] == [1.0, 1.0]
    assert kept["layer7"] < 1


def test_where_one_channel_is_too_much_it_says_what_does_not_fit() -> None:
    with pytest.raises(BudgetError, match=r"50 neurons of the network on 1 core .* > 30 "):
        narrow_budget(nd.extract(strided(), SAMPLE), small_core(30), cores=1)


# ---------------------------------------------------------------------------------------------- which


def compression_of(model: TrainableNetwork, neurons: int) -> MinimaxPruning:
    return MinimaxPruning(narrow_budget(model.network, small_core(neurons), cores=1), model)


def weight_of(model: TrainableNetwork, name: str) -> torch.Tensor:
    (inlet,) = model[name].inlets
    return inlet.weight


def test_channels_that_the_loss_would_not_miss_go() -> None:
    """Channels whose spikes change nothing, though their weights are the largest, go before those that do."""
    model = trainable(strided(), SAMPLE)
    compression, reading = compression_of(model, 330), weight_of(model, "layer2")
    keep = compression.budget.grid("layer0")[0]
    useless = torch.arange(12) >= keep
    generator = torch.Generator().manual_seed(0)
    reading.data[:, useless] = 100.0
    for _ in range(5):
        reading.grad = torch.randn(reading.shape, generator=generator) * ~useless[:, None, None]
        compression.after_step("compress", 1e-3)
    compression.choose(1.0)
    with compression.in_force():
        heard = reading.abs().sum(dim=(0, 2, 3)) > 0
    assert torch.equal(heard, ~useless)
    assert reading[:, useless].eq(100).all()  # they rest
    compression.hold()
    assert reading[:, useless].eq(0).all()


def test_removed_channels_set_no_scale() -> None:
    """Weights of removed channels are zero at the end: neither the loss nor the chip rounds to a grid that has to hold them."""
    net = MODELS["normalised"]().eval()
    model = trainable(net, SAMPLE)
    budget = narrow_budget(model.network, small_core(400), cores=1)
    compression = MinimaxPruning(budget, model, thresholds=thresholds_of(model))
    own, bias = weight_of(model, "layer0"), model["layer0"].bias
    assert bias is not None
    choice = compression.channels.choices[0]
    choice.saliency.copy_(torch.arange(12.0).flip(0))  # the last channels go
    choice.steps.fill_(1)
    removed = torch.arange(12) >= choice.keep
    own.data[removed] *= 100
    bias.data[removed] = 100.0
    compression.choose(1.0)
    with compression.in_force():
        rounded = own.detach().clone()
    assert rounded[removed].eq(0).all()
    # half a step of a scale of 127 steps, in which weights of both signs are even
    assert (rounded - own)[~removed].abs().max() <= own[~removed].abs().max() / 127
    compression.close()
    trained = model.to_network()
    kept = needed_neurons(trained)
    small, chip = without_neurons(trained, kept), small_core(400)
    assert nd.quantize(small, chip, scales_of=trained) == nd.quantize(small, chip)


def test_channels_go_one_after_the_other_as_the_budget_shrinks() -> None:
    model = trainable(pooled(), SAMPLE)
    channels = Channels(model, compression_of(model, 600).budget)
    counts = []
    for progress in (0.0, 0.25, 0.5, 0.75, 1.0):
        channels.choose(progress)
        counts.append(sum(overrun > 0 for overrun in channels.overruns().values()))
    assert counts[0] == 2
    assert counts[-1] == 0
    assert channels.n_kept < channels.n_weights


def test_gradients_do_not_reach_what_rests() -> None:
    model = trainable(strided(), SAMPLE)
    compression = compression_of(model, 150)
    compression.choose(1.0)
    with compression.in_force():
        run_model(model, torch.ones(2, 3, 1, 8, 8))[-1].square().sum().backward()
    columns, reading = compression.channels.columns(compression.layers["layer5"]), weight_of(model, "layer5")
    assert reading.grad is not None
    assert reading.grad[:, ~columns].eq(0).all()
    assert 0 < int(columns.sum()) < 80


def test_weights_have_the_units_of_the_models_own() -> None:
    """Averages divide the weights behind them, and cells multiply theirs by what their membrane takes in a step."""
    net = pooled()
    model = trainable(net, SAMPLE)
    ratios = {layer.layer.name: 1 / layer.scale for layer in model}
    assert ratios == pytest.approx({"layer0": 1 / 0.3, "layer3": 4 / 0.3, "layer7": 4 / 0.3, "layer9": 10}, rel=1e-6)
    for name, module in (("layer0", net[0]), ("layer3", net[3]), ("layer7", net[7]), ("layer9", net[9])):
        assert torch.allclose(weight_of(model, name).reshape(module.weight.shape), module.weight, rtol=1e-5)


def test_behind_a_normalisation_the_unit_is_the_mean_square_of_its_channels() -> None:
    net = MODELS["normalised"]().eval()
    net[1].running_var.copy_(torch.linspace(0.5, 2, 12))
    model = trainable(net, SAMPLE)
    gains = 1 / torch.linspace(0.5, 2, 12).sqrt()
    assert model["layer0"].scale == pytest.approx(0.3 * float(gains.square().mean().sqrt()), rel=1e-4)
    assert model["layer4"].scale == pytest.approx(0.3, rel=1e-6)


def test_a_model_with_fewer_channels_than_the_budget_is_refused() -> None:
    budget = narrow_budget(nd.extract(strided(), SAMPLE), small_core(1024))
    smaller = strided()
    smaller[0], smaller[2] = torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.Conv2d(4, 20, 3, stride=2, bias=False)
    with pytest.raises(TrainingError, match=r"layer 'layer0': has 4 channels, the budget is for 12"):
        MinimaxPruning(budget, trainable(smaller, SAMPLE))


def test_a_state_is_taken_up_again() -> None:
    models = trainable(strided(), SAMPLE), trainable(strided(), SAMPLE)
    one, other = (compression_of(model, 330) for model in models)
    reading = [weight_of(model, "layer2") for model in models]
    reading[0].grad = torch.ones_like(reading[0])
    one.after_step("compress", 1e-3)
    one.choose(1.0)
    other.load_state_dict(one.state_dict())
    assert other.overruns() == one.overruns()
    with one.in_force(), other.in_force():
        assert torch.equal(*reading)


# ---------------------------------------------------------------------------------------------- the whole way


@pytest.mark.parametrize("name", ["normalised", *(pytest.param(name, marks=pytest.mark.slow) for name in ("strided", "pooled"))])
def test_a_convolutional_network_is_compressed_into_a_core_and_still_reads(name: str, tmp_path: Path) -> None:
    chip, news = small_core(400, memory=120_000), list[Any]()
    made = nd.compress(
        MODELS[name](), SAMPLE, chip, nd.load_data("digits"), OPTIONS, out=tmp_path, cores=1, lava_samples=0, say=news.append
    )
    assert made.report.before is not None
    assert made.report.before.cores_used > 1
    assert made.placement.fits
    assert made.placement.cores_used == 1
    assert any(line.startswith("The chip limits channels: layer0 ") for line in news)
    accuracy = made.report.accuracy
    assert accuracy.dense is not None
    assert accuracy.emulated is not None
    assert accuracy.dense > 0.5
    assert accuracy.emulated > accuracy.dense - 0.15
    if name == "strided":  # what averages, or normalises, meets rounding that the loss does not see
        assert accuracy.compressed == accuracy.quantized == accuracy.emulated
    assert nd.read_netx(tmp_path / "model.net") == made.quantized
    assert np.prod(made.quantized.layers[0].shape) < 12 * 36


# ---------------------------------------------------------------------------------------------- synapses of kernels


def deep() -> SequentialState:
    torch.manual_seed(0)
    neurons = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.3))
    return SequentialState(
        torch.nn.Conv2d(1, 12, 3, padding=1, bias=False), LIFCell(neurons), torch.nn.Conv2d(12, 24, 3, padding=1, bias=False),
        LIFCell(neurons), torch.nn.Conv2d(24, 24, 3, padding=1, bias=False), LIFCell(neurons), torch.nn.Flatten(),
        torch.nn.Linear(384, 3, bias=False), LICell(),
    )  # fmt: skip


def test_kernels_lose_synapses_where_their_memory_binds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neurons and axons would allow all channels; each list of an input channel is as long as the others."""
    model, chip = deep(), small_core(1024, 40_000)
    train, test = ([(x.reshape(-1, 1, 4, 4), y) for x, y in few(n, n_in=16, seed=seed)] for n, seed in ((50, 0), (60, 1)))
    data = DataSplit(train=train, test=test, input_shape=(1, 4, 4), n_classes=3)
    options = nd.FitOptions(epochs_dense=2, epochs_compress=3, epochs_finetune=1, n_steps=6, mask_interval=1, learning_rate=5e-3)
    budgets: list[nd.Budget] = []

    def planned(*given: Any, **options: Any) -> nd.Budget:
        budgets.append(nd.narrow_budget(*given, **options))
        return budgets[-1]

    monkeypatch.setattr("neurodeploy.pipeline.compress.narrow_budget", planned)  # a plan takes as long as the training
    made = nd.compress(model, torch.zeros(1, 1, 4, 4), chip, data, options, out=tmp_path, cores=4, lava_samples=0)
    assert made.placement.fits
    accuracy = made.report.accuracy
    assert accuracy.compressed == accuracy.emulated
    (budget,), pruned = budgets, []
    for name in ("layer2", "layer4"):
        kernel = next(layer for layer in made.quantized if layer.name == name).connections[0].synapse.weight
        for start, stop in {(part.region.starts[0], part.region.stops[0]) for part in budget.of(name)}:
            kept = np.count_nonzero(kernel[start:stop], axis=(0, 2, 3))
            pruned.append(kept.max() < 0.95 * kernel[start:stop, 0].size)
            # rounding to zero takes some more
            assert kept.max() - kept.min() <= 1 + 0.1 * kept.max()
    assert any(pruned)


def test_slices_whose_channels_overlap_all_keep_within_their_weights() -> None:
    """A core may have channels 0..2 of some rows, another 2..3 of others."""
    network = trainable(deep(), torch.zeros(1, 1, 4, 4))
    (inlet,) = network["layer2"].inlets
    caps = ((0, 10, 30), (0, 14, 50), (8, 24, 9), (10, 24, 40))
    kernel = KernelSelection(layer="layer2", inlet=inlet, caps=caps, mask=torch.ones_like(inlet.weight, dtype=torch.bool))
    kernel.choose(1.0, torch.ones(24, dtype=torch.bool), 1.0)
    for start, stop, n in caps:
        assert 0 < kernel.mask[start:stop].sum(dim=(0, 2, 3)).max() <= n


def test_a_choice_of_kernels_is_resumed_as_it_was() -> None:
    chip = small_core(1024, 40_000)
    network = trainable(deep(), torch.zeros(1, 1, 4, 4))
    budget = nd.narrow_budget(network.network, chip, cores=4)
    first, second = MinimaxPruning(budget, network), MinimaxPruning(budget, network)
    for inlet in (inlet for layer in network for inlet in layer.inlets):
        inlet.weight.grad = torch.randn(inlet.weight.shape, generator=torch.Generator().manual_seed(1))
    first.before_step()
    first.choose(1.0)
    assert not all(kernel.mask.all() for kernel in first.channels.kernels)
    second.load_state_dict(first.state_dict())
    for name, mean in first.channels.curvature.means.items():
        assert mean.any()
        assert torch.equal(mean, second.channels.curvature.means[name])
    for one, other in zip(first.channels.kernels, second.channels.kernels, strict=True):
        assert torch.equal(one.mask, other.mask)
        # pruned weights get no gradient
        first.before_step()
        assert one.inlet.weight.grad is not None
        assert not one.inlet.weight.grad[~one.mask].any()


def test_a_core_without_memory_for_one_weight_of_each_channel_is_refused_before_training() -> None:
    network = trainable(deep(), torch.zeros(1, 1, 4, 4))
    budget = nd.narrow_budget(network.network, small_core(1024, 40_000), cores=4)
    slices = tuple(replace(part, synapse_memory_bits=700 if part.layer == "layer4" else part.synapse_memory_bits)
                   for part in budget.slices)  # fmt: skip
    with pytest.raises(BudgetError, match=r"^layer 'layer4': .* bits on core \d for one weight of each input channel > 700 "):
        MinimaxPruning(replace(budget, slices=slices), network)
