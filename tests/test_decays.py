"""Decays that learn: they move, stay the chip's, travel with the weights, and a run broken off goes on with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from norse.torch import IAFCell, LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from spiking import SHORT, budget_for, build, few

import neurodeploy as nd
from neurodeploy.compression.module_weights import learn_decays, trainable, write_back
from neurodeploy.errors import DataError, TrainingError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.targets import arithmetic_named
from neurodeploy.targets.loihi.target import DECAY_UNITY
from neurodeploy.training.checkpoint import Checkpoint, load_weights, save_weights
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import run_model

LEARNT = replace(SHORT, learn_decays=True, epochs_dense=3)


def decays(model: torch.nn.Module) -> list[float]:
    return [getattr(cell.p, name).detach().item() for cell in (model[1], model[3]) for name in ("tau_syn_inv", "tau_mem_inv")]  # type: ignore[index]


def of_chips_steps(seed: int = 0) -> SequentialState:
    """A model whose decays are whole steps of the chip's 4096."""
    model = build(12, 8, 3, seed=seed)
    for cell in (model[1], model[3]):
        cell.p = cell.p._replace(tau_syn_inv=torch.tensor(500.0), tau_mem_inv=torch.tensor(250.0))
    model[1].p = model[1].p._replace(v_th=torch.tensor(0.1))
    return model


