"""Small Norse models, data that they can learn in a moment, and the options of a run that takes one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.budget import Budget
from neurodeploy.training.checkpoint import Checkpoint
from neurodeploy.training.options import FitOptions, Step

torch.set_num_threads(1)  # as fast for models this small, and many times faster where others use the cores too

Data = list[tuple[torch.Tensor, torch.Tensor]]

SHORT = FitOptions(epochs_dense=1, epochs_compress=2, epochs_finetune=1, n_steps=4, mask_interval=2)


def build(*sizes: int, seed: int = 0) -> SequentialState:
    torch.manual_seed(seed)
    lif = LIFParameters(tau_mem_inv=torch.tensor(300.0), tau_syn_inv=torch.tensor(500.0))
    li = LIParameters(tau_mem_inv=torch.tensor(300.0), tau_syn_inv=torch.tensor(500.0))
    modules: list[torch.nn.Module] = []
    for depth in range(1, len(sizes)):
        cell = LICell(li) if depth == len(sizes) - 1 else LIFCell(lif)
        modules += [torch.nn.Linear(sizes[depth - 1], sizes[depth], bias=False), cell]
    return SequentialState(*modules)


def budget_for(model: SequentialState, profile: HardwareProfile, cores: int) -> Budget:
    return share_budget(extract(model, torch.zeros(1, model[0].in_features)), profile, cores=cores)


def few(n: int = 40, n_in: int = 12, n_classes: int = 3, seed: int = 0) -> Data:
    """Batches of images of `n_classes` classes, each class bright in its own places."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % n_classes
    images = torch.rand(n, n_in, generator=generator) * 0.5
    images[torch.arange(n_in) % n_classes == target.unsqueeze(1)] += 0.5
    return [(images[:25], target[:25]), (images[25:], target[25:])]


def weights(model: torch.nn.Module) -> list[np.ndarray[Any, Any]]:
    return [parameter.detach().numpy().copy() for parameter in model.parameters()]


class BrokenError(Exception):
    """An interruption of a training run."""


def broken_at(*wanted: Any) -> Any:
    """Progress that interrupts a run at a (phase, epoch, step)."""

    def stop(step: Step) -> None:
        if (step.phase, step.epoch, step.step) == wanted:
            raise BrokenError

    return stop


def assert_resumes(run: Callable[..., list[np.ndarray[Any, Any]]], stops: Iterable[tuple[Any, ...]], folder: Path) -> None:
    """Whether a run that is broken off at each (phase, epoch, step), and resumed, has the weights of one that is not."""
    checkpoint = Checkpoint(path=folder / "run.safetensors", every_s=0)
    for stop in stops:
        with pytest.raises(BrokenError):
            run(checkpoint=checkpoint, resume=True, progress=broken_at(*stop))
    found = run(checkpoint=checkpoint, resume=True)
    assert all(np.array_equal(a, b) for a, b in zip(found, run(), strict=True))
