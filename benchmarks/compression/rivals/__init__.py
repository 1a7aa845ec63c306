"""Rivals: published methods that compress a spiking network into a chip's memory."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.compression.rivals.admm import ADMM
from benchmarks.compression.rivals.fisher import FisherNeurons
from benchmarks.compression.rivals.knapsack import Knapsack
from benchmarks.compression.rivals.magnitude import Gradual, Lottery, OneShot
from benchmarks.compression.rivals.rewiring import STDS, GradR
from benchmarks.compression.rivals.rigl import RigL
from neurodeploy.compression.pruning_method import Pruning

RIVALS: dict[str, Callable[..., Pruning]] = {
    "one-shot": OneShot,
    "gradual": Gradual,
    "lottery": Lottery,
    "admm": ADMM,
    "rigl": RigL,
    "grad-r": GradR,
    "stds": STDS,
    "fisher-neurons": FisherNeurons,
    "knapsack": Knapsack,
}
"""Each is made by ``(budget, model, width=, thresholds=)``, and by what is its own."""
