"""Rows of sweeps that nobody ran: accuracies from a curve with noise from a fixed seed, and runs that failed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

Row = dict[str, Any]
KNEES = {"loihi1": 2.0, "loihi2": 1.4, "xylo": 0.9}
"""Cores at which a third of the accuracy is still lost, by target; those of others is 1."""


def drawn_row(target: str = "loihi1", cores: int = 4, seed: int = 0, **changed: object) -> Row:
    """A run that is done, more accurate with more cores; `changed` replaces values."""
    rng = np.random.default_rng([cores, seed, len(target)])
    lost = 0.3 * np.exp(-cores / KNEES.get(target, 1.0))
    priced = target != "xylo"
    return {
        "target": target, "method": "minimax", "learning_rate": 0.003, "seed": seed, "cores": cores, "state": "done",
        "reason": None, "start": "dense" if cores >= 16 else f"{2 * cores} cores",
        "accuracy": round(0.962 - lost + 0.004 * rng.normal(), 4), "accuracy_dense": round(0.965 + 0.003 * (seed - 1), 4),
        "accuracy_compressed": round(0.964 - lost, 4), "test_samples": 454, "fits": True, "cores_used": cores,
        "connectivity": round(min(1.0, cores / 10), 3), "neurons": 730, "synapses": 12_000 * cores,
        "synapse_memory_bits": 123_456 * cores, "binds": "synapse memory of layer0" if cores < 8 else None,
        "energy_j": 1.2e-6 * cores**0.4 if priced else None, "time_s": 2.5e-5 / cores**0.2 if priced else None,
        "energy_assumed": target == "loihi2", "report": f"runs/{target}-minimax-0.003-s{seed}/{cores}-cores/report.html",
        "seconds": 12.3,
    } | changed  # fmt: skip


def failed_row(
    target: str, cores: int, seed: int = 0, reason: str = "BudgetError: layer0: 9 slices > 8", **changed: object
) -> Row:
    """A run that failed: its key, its state and its reason."""
    key = ("target", "method", "learning_rate", "seed", "cores")
    row = drawn_row(target, cores, seed)
    return {name: value if name in key else None for name, value in row.items()} | {"state": "failed", "reason": reason} | changed


def drawn_sweep(
    targets: Iterable[str] = ("loihi1", "loihi2", "xylo"),
    sizes: Iterable[int] = (16, 8, 4, 2, 1),
    n_seeds: int = 3,
    **changed: object,
) -> list[Row]:
    """Every combination, in the order of a sweep; Xylo has one core alone."""
    sizes = list(sizes)
    return [
        drawn_row(target, cores, seed, **changed)
        for target in targets for seed in range(n_seeds) for cores in (sizes[-1:] if target == "xylo" else sizes)
    ]  # fmt: skip
