"""The loop from outside: digits learnt and compressed into a budget, and the same again under a seed."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from spiking import SHORT, budget_for, build, few, weights

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.compression.module_weights import trainable
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.training.batches import Batches, DataSplit
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.encoders import decide, encode
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import evaluate, predict, run_model
from neurodeploy.training.options import FitOptions, ProgressBars, Step

# ------------------------------------------------------------------------------------------- digits, compressed into three cores


@pytest.fixture(scope="module")
def digits() -> DataSplit:
    return load_data("digits")


@pytest.fixture(scope="module")
def fitted(digits: DataSplit, tiny: HardwareProfile) -> Any:
    model, steps = build(64, 150, 10), list[Step]()
    budget = budget_for(model, tiny, cores=3)
    options = FitOptions(epochs_dense=12, epochs_compress=10, epochs_finetune=6, readout="mean")
    returned, history = fit(model, budget, digits.train, options, test=digits.test, progress=steps.append)
    assert returned is model
    return model, budget, history, steps


def test_digits_fit_the_budget_exactly(fitted: Any) -> None:
    model, budget, history, *_ = fitted
    network = extract(model, torch.zeros(1, 64))
    budget.check(network)
    assert network.connectivity < 0.5
    assert history[-1].connectivity == pytest.approx(network.connectivity, abs=0.02)
    assert max(history[-1].overruns.values()) <= 0 < max(history[0].overruns.values())


def test_digits_are_learnt_and_stay_learnt(fitted: Any) -> None:
    dense = [record for record in fitted[2] if record.phase == "dense"][-1]
    assert dense.test_accuracy > 0.96
    assert fitted[2][-1].test_accuracy > dense.test_accuracy - 0.015


def test_without_integers_little_is_left_to_cut_when_the_compression_closes(digits: DataSplit, tiny: HardwareProfile) -> None:
    chain, last = build(64, 150, 10), []
    model = trainable(chain, torch.zeros(1, 64))
    soft = partial(MinimaxPruning, options=MinimaxOptions(integers=False, penalty_rate=100))
    options = FitOptions(epochs_dense=3, epochs_compress=6, epochs_finetune=0, readout="mean")
    fit(model, budget_for(chain, tiny, 3), digits.train, options, method=soft, progress=lambda _: last.append(weights(model)))
    after = weights(model)
    heard = [*(listener.any(axis=0) for listener in after[1:]), slice(None)]  # the others' synapses change nothing
    for before, left, rows in zip(last[-1], after, heard, strict=True):
        assert (left == 0).mean() > 0.3
        assert (before[rows][left[rows] == 0] ** 2).sum() < 1e-3 * (before**2).sum()


def test_the_history_tells_the_story(fitted: Any) -> None:
    _, budget, history, *_ = fitted
    assert [(record.phase, record.epoch) for record in history] == [
        *(("dense", n) for n in range(12)), *(("compress", n) for n in range(10)), *(("finetune", n) for n in range(6)),
    ]  # fmt: skip
    shares = [record.connectivity for record in history]
    assert shares[11] == 1.0
    assert shares[12] > shares[15] > shares[-1]
    assert {name.rpartition(" ")[0] for name in history[-1].overruns} == {part.name for part in budget.slices}
    binding = f"{budget.slices[0].name} synapse_memory_bits"
    assert history[11].multipliers[binding] == 0
    assert history[15].multipliers[binding] > 0
    assert all(record.seconds > 0 for record in history)


def test_progress_is_told_of_every_step(fitted: Any) -> None:
    steps = fitted[3]
    assert [step.phase for step in steps] == ["dense"] * 12 * 21 + ["compress"] * 10 * 21 + ["finetune"] * 6 * 21
    assert (steps[-1].epoch, steps[-1].epochs, steps[-1].step, steps[-1].steps) == (5, 6, 20, 21)
    assert steps[0].overrun is None
    assert steps[12 * 21].overrun > 0 >= steps[-1].overrun
    assert set(steps[-1].overruns) == set(steps[-1].prices) == {"synapse_memory_bits", "input_axons", "output_axons"}
    history = fitted[2]
    for epoch, last in enumerate(steps[20::21]):
        assert last.accuracy == history[epoch].train_accuracy
    for resource, price in steps[22 * 21 - 1].prices.items():
        assert price == max(z for name, z in history[21].multipliers.items() if name.endswith(resource))


def test_what_was_measured_is_what_the_model_answers(fitted: Any, digits: DataSplit) -> None:
    model, _, history, *_ = fitted
    options = FitOptions(readout="mean")
    accuracy, samples = evaluate(model, digits.test, options)
    assert samples == 454
    assert accuracy == history[-1].test_accuracy
    inputs, target = next(iter(digits.test))
    in_time = run_model(model, encode(inputs.flatten(1), 12))
    assert in_time.shape == (12, len(target), 10)
    labels = predict(model, inputs, options)
    assert np.array_equal(labels, decide(in_time.movedim(0, -1).detach().numpy(), options.readout))
    assert np.array_equal(labels, predict(model, encode(inputs, 12), options))  # spikes in time need no encoder


# ---------------------------------------------------------------------------------------------- the same again


def test_a_seed_decides_on_everything(tiny: HardwareProfile) -> None:
    data = Batches(torch.cat([x for x, _ in few()]), torch.cat([y for _, y in few()]), 8)

    def run(seed: int) -> tuple[list[np.ndarray[Any, Any]], list[float]]:
        model = build(12, 70, 3)
        _, history = fit(model, budget_for(model, tiny, 2), data, replace(SHORT, seed=seed))
        return weights(model), [record.loss for record in history]

    (first, losses), (again, losses_again), (other, _) = run(1), run(1), run(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert losses == losses_again
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_callers_own_randomness_is_left_alone() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    model = build(12, 5, 3)
    torch.manual_seed(7)
    fit(model, None, few(), SHORT)
    assert torch.equal(torch.rand(3), wanted)


def test_masked_weights_stay_exactly_zero_while_fine_tuning(make_chip: Callable[..., HardwareProfile]) -> None:
    chain, zeros = build(12, 70, 3), []
    model = trainable(chain, torch.zeros(1, 12))
    (inlet,) = model["layer0"].inlets
    chip = make_chip(synapse_memory_bits_per_core=2048)

    def watch(step: Step) -> None:
        if step.phase == "finetune":
            zeros.append(inlet.weight.detach() == 0)

    fit(model, budget_for(chain, chip, 2), few(), replace(SHORT, epochs_finetune=3), progress=watch)
    assert len(zeros) == 6
    assert zeros[0].sum() > 0
    assert all(torch.equal(zero & zeros[0], zeros[0]) for zero in zeros)


def test_phases_after_the_dense_one_start_with_small_steps(tiny: HardwareProfile) -> None:
    rates = list[list[float]]()

    class Recorded(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates[-1].append(float(self.param_groups[0]["lr"]))
            return super().step(closure)

    def recorded(parameters: Any, learning_rate: float) -> torch.optim.Optimizer:
        rates.append([])
        return Recorded(parameters, lr=learning_rate)

    model = build(12, 70, 3)
    data = Batches(torch.cat([x for x, _ in few()]), torch.cat([y for _, y in few()]), 1)
    options = FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=1, learning_rate=1e-3, optimizer=recorded)
    fit(model, budget_for(model, tiny, 2), data, options)
    dense, compress, finetune = rates
    assert compress[0] <= 0.1e-3 < compress[5] < compress[-1] == 1e-3
    assert dense[0] == 1e-3 > dense[-1]
    assert finetune[0] <= 0.1e-3 < max(finetune) > finetune[-1]


def test_without_a_budget_only_the_dense_phase_runs() -> None:
    _, history = fit(build(12, 5, 3), None, few(), SHORT)
    assert [record.phase for record in history] == ["dense"]
    assert (history[0].connectivity, dict(history[0].overruns), history[0].test_accuracy) == (1.0, {}, None)


def test_a_trained_model_is_pruned_at_once_where_no_epochs_are_given(make_chip: Callable[..., HardwareProfile]) -> None:
    model = build(12, 70, 3)
    budget = budget_for(model, make_chip(synapse_memory_bits_per_core=2048), 2)
    before = weights(model)
    _, history = fit(model, budget, few(), FitOptions(epochs_dense=0, epochs_compress=0, epochs_finetune=0))
    assert history == ()
    budget.check(extract(model, torch.zeros(1, 12)))
    for after, was in zip(weights(model), before, strict=True):
        step = np.abs(after).max() / 127
        assert ((after == 0) | (np.abs(after - was) <= step) | (np.abs(was) > np.abs(after).max())).all()
        assert len(np.unique(after)) <= 255


def test_modes_come_back() -> None:
    model = build(12, 5, 3).eval()
    model[0].train()
    fit(model, None, few(), SHORT, test=few())
    assert (model.training, model[0].training, model[2].training) == (False, True, False)


# ---------------------------------------------------------------------------------------------- progress


PRESSED = Step(
    phase="compress", epoch=0, epochs=2, step=3, steps=4, loss=0.5, accuracy=0.934,
    overruns={"synapse_memory_bits": 1.25, "input_axons": -0.03, "output_axons": 0.0},
    prices={"synapse_memory_bits": 1.24e-3, "input_axons": 0.0, "output_axons": 0.46},
)  # fmt: skip


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_are_drawn_on_a_terminal_and_not_in_a_pipe(is_terminal: bool) -> None:
    drawn = io.StringIO()
    with ProgressBars(Console(file=drawn, force_terminal=is_terminal, color_system=None, width=80)) as progress:
        progress(replace(PRESSED, phase="dense", accuracy=float("nan"), overruns={}, prices={}))
        progress(PRESSED)
    text = drawn.getvalue()
    assert bool(text) == is_terminal
    for part in ("dense", "loss 0.500  ", "compress", "4/8", "loss 0.500, 93.4% right"):
        assert (part in text) == is_terminal
    assert ("\nmemory +125% z 1.2e-03, axons in -3%, axons out +0% z 4.6e-01" in text) == is_terminal


def test_the_display_fits_80_columns_where_numbers_are_long() -> None:
    drawn, resources = io.StringIO(), ("synapse_memory_bits", "input_axons", "output_axons")
    step = replace(
        PRESSED, phase="finetune", epochs=100, epoch=99, steps=9999, step=9998, loss=12.345, accuracy=1.0,
        overruns=dict.fromkeys(resources, 12.3), prices=dict.fromkeys(resources, 1.2e-10),
    )  # fmt: skip
    with ProgressBars(Console(file=drawn, force_terminal=True, color_system=None, width=80)) as progress:
        progress(step)
    text = drawn.getvalue()
    for part in ("999900/999900", "loss 12.345, 100.0% right", "axons out +1230% z 1.2e-10"):
        assert part in text
    assert "…" not in text
