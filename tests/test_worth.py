"""What a core's memory is worth: measured, and only where it binds."""

from __future__ import annotations

import pytest
import torch
from conftest import with_values
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

import neurodeploy as nd
from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.pipeline.evaluation import memory_prices
from neurodeploy.training.encoders import read_out, spikes_of
from neurodeploy.training.forward import run_model

OPTIONS = nd.FitOptions(epochs_dense=4, epochs_compress=2, epochs_finetune=1, n_steps=6, readout="mean", encoder="direct")


def compressed(memory: int) -> tuple[TrainableNetwork, MinimaxPruning, nd.HardwareProfile]:
    torch.manual_seed(0)
    lif = LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3))
    chain = SequentialState(torch.nn.Linear(64, 48, bias=False), LIFCell(lif), torch.nn.Linear(48, 10, bias=False), LICell())
    model = trainable(chain, torch.zeros(1, 64))
    chip = with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=memory)
    budget = nd.share_budget(model.network, chip, cores=1)
    pruning = MinimaxPruning(budget, model, MinimaxOptions(idle=True))
    nd.fit(model, budget, nd.load_data("digits").train, OPTIONS, method=lambda *_: pruning)
    return model, pruning, chip


@pytest.fixture(scope="module")
def tight() -> tuple[TrainableNetwork, MinimaxPruning, nd.HardwareProfile]:
    return compressed(4_000)


def loss_of(model: torch.nn.Module) -> float:
    losses, samples = 0.0, 0
    with torch.no_grad():
        for inputs, target in list(nd.load_data("digits").train)[:16]:
            output = read_out(run_model(model, spikes_of(inputs, model, OPTIONS)), OPTIONS.readout)
            losses += float(OPTIONS.loss(output, target)) * len(inputs)
            samples += len(inputs)
    return losses / samples


def test_a_full_core_has_a_price_and_the_model_is_as_it_was(
    tight: tuple[TrainableNetwork, MinimaxPruning, nd.HardwareProfile],
) -> None:
    model, pruning, _ = tight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    masks = {name: mask.clone() for name, mask in pruning.masks.items()}
    (price,) = memory_prices(model, pruning, nd.load_data("digits").train, OPTIONS)
    assert price.core == 0
    assert price.layers == ("layer0", "layer2")
    assert 100 <= price.bits_less <= 400  # a twentieth, and what ends a unit of memory
    assert price.loss == pytest.approx(loss_of(model), rel=1e-4)
    assert price.loss_with_less > price.loss
    assert price.per_kilobit == pytest.approx((price.loss_with_less - price.loss) / price.bits_less * 1000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(mask, masks[name]) for name, mask in pruning.masks.items())


def test_memory_that_does_not_bind_has_none() -> None:
    model, pruning, _ = compressed(2**20)
    assert memory_prices(model, pruning, nd.load_data("digits").train, OPTIONS) == ()


@pytest.mark.parametrize(("spare", "is_full"), [(0, True), (64, True), (2_000, False)])
def test_a_core_with_memory_to_spare_is_not_full(spare: int, is_full: bool) -> None:
    chip = nd.load_profile("loihi1")
    module = SequentialState(torch.nn.Linear(64, 48, bias=False), LIFCell())
    quantized = nd.quantize(nd.extract(module, torch.zeros(1, 64)), chip)
    used = nd.place(quantized, chip).on_core(0)["synapse_memory_bits"]
    placed = nd.place(quantized, with_values(chip, synapse_memory_bits_per_core=used + spare))
    assert placed.fits
    assert placed.is_full_of_memory(placed.cores[0]) is is_full
