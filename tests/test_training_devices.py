"""Training on a torch device: the CPU always, a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from spiking import SHORT, budget_for, few, weights
from test_checkpoints import BrokenError, broken_at
from test_neurons import cells

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.hardware.loading import load_profile
from neurodeploy.simulation.records import EpochRecord
from neurodeploy.training.checkpoint import Checkpoint
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import evaluate, neurons_of, predict
from neurodeploy.training.neurons import run

MEMORY = "synapse_memory_bits_per_core"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPTIONS = replace(SHORT, epochs_dense=20, epochs_compress=6, epochs_finetune=6, distill=0.5, mask_interval=2, learning_rate=1e-2)


def build() -> SequentialState:
    torch.manual_seed(0)
    lif = LIFCell(LIFParameters(tau_mem_inv=torch.tensor(1000.0), tau_syn_inv=torch.tensor(700.0), v_th=torch.tensor(0.3)))
    first, last = torch.nn.Linear(12, 20, bias=False), torch.nn.Linear(20, 3, bias=False)
    return SequentialState(first, lif, last, LICell())


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("kind", ["LIF", "LIFBox", "LI", "LIBox"])
def test_all_steps_at_once_are_what_they_are_on_a_cpu(kind: str, device: str) -> None:
    torch.manual_seed(0)
    cell, inputs, weight = cells(torch.tensor)[kind], torch.randn(5, 30, 70), torch.randn(5, 30, 70)
    found = []
    for where in ("cpu", device):
        given = inputs.to(where).requires_grad_()
        neurons = neurons_of(cell, given)
        assert neurons is not None
        answers = run(neurons, given)
        (slopes,) = torch.autograd.grad((answers * weight.to(where)).sum(), given)
        found.append((answers.detach().cpu(), slopes.cpu()))
    (wanted, expected), (answers, slopes) = found
    same = answers == wanted if kind.startswith("LIF") else torch.isclose(answers, wanted, atol=1e-6)
    assert same.float().mean() > 0.999
    assert torch.isclose(slopes, expected, rtol=1e-4, atol=1e-5).float().mean() > 0.99


def compressed(device: str, **told: Any) -> tuple[SequentialState, tuple[EpochRecord, ...]]:
    """A small model, made to fit half a core of Loihi 1 that is smaller still, and how it came there."""
    model = build()
    profile = load_profile("loihi1")
    memory = profile[MEMORY]
    small = replace(profile, limits={**profile.limits, MEMORY: replace(memory, value=2560)})
    budget, methods = budget_for(model, small, cores=1), list[MinimaxPruning]()

    def method(*given: Any) -> MinimaxPruning:
        methods.append(MinimaxPruning(*given, MinimaxOptions(widths=True)))
        return methods[-1]

    _, history = fit(model.to(device), budget, few(), OPTIONS, method=method, **told)
    assert next(model.parameters()).device.type == device
    assert methods[-1].masks["layer0"].device.type == device
    assert max(methods[-1].overruns().values()) <= 0 < methods[-1].connectivity < 1
    return model, history


def test_a_seed_decides_on_the_network_and_it_learns(device: str) -> None:
    (one, history), (other, _) = compressed(device), compressed(device)
    assert history[-1].loss < history[0].loss
    assert evaluate(one, few(), OPTIONS)[0] > 0.6
    assert_same(one, other)


def test_a_run_that_was_broken_off_goes_on_there(device: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(path=tmp_path / "run.safetensors", every_s=0)
    whole, _ = compressed(device)
    with pytest.raises(BrokenError):
        compressed(device, checkpoint=checkpoint, progress=broken_at("compress", 1, 1))
    again, _ = compressed(device, checkpoint=checkpoint, resume=True)
    assert_same(again, whole)


def test_half_precision_learns_as_well(device: str) -> None:
    model, data = build().to(device), few()
    _, history = fit(model, None, data, replace(OPTIONS, epochs_dense=20, amp="bf16"))
    assert history[-1].loss < history[0].loss
    assert evaluate(model, data, OPTIONS)[0] > 0.6
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert predict(model, data[0][0], OPTIONS).shape == (25,)


def assert_same(one: SequentialState, other: SequentialState) -> None:
    assert all(np.array_equal(a, b) for a, b in zip(weights(one.cpu()), weights(other.cpu()), strict=True))
