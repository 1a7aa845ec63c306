"""Small convolutional networks for digits, of each kind that channels are taken from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from norse.torch import LIBoxCell, LIFBoxCell, SequentialState
from norse.torch.functional.lif_box import LIFBoxParameters
from torch.nn import AvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, MaxPool2d

SAMPLE = torch.zeros(1, 1, 8, 8)


def lif() -> LIFBoxCell:
    return LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.1)))


def strided() -> SequentialState:
    """Two convolutions, the second with a stride, and a readout of pixels."""
    return _seeded(lambda: [
        Conv2d(1, 12, 3, bias=False), lif(), Conv2d(12, 20, 3, stride=2, bias=False), lif(),
        Flatten(), Linear(80, 10, bias=False), LIBoxCell(),
    ])  # fmt: skip


def pooled() -> SequentialState:
    """Averages between convolutions and before a hidden layer."""
    return _seeded(lambda: [
        Conv2d(1, 12, 3, padding=1, bias=False), lif(), AvgPool2d(2), Conv2d(12, 16, 3, padding=1, bias=False), lif(),
        AvgPool2d(2), Flatten(), Linear(64, 48, bias=False), lif(), Linear(48, 10, bias=False), LIBoxCell(),
    ])  # fmt: skip


def normalised() -> SequentialState:
    """Normalised channels, of which the largest go on."""
    return _seeded(lambda: [
        Conv2d(1, 12, 3, padding=1, bias=False), BatchNorm2d(12), lif(), MaxPool2d(2), Conv2d(12, 16, 3, bias=False), lif(),
        Flatten(), Linear(64, 10, bias=False), LIBoxCell(),
    ])  # fmt: skip


MODELS: Mapping[str, Any] = {"strided": strided, "pooled": pooled, "normalised": normalised}


def _seeded(make: Any) -> SequentialState:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return SequentialState(*make())
