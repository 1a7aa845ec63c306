"""Which axons a slice may keep, of those that are worth something."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from neurodeploy.budgets.budget import SliceBudget

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def within_caps(worth: Floats, part: SliceBudget) -> Mask:
    """The axons (n_in,) worth something that a slice may keep: the best of each source's, then the best of all.

    The caps nest (each source within the total), so taking the best first is optimal.
    """
    kept = worth > 0
    for cap in part.sources:
        kept[cap.start : cap.stop] = _first(worth[cap.start : cap.stop], kept[cap.start : cap.stop], cap.axons)
    return _first(worth, kept, part.input_axons)


def _first(worth: Floats, among: Mask, n: int) -> Mask:
    if np.count_nonzero(among) <= n:
        return among
    ranked = np.argsort(np.where(among, -worth, np.inf), kind="stable")
    best = np.zeros_like(among)
    best[ranked[:n]] = True
    return best


def axon_prices(worth: Floats, part: SliceBudget) -> dict[str, float]:
    """What one axon more would be worth, in total and from the source that misses it most; `worth` after its bits are paid."""
    room = replace(part, input_axons=worth.size)
    from_sources = within_caps(worth, room)
    kept = within_caps(worth, part)
    capped = worth[(worth > 0) & ~from_sources]
    return {
        "input_axons": float(worth[from_sources & ~kept].max(initial=0.0)),
        "output_axons": float(capped.max(initial=0.0)) if np.array_equal(from_sources, kept) else 0.0,
    }