def test_what_begins_to_learn_is_what_was_there() -> None:
    model = of_chips_steps()
    spikes = (torch.rand(5, 6, 12, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    before = run_model(model, spikes)
    assert learn_decays(model) == 2
    assert torch.allclose(run_model(model, spikes), before, atol=1e-6)
    assert decays(model) == pytest.approx([500.0, 250.0, 500.0, 250.0])
    parameters = len(list(model.parameters()))
    assert learn_decays(model) == 2  # those that learn already stay as they are
    assert len(list(model.parameters())) == parameters == 6


def test_decays_learn_if_asked_to_and_are_steps_of_the_chip() -> None:
    still, learnt = of_chips_steps(), of_chips_steps()
    fit(still, None, few(), replace(LEARNT, learn_decays=False))
    fit(learnt, None, few(), LEARNT)
    assert decays(still) == [500.0, 250.0, 500.0, 250.0]
    assert all(a != pytest.approx(b, rel=1e-3) for a, b in zip(decays(learnt), decays(still), strict=True))
    for layer in extract(learnt, torch.zeros(1, 12)):
        for share in (layer.neuron.current_decay, layer.neuron.voltage_decay):
            assert float(share) * DECAY_UNITY == pytest.approx(round(float(share) * DECAY_UNITY), abs=1e-3)


def test_the_gradient_is_that_of_a_small_change() -> None:
    model = of_chips_steps()
    learn_decays(model)
    spikes = (torch.rand(5, 6, 12, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    log, step = model[3].p.log_tau_mem_inv, 0.02  # of the readout: no spike of its own is in the way
    run_model(model, spikes).sum().backward()
    slope, sums = float(log.grad), []
    for change in (-step, step):
        with torch.no_grad():
            log.add_(change)
            sums.append(float(run_model(model, spikes).sum()))
            log.sub_(change)
    assert slope == pytest.approx((sums[1] - sums[0]) / (2 * step), rel=0.05)


@pytest.mark.parametrize(("towards", "limit"), [(5.0, 1000.0), (-50.0, 1000.0 / DECAY_UNITY)])
def test_a_decay_stays_within_what_the_chip_has(towards: float, limit: float) -> None:
    model = of_chips_steps()
    learn_decays(model)
    with torch.no_grad():
        model[1].p.log_tau_syn_inv.add_(towards)
    assert decays(model)[0] == pytest.approx(limit, rel=1e-5)
    run_model(model, torch.ones(2, 3, 12)).sum().backward()
    assert model[1].p.log_tau_syn_inv.grad.isfinite()


def test_each_neuron_may_have_its_own_and_a_box_has_no_current() -> None:
    each = LIFParameters(tau_mem_inv=torch.linspace(100.0, 400.0, 4))
    model = SequentialState(torch.nn.Linear(3, 4), LIFCell(each), torch.nn.Linear(4, 4), LIFBoxCell())
    assert learn_decays(model) == 2
    assert model[1].p.log_tau_mem_inv.shape == (4,)
    assert {name for name, _ in model[3].named_parameters()} == {"p.log_tau_mem_inv"}


def test_a_networks_decays_learn_and_go_back_to_the_cells() -> None:
    """One number a layer, one a neuron, and none for a current that lasts one step."""
    each = LIFParameters(torch.tensor(500.0), torch.tensor([125.0, 250.0, 500.0, 750.0]), v_th=torch.tensor(0.1))
    box = LIFBoxCell(LIFBoxParameters(torch.tensor(250.0), v_th=torch.tensor(0.1)))
    readout = LICell(LIParameters(torch.tensor(500.0), torch.tensor(125.0)))
    model = SequentialState(torch.nn.Linear(12, 4), LIFCell(each), torch.nn.Linear(4, 4), box, torch.nn.Linear(4, 3), readout)
    torch.nn.init.uniform_(model[0].weight, 0, 0.5, generator=torch.Generator().manual_seed(0))
    sample, spikes = torch.zeros(1, 12), (torch.rand(5, 9, 12, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    network, arithmetic = trainable(model, sample), arithmetic_named()
    before = run_model(network, spikes)
    assert network.learn_decays(arithmetic) == 3
    assert torch.allclose(run_model(network, spikes), before, atol=1e-5)
    learnt = {name: parameter for name, parameter in network.named_parameters() if "decays" in name}
    assert {name.split(".", 1)[1]: parameter.shape for name, parameter in learnt.items()} == {
        "layer0.decays.current_decay": (), "layer0.decays.voltage_decay": (4,), "layer2.decays.voltage_decay": (),
        "layer4.decays.current_decay": (), "layer4.decays.voltage_decay": (),
    }  # fmt: skip
    run_model(network, spikes)[-1].sum().backward()
    assert all(parameter.grad is not None for parameter in learnt.values())
    with torch.no_grad():
        for n, parameter in enumerate(learnt.values()):
            parameter.sub_(0.1 + 0.1 * n)
    learn_decays(model, arithmetic)
    assert write_back(network, model, sample)
    for a, b in zip(extract(model, sample), network.to_network(), strict=True):
        for share in ("current_decay", "voltage_decay"):
            assert np.allclose(getattr(a.neuron, share), getattr(b.neuron, share), rtol=1e-6)
            shares = np.asarray(getattr(b.neuron, share)) * DECAY_UNITY
            assert np.allclose(shares, np.round(shares))
    assert torch.allclose(run_model(model, spikes), run_model(network, spikes), atol=1e-4)


def test_where_nothing_decays_it_says_so() -> None:
    model = SequentialState(torch.nn.Linear(12, 3), IAFCell())
    with pytest.raises(TrainingError, match=r"^model: has no cells whose decays could learn\. Leave learn_decays out\.$"):
        fit(model, None, few(), LEARNT)


def test_decays_travel_with_the_weights(tmp_path: Path) -> None:
    model, other = of_chips_steps(), of_chips_steps(seed=1)
    fit(model, None, few(), LEARNT)
    save_weights(model, tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors")
    assert decays(other) == decays(model)
    with pytest.raises(DataError, match=r"'1\.p\.log_tau_mem_inv' belong to no module"):
        load_weights(torch.nn.Sequential(torch.nn.Linear(12, 8, bias=False)), tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_leave_decays_alone(tmp_path: Path) -> None:
    model, larger = of_chips_steps(), build(12, 9, 3)
    learn_decays(model)
    save_weights(model, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="have shape"):
        load_weights(larger, tmp_path / "w.safetensors")
    assert {name for name, _ in larger.named_parameters()} == {"0.weight", "2.weight"}


def test_a_run_with_learning_decays_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    def stop(record: nd.EpochRecord) -> None:
        if (record.phase, record.epoch) == ("compress", 0):
            raise KeyboardInterrupt

    whole, broken = of_chips_steps(), of_chips_steps()
    budget = budget_for(whole, nd.load_profile("tiny"), 1)
    fit(whole, budget, few(), LEARNT)
    keep = Checkpoint(path=tmp_path / "c.safetensors", every_s=0)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, budget, few(), LEARNT, checkpoint=keep, on_epoch=stop)
    again = of_chips_steps(seed=3)
    fit(again, budget, few(), LEARNT, checkpoint=keep, resume=True)
    assert decays(again) == decays(whole)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_compress_deploys_what_has_learnt(tmp_path: Path) -> None:
    model, data = build(64, 48, 10), nd.load_data("digits")
    options = nd.FitOptions(epochs_dense=3, epochs_compress=2, epochs_finetune=1, n_steps=6, learn_decays=True)
    made = nd.compress(model, torch.zeros(1, 64), nd.load_profile("tiny"), data, options, out=tmp_path, cores=2, lava_samples=0)
    accuracy = made.report.accuracy
    assert accuracy is not None
    assert abs(accuracy.emulated - accuracy.compressed) < 0.03
    fresh = build(64, 48, 10, seed=1)
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert decays(fresh) == decays(model) != [500.0, 300.0] * 2
    for layer, chip in zip(extract(fresh, torch.zeros(1, 64)), made.quantized, strict=True):
        assert np.round(layer.neuron.voltage_decay * DECAY_UNITY) == chip.neuron.dv
