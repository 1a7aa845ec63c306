"""A layer through all steps at once: Norse's spikes bit for bit, autograd's gradients to rounding, else Norse itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from norse.torch import LIBoxCell, LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract

from neurodeploy.training.forward import neurons_of, run_model
from neurodeploy.training.neurons import run

Cell = Callable[[], torch.nn.Module]
TRITON = tuple(int(part) for part in version("triton").split(".")[:2]) if find_spec("triton") else (0, 0)
MEMBRANE = ("tau_mem_inv", "v_leak")


def cells(spread: Callable[[float], torch.Tensor]) -> dict[str, torch.nn.Module]:
    """One of each kind, its numbers made by `spread`."""
    numbers = {"tau_mem_inv": spread(310.0), "v_leak": spread(0.07), "v_th": spread(0.4), "v_reset": spread(-0.11)}
    current = {"tau_syn_inv": spread(470.0)}
    return {
        "LIF": LIFCell(LIFParameters(**numbers, **current)),
        "LIFBox": LIFBoxCell(LIFBoxParameters(**numbers)),
        "LI": LICell(LIParameters(**{name: numbers[name] for name in MEMBRANE}, **current)),
        "LIBox": LIBoxCell(LIBoxParameters(**{name: numbers[name] for name in MEMBRANE})),
    }


def norse(cell: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    state, answers = None, []
    for step in inputs:
        answer, state = cell(step, state)
        answers.append(answer)
    return torch.stack(answers)


@pytest.mark.parametrize("kind", ["LIF", "LIFBox", "LI", "LIBox"])
@pytest.mark.parametrize("shape", [(5, 3, 7), (4, 70, 800), (3, 2, 4, 5, 6)], ids=str)
@pytest.mark.parametrize("spread", [torch.tensor, lambda x: x * torch.linspace(0.5, 1.5, 800)], ids=["one", "each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["in compiled loops", "in torch"])
def test_all_steps_at_once_are_norses(
    kind: str, shape: tuple[int, ...], spread: Callable[[float], torch.Tensor], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    cell = cells(lambda x: spread(x)[: shape[-1]].to(dtype) if spread(x).ndim else spread(x))[kind]
    inputs, weights = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    ours, theirs = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
    neurons = neurons_of(cell, inputs)
    assert neurons is not None
    answers, wanted = run(neurons, ours), norse(cell, theirs)
    assert torch.equal(answers, wanted)
    assert kind not in ("LIF", "LIFBox") or 0 < float(wanted.detach().mean()) < 1
    (answers * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(run(neurons, inputs), wanted)


@pytest.mark.skipif(TRITON < (3, 9), reason="no Triton here that interprets kernels beside this NumPy, and compiles for any GPU")
@pytest.mark.parametrize("mode", [{"TRITON_INTERPRET": "1"}, {}], ids=["are the compiled loops", "compile"])
def test_the_kernels_for_a_gpu(mode: dict[str, str]) -> None:
    run = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("kernel_runs.py"))]
    told = subprocess.run(run, env={**os.environ, **mode}, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout.strip()) == (0, "done"), told.stderr


def chain(cell: torch.nn.Module) -> SequentialState:
    torch.manual_seed(1)
    return SequentialState(torch.nn.Linear(6, 9), cell, torch.nn.Linear(9, 4), LICell())


def by_step(model: SequentialState, spikes: torch.Tensor) -> torch.Tensor:
    return norse(model, spikes.movedim(1, 0))


def learning_threshold() -> torch.nn.Module:
    cell = LIFCell()
    cell.p = cell.p._replace(v_th=torch.nn.Parameter(torch.tensor(0.1)))
    return cell


@pytest.mark.parametrize("make", [
    lambda: LIFCell(LIFParameters(method="triangle", v_th=torch.tensor(0.1))),
    lambda: LIFBoxCell(LIFBoxParameters(reset_method=reset_subtract, v_th=torch.tensor(0.05))),
    lambda: LIFBoxCell(LIFBoxParameters(v_th=torch.full((8, 9), 0.05))),
    lambda: LIFCell(LIFParameters(v_th=torch.full((9,), 0.1, dtype=torch.float64))),
    learning_threshold,
], ids=["surrogate", "reset", "a threshold a sample", "doubles", "a threshold that learns"])  # fmt: skip
def test_what_is_not_usual_is_left_to_norse(make: Cell) -> None:
    model, spikes = chain(make()), (torch.rand(8, 10, 6) < 0.5).float()
    model[2].to(model[1](model[0](spikes[:, 0]))[0].dtype)
    gradients = []
    for answer in (run_model, by_step):
        model.zero_grad()
        learning = [number for number in model[1].p if isinstance(number, torch.nn.Parameter)]
        gradients.append(torch.autograd.grad(answer(model, spikes).square().sum(), [*model.parameters(), *learning]))
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients[0])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_who_listens_hears_every_step() -> None:
    model, heard = chain(LIFCell()), []
    model[1].register_forward_hook(lambda *_: heard.append(1))
    run_model(model, torch.ones(2, 5, 6))
    assert len(heard) == 5


def test_a_convolution_runs_layer_by_layer() -> None:
    torch.manual_seed(2)
    model = SequentialState(
        torch.nn.Conv2d(2, 3, 3), LIFCell(LIFParameters(v_th=torch.tensor(0.05))), torch.nn.AvgPool2d(2), torch.nn.Flatten(),
        torch.nn.Linear(12, 4), LICell(),
    )  # fmt: skip
    spikes = (torch.rand(3, 6, 2, 6, 6) < 0.5).float()
    torch.testing.assert_close(run_model(model, spikes), by_step(model, spikes))


def test_an_input_that_never_changes_is_weighed_once() -> None:
    rows: list[int] = []
    model = chain(LIFCell(LIFParameters(v_th=torch.tensor(0.05))))
    model[0].register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    images = torch.rand(4, 6)
    still = images.unsqueeze(1).expand(-1, 7, -1)
    gradients: list[Any] = []
    for spikes in (still, still.contiguous()):
        model.zero_grad()
        run_model(model, spikes).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert rows == [4, 4 * 7]
    assert torch.equal(run_model(model, still), run_model(model, still.contiguous()))
    for once, always in zip(*gradients, strict=True):
        torch.testing.assert_close(once, always, rtol=1e-4, atol=1e-6)


def test_half_precision_is_answered_in_single() -> None:
    inputs = torch.randn(3, 4, 5).bfloat16().requires_grad_()
    cell = cells(torch.tensor)["LIF"]
    neurons = neurons_of(cell, inputs)
    assert neurons is not None
    answers = run(neurons, inputs)
    assert torch.equal(answers, norse(cell, inputs.detach().float()))
    answers.sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.dtype == torch.bfloat16
