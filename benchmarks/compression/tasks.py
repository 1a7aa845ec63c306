"""Tasks: networks, their data, and how they are trained before compression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

from benchmarks import mnist
from neurodeploy.training.batches import Augmentation, DataSplit, RandomAffine, RandomShift
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.options import FitOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A network to compress.

    Attributes
    ----------
    make : callable
        Returns the untrained model of a seed.
    input_shape : tuple of int
        Of one step.
    data : str or None
        Name for `neurodeploy.load_data`, or None for MNIST from the file that the command names.
    augmentations : tuple
        Augmentations of the images; the same for the dense network, our method and every rival.
    dense : FitOptions
        Options of the dense training, and of the compression where it has none of its own.
    """

    make: Callable[[int], torch.nn.Module]
    input_shape: tuple[int, ...]
    data: str | None
    augmentations: tuple[Augmentation, ...]
    batch: int
    dense: FitOptions

    def load(self, file: Path | None, *, choosing: bool) -> DataSplit:
        """Training and test data; with `choosing`, five sixths and a sixth of the training data."""
        split = load_data(self.data if self.data is not None else f"mnist:{file}", batch_size=self.batch)
        return (split.for_choices() if choosing else split).augmented(*self.augmentations)


def small(seed: int) -> SequentialState:
    """64-96-10 for the digits of 8 x 8 pixels."""
    torch.manual_seed(seed)
    lif = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    return SequentialState(
        torch.nn.Linear(64, 96, bias=False), LIFCell(lif), torch.nn.Linear(96, 10, bias=False), LICell()
    )  # fmt: skip


def convolutional(seed: int) -> SequentialState:
    """28 x 28 - 16C5/2 - 32C3/2 - 10 for MNIST: 3,114 neurons, of which 3,104 in images."""
    torch.manual_seed(seed)
    lif = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    return SequentialState(
        torch.nn.Conv2d(1, 16, 5, stride=2, bias=False), LIFCell(lif),
        torch.nn.Conv2d(16, 32, 3, stride=2, bias=False), LIFCell(lif), torch.nn.Flatten(),
        torch.nn.Linear(800, 10, bias=False), LICell(),
    )  # fmt: skip


TASKS = {
    "mnist-2fc": Task(
        make=mnist.network, input_shape=(784,), data=None, augmentations=(RandomShift(1),), batch=256,
        dense=FitOptions(epochs_dense=30, learning_rate=2e-3, n_steps=8, readout="mean", mask_interval=20),
    ),
    "mnist-2fc-affine": Task(
        make=mnist.network, input_shape=(784,), data=None, augmentations=(RandomAffine(),), batch=256,
        dense=FitOptions(epochs_dense=40, learning_rate=2e-3, n_steps=8, readout="mean", mask_interval=20),
    ),
    "mnist-conv": Task(
        make=convolutional, input_shape=(1, 28, 28), data=None, augmentations=(RandomShift(1),), batch=128,
        dense=FitOptions(epochs_dense=8, learning_rate=2e-3, n_steps=8, readout="mean", mask_interval=20),
    ),
    "digits": Task(
        make=small, input_shape=(64,), data="digits", augmentations=(), batch=64,
        dense=FitOptions(epochs_dense=60, learning_rate=4e-3, n_steps=8, readout="mean", mask_interval=5),
    ),
}  # fmt: skip
